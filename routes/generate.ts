import multipart from '@fastify/multipart'
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyRequest } from 'fastify'
import { Type } from '../lib/type.ts'
import { checkDepth } from '../lib/generation/depth.ts'
import { readForm } from '../lib/generation/form.ts'
import { splitImages } from '../lib/generation/images.ts'
import { bodySchema, imageLists, imageNames, mostListedImages, requestParameters, type Parameter } from '../lib/generation/parameters.ts'
import { prepareJob } from '../lib/generation/prepare.ts'
import { requireFeature } from '../lib/generation/refusals.ts'
import type { Uploads } from '../lib/generation/request.ts'
import { imageTypes, type Job as JobDescription, type ImageType } from '../lib/jobs/job.ts'
import { jobResponses, Wait } from './schemas.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Images that came as files of a multipart form, by field. */
    uploads: Uploads
  }
}

/** Bytes of everything but the images: much more than the longest prompt, so that a refusal can name the field. */
const textBytes = 8 * 1024 * 1024
/** Files of the largest size that the images of one request may have together. */
const mostFiles = 4
/** Bytes of a field of a multipart form. */
const fieldBytes = 256 * 1024

const operations: Record<ImageType, { name: string, summary: string, description: string }> = {
  txt2img: { name: 'Txt2Img', summary: 'Draw an image from a text', description: '' },
  img2img: {
    name: 'Img2Img',
    summary: 'Draw an image anew by a text',
    description: 'The image is cut in its middle to the proportions of the job and scaled. '
  },
  inpaint: {
    name: 'Inpaint',
    summary: 'Draw the masked part of an image anew',
    description: 'What is white in the mask is drawn anew. '
  },
  controlnet: {
    name: 'ControlNet',
    summary: 'Draw an image from a text along the lines of another image',
    description: 'With canny, these lines are found first. '
  },
  upscale: { name: 'Upscale', summary: 'Enlarge an image', description: 'The model is an upscaler. ' }
}

/** Why a request that is well formed does not become a job. */
const submitErrors = [
  'SDR_MODEL_NOT_FOUND', 'SDR_UNSUPPORTED_FEATURE', 'SDR_UNSUPPORTED_MODEL', 'SDR_IDEMPOTENCY_CONFLICT', 'SDR_QUEUE_FULL',
  'SDR_DRAINING', 'SDR_STORAGE_FULL'
] as const

const Headers = Type.Object({
  'idempotency-key': Type.Optional(Type.String({
    minLength: 1, maxLength: 255, description: 'Makes a retry return the first job'
  }))
})

const routes: FastifyPluginAsyncTypebox = async (app) => {
  const { config: limits, engineInfo: engine } = app
  const parameters = requestParameters(limits, engine)
  const maxFileBytes = limits.maxUploadSize * 1024 * 1024

  await app.register(multipart, {
    limits: {
      fileSize: maxFileBytes,
      files: imageNames.length + imageLists.length * mostListedImages,
      fields: 100,
      fieldSize: fieldBytes,
      fieldNameSize: 100,
      parts: 110
    }
  })
  app.decorateRequest('uploads')

  /** Brings forms into the shape of JSON, and refuses what the validation could not survive. */
  async function takeBody (request: FastifyRequest): Promise<void> {
    request.uploads = {}
    if (request.isMultipart()) {
      const { fields, files } = await readForm(request.parts(), parameters, mostFiles * maxFileBytes)
      Object.assign(request, { body: fields, uploads: files })
    }
    checkDepth(request.body)
  }

  for (const type of imageTypes) {
    const { name, summary, description } = operations[type]
    const isUsable = ({ types, feature }: Parameter) =>
      types.includes(type) && (feature === undefined || engine.capabilities.includes(feature))
    const imageCount = imageNames.filter(name => isUsable(parameters[name]!)).length +
      imageLists.filter(name => isUsable(parameters[name]!)).length * mostListedImages

    app.post(`/${type}`, {
      config: { permission: 'generate' },
      bodyLimit: textBytes + Math.min(imageCount, mostFiles) * Math.ceil(maxFileBytes * 1.5),
      preValidation: [async () => requireFeature(type, engine), takeBody],
      schema: {
        operationId: `generate${name}`,
        tags: ['generate'],
        summary,
        description: `${description}Answers 202 with the job at once, or with ?wait= the finished job when it ends ` +
          'in time. A job that was accepted survives a restart of the server.',
        errors: submitErrors,
        consumes: ['application/json', 'multipart/form-data'],
        headers: Headers,
        querystring: Wait,
        body: bodySchema(type, parameters),
        response: jobResponses
      }
    }, async (request, reply) => {
      const accepted = await submit(type, request)
      reply.header('location', `/api/queue/job/${accepted.id}`)
      const { wait = 0 } = request.query
      const job = wait === 0 ? accepted : await app.jobs.waitFor(accepted.id, wait * 1000, { signal: reply.departure })
      return reply.code(job.finished_at === null ? 202 : 200).send(job)
    })
  }

  async function submit (type: ImageType, request: FastifyRequest): Promise<JobDescription> {
    const { id: owner, permissions } = request.principal
    const { request: wanted, uploads } = splitImages(request.body as object, request.uploads)
    const { job, attachments } = await prepareJob(type, wanted, uploads, {
      catalog: app.models,
      engine,
      limits,
      parameters,
      loadedModel: app.jobs.status.scheduler.loaded_model,
      mayHurry: permissions.includes('jobs:all')
    })
    // Images of megabytes are not kept while somebody waits for the job.
    Object.assign(request, { body: undefined, uploads: {} })
    const idempotencyKey = request.headers['idempotency-key'] as string | undefined
    return await app.jobs.submit({ ...job, owner, caller: app.callerOf(request), idempotencyKey }, attachments)
  }
}

export default routes
