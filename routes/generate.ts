import multipart from '@fastify/multipart'
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { apiError } from '../errors.ts'
import { failBody } from '../lib/http/discard-body.ts'
import { fieldBytes, isPartAFile, readForm } from '../lib/generation/form.ts'
import { prepareJob } from '../lib/generation/prepare.ts'
import { splitAttachments, type RequestAttachments } from '../lib/generation/request.ts'
import {
  bodySchema, imageLists, imageNames, mostListedImages, requestParameters, type Parameter
} from '../lib/generation/request-schema.ts'
import { requireFeature } from '../lib/http/request-errors.ts'
import { imageTypes, type Job as JobDescription, type ImageType } from '../lib/jobs/job.ts'
import { Type } from '../lib/http/type.ts'
import { callerOf } from '../lib/http/rate-limits.ts'
import { UploadLimit } from '../lib/http/upload-limit.ts'
import { jobResponses, Wait } from './schemas/jobs.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Images that came as files of a multipart form, by field. */
    attachments: RequestAttachments
    /** Gives back the room for a large body. */
    leaveRoom: (() => void) | undefined
  }
}

/** Bytes of everything but the images: much more than the longest prompt, so that a refusal can name the field. */
const textBytes = 8 * 1024 * 1024
/** Bytes of a text in JSON that may be too long, so that a refusal can say how long it may be. */
const shortText = 1024 * 1024
/** Bytes of a character in JSON, when both of its halves are escaped. */
const longestEscape = 12
/** Files of the largest size that the images of one request may have together. */
const mostFiles = 4
/** Bodies of the largest size that may be here at once, from all callers and from one. */
const [mostUploads, mostUploadsForOne] = [4, 2]
/** Bytes of a body that is not worth counting. */
const smallBody = 64 * 1024
/** Parts of a multipart form that are no images. */
const mostFields = 100

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
  'SDR_MODEL_NOT_FOUND', 'SDR_UNSUPPORTED_FEATURE', 'SDR_UNSUPPORTED_MODEL', 'SDR_IDEMPOTENCY_CONFLICT',
  'SDR_QUEUE_FULL', 'SDR_DRAINING', 'SDR_STORAGE_FULL'
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
  const json = {
    text: Math.max(shortText, limits.maxPromptLength * longestEscape),
    longFields: [...imageNames, ...imageLists]
  }

  const mostParts = mostFields + imageNames.length + imageLists.length * mostListedImages
  await app.register(multipart, {
    isPartAFile,
    limits: {
      fileSize: maxFileBytes,
      files: mostParts, // fields in JSON are among them
      fields: mostFields,
      fieldSize: fieldBytes,
      fieldNameSize: 100,
      parts: mostParts
    }
  })
  app.decorateRequest('attachments')
  app.decorateRequest('leaveRoom')

  const imageCountOf = (type: ImageType) => {
    const isUsable = ({ types, feature }: Parameter) =>
      types.includes(type) && (feature === undefined || engine.capabilities.includes(feature))
    return imageNames.filter(name => isUsable(parameters[name]!)).length +
      imageLists.filter(name => isUsable(parameters[name]!)).length * mostListedImages
  }
  const bodyLimitOf = (type: ImageType) =>
    textBytes + Math.min(imageCountOf(type), mostFiles) * Math.ceil(maxFileBytes * 1.5)
  const mostFileBytes = mostFiles * maxFileBytes
  const largestForm = textBytes + mostFileBytes
  const largestBody = Math.max(largestForm, ...imageTypes.map(bodyLimitOf))
  const room = new UploadLimit({ bytes: mostUploads * largestBody, bytesForOne: mostUploadsForOne * largestBody })

  /** Until a large body has become a job, its bytes count to those that the caller, and all together, may have here. */
  async function holdRoom (request: FastifyRequest, reply: FastifyReply): Promise<void> {
    const { 'content-length': length, 'transfer-encoding': coding } = request.headers
    const most = request.isMultipart() ? largestForm : request.routeOptions.bodyLimit
    const bytes = coding === undefined ? Number(length ?? 0) : most
    // Larger JSON is refused before it is read.
    if (bytes <= smallBody || (bytes > most && !request.isMultipart())) return
    request.leaveRoom = await room.enter(callerOf(request), Math.min(bytes, most), () =>
      failBody(request.raw, apiError('SDR_REQUEST_TIMEOUT',
        'Others wait for the room that this body has held for long without being complete; try again.')))
    reply.raw.once('close', request.leaveRoom)
    if (reply.raw.destroyed) request.leaveRoom()
  }

  /** Brings forms into the shape of JSON. */
  async function takeBody (request: FastifyRequest): Promise<void> {
    request.attachments = {}
    if (request.isMultipart()) {
      const { fields, files } = await readForm(request.parts(), parameters, mostFileBytes)
      Object.assign(request, { body: fields, attachments: files })
    }
  }

  for (const type of imageTypes) {
    const { name, summary, description } = operations[type]

    app.post(`/${type}`, {
      config: { permission: 'generate', json },
      bodyLimit: bodyLimitOf(type),
      preParsing: [async () => requireFeature(type, engine), holdRoom], // before megabytes are read
      preValidation: takeBody,
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
      const { leaveRoom = () => {} } = request
      reply.raw.off('close', leaveRoom) // the images stay in memory when their sender goes
      const accepted = await submit(type, request).finally(leaveRoom)
      return await app.answerJob(request, reply, accepted)
    })
  }

  async function submit (type: ImageType, request: FastifyRequest): Promise<JobDescription> {
    const { id: owner, permissions } = request.principal
    const sent = splitAttachments(request.body as object, request.attachments)
    const { job, attachments } = await prepareJob(type, sent.request, sent.attachments, {
      catalog: app.models,
      engine,
      limits,
      parameters,
      loadedModel: app.jobs.loadedModels[0] ?? null,
      decoder: app.decoderFor(request),
      mayRaisePriority: permissions.includes('jobs:all')
    })
    // Images of megabytes are not kept while the caller waits for the job.
    Object.assign(request, { body: undefined, attachments: {} })
    await app.guard.decideAgain(request) // looking at images takes time
    const idempotencyKey = request.headers['idempotency-key'] as string | undefined
    return await app.jobs.submit({ ...job, owner, caller: callerOf(request), idempotencyKey }, attachments)
  }
}

export default routes
