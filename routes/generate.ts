import multipart from '@fastify/multipart'
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyRequest } from 'fastify'
import { isPartAFile, readForm } from '../lib/generation/form.ts'
import { splitAttachments, type RequestAttachments } from '../lib/generation/request.ts'
import { bodySchema } from '../lib/generation/request-schema.ts'
import { requireFeature } from '../lib/http/request-errors.ts'
import { imageTypes, type ImageType } from '../lib/jobs/job.ts'
import { Type } from '../lib/http/type.ts'
import { jobResponses, Wait } from './schemas/jobs.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Images that came as files of a multipart form, by field. */
    attachments: RequestAttachments
  }
}

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

const formAdvice = 'The images are files; lists and objects are JSON, and fields that are left empty are not there. '

/** Why a request that is well formed does not become a job. */
const submitErrors = [
  'SDR_MODEL_NOT_FOUND', 'SDR_UNSUPPORTED_FEATURE', 'SDR_UNSUPPORTED_MODEL', 'SDR_IDEMPOTENCY_CONFLICT',
  'SDR_QUEUE_FULL', 'SDR_DRAINING', 'SDR_STORAGE_FULL'
] as const

const Headers = Type.Object({
  'idempotency-key': Type.Optional(Type.String({
    minLength: 1, maxLength: 255, description: 'Makes a retry return the first job'
  }))
})

const routes: FastifyPluginAsyncTypebox = async (app) => {
  const { engineInfo: engine, imageJobs: { parameters, bodyLimits, holdRoom, submit } } = app
  await app.register(multipart, { isPartAFile, limits: bodyLimits.formParts })
  app.decorateRequest('attachments')

  /** Brings forms into the shape of JSON. */
  async function takeBody (request: FastifyRequest): Promise<void> {
    request.attachments = {}
    if (request.isMultipart()) {
      const { fields, files } = await readForm(request.parts(), parameters, bodyLimits.formFiles)
      Object.assign(request, { body: fields, attachments: files })
    }
  }

  /** What was sent, which the request does not keep: it may wait long for its job. */
  function takeSent (request: FastifyRequest): ReturnType<typeof splitAttachments> {
    const { body, attachments } = request
    request.attachments = {}
    return splitAttachments(body as object, attachments)
  }

  const bodies = imageTypes.flatMap(type => [{ type, isForm: false }, { type, isForm: true }])
  for (const { type, isForm } of bodies) {
    const { name, summary, description } = operations[type]

    app.post(isForm ? `/${type}/form` : `/${type}`, {
      config: { permission: 'generate', json: bodyLimits.json },
      bodyLimit: bodyLimits.ofType(type),
      preParsing: [async () => requireFeature(type, engine), holdRoom], // before megabytes are read
      preValidation: takeBody,
      schema: {
        operationId: `generate${name}${isForm ? 'Form' : ''}`,
        tags: ['generate'],
        summary: isForm ? `${summary}, by a form` : summary,
        description: `${description}${isForm ? formAdvice : ''}Answers 202 with the job at once, or with ?wait= the ` +
          'finished job when it ends in time. A job that was accepted survives a restart of the server.',
        errors: submitErrors,
        // Both addresses take both; generators expect one media type of an operation.
        consumes: [isForm ? 'multipart/form-data' : 'application/json'],
        headers: Headers,
        querystring: Wait,
        body: bodySchema(type, parameters, { isForm }),
        response: jobResponses
      }
    }, async (request, reply) => {
      const idempotencyKey = request.headers['idempotency-key']
      const [accepted] = await submit(request, reply, [{ type, ...takeSent(request) }], { idempotencyKey })
      return await app.answerJob(request, reply, accepted!)
    })
  }
}

export default routes
