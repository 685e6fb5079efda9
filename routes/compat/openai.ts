import multipart from '@fastify/multipart'
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { apiError, type ErrorCode } from '../../errors.ts'
import { linkSecret } from '../../lib/accounts/secrets.ts'
import { completedEvent, imagesAnswer, outputOf, PartialImages, type Output } from '../../lib/compat/openai/answer.ts'
import { openaiErrors } from '../../lib/compat/openai/errors.ts'
import { listModels, retrieveModel } from '../../lib/compat/openai/models.ts'
import {
  drawingsOf, openaiFields, refuseForeign, saidFields, type OpenAIKind, type OpenAIRequest, type SentImages
} from '../../lib/compat/openai/request.ts'
import { badLink, SignedLinks, signatureLength } from '../../lib/compat/openai/signed-links.ts'
import { isPartAFile, readForm, type FormPart } from '../../lib/generation/form.ts'
import type { Drawing } from '../../lib/generation/request.ts'
import { errorAnswer } from '../../lib/http/error-answers.ts'
import { taken } from '../../lib/http/event-streams.ts'
import { callerOf } from '../../lib/http/rate-limits.ts'
import { Named } from '../../lib/http/schemas.ts'
import { Type, type TSchema } from '../../lib/http/type.ts'
import type { Job } from '../../lib/jobs/job.ts'
import { convertImage, isOriginal, mediaType, outputFormats } from '../../lib/media/output.ts'
import { Gate } from '../../lib/util/gate.ts'
import { ImagesAnswer, Model, ModelList, OpenAIError } from './openai-schemas.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Files of a form of the OpenAI API. */
    sentImages: SentImages
  }
}

/** Why a request that is well formed gets no images. */
const drawErrors: readonly ErrorCode[] = [
  'SDR_MODEL_NOT_FOUND', 'SDR_UNSUPPORTED_FEATURE', 'SDR_UNSUPPORTED_MODEL', 'SDR_QUEUE_FULL', 'SDR_JOB_FAILED',
  'SDR_JOB_CANCELLED', 'SDR_DRAINING', 'SDR_STORAGE_FULL', 'SDR_IMAGE_NOT_FOUND'
]

/** Bytes of images that answers are made of at once, of all callers and of one. */
const [mostAnswered, mostAnsweredForOne] = [512 * 1024 * 1024, 128 * 1024 * 1024]
const [mostAnswersWaiting, mostAnswersWaitingForOne] = [200, 20]

const kinds: Record<OpenAIKind, { id: string, summary: string, description: string }> = {
  generations: {
    id: 'GenerateImages', summary: 'Draw images from a text', description: ''
  },
  edits: {
    id: 'EditImages',
    summary: 'Draw images from images and a text',
    description: 'With a mask, its transparent part is drawn anew, or of a mask without transparency the white part. ' +
      'Without one, a model that edits draws from the images, and any other draws the image anew. '
  },
  variations: { id: 'VaryImage', summary: 'Draw images that are like an image', description: '' }
}

const Binary = (description: string) => Type.Unsafe<unknown>({ type: 'string', format: 'binary', description })

interface Options {
  /** Whether these are the paths that the document shows; others are the same once more. */
  isDocumented: boolean
}

/** The images API of OpenAI, for clients that speak it. */
const routes: FastifyPluginAsyncTypebox<Options> = async (app, { isDocumented }) => {
  const { config, engineInfo: engine, models: catalog, modelAliases: aliases, imageJobs } = app
  const { parameters, bodyLimits, holdRoom } = imageJobs
  const links = new SignedLinks(linkSecret(app.folders.auth), config.signedUrlMinutes)
  const answers = new Gate({
    running: mostAnswered,
    runningForOne: mostAnsweredForOne,
    waiting: mostAnswersWaiting,
    waitingForOne: mostAnswersWaitingForOne,
    what: 'bytes of answers with images'
  })
  app.shapeErrors(app, openaiErrors)
  app.decorateRequest('sentImages')
  await app.register(multipart, { isPartAFile, limits: bodyLimits.formParts })

  const documented = (operationId: string) => ({
    ...(isDocumented && { operationId: `openai${operationId}`, tags: ['openai'] }), errorSchema: OpenAIError
  })

  app.get('/models', {
    config: { permission: 'models:read' },
    schema: {
      ...documented('ListModels'),
      summary: 'List models as OpenAI does',
      description: 'Those that draw, and the names of --model-alias.',
      response: { 200: Named(ModelList) }
    }
  }, async () => ({ object: 'list' as const, data: listModels({ catalog, aliases, engine }) }))

  const getModel = {
    config: { permission: 'models:read' },
    schema: {
      summary: 'Get a model as OpenAI does',
      description: 'By its id, whose slashes may be written as they are or as %2F, its name or an alias.',
      errors: ['SDR_MODEL_NOT_FOUND', 'SDR_UNSUPPORTED_MODEL'],
      errorSchema: OpenAIError,
      response: { 200: Named(Model) }
    }
  } as const
  const modelNamed = (name: string) => retrieveModel(name, { catalog, aliases, engine })
  const Name = Type.String({ maxLength: 512, description: 'Id, name or alias' })

  app.get('/models/:id', {
    ...getModel, schema: { ...getModel.schema, ...documented('RetrieveModel'), params: Type.Object({ id: Name }) }
  }, async request => modelNamed(request.params.id))

  app.get('/models/*', {
    ...getModel, schema: { ...getModel.schema, params: Type.Object({ '*': Name }) }
  }, async request => modelNamed(request.params['*']))

  // SillyTavern asks this whether there is a server. Whoever may not draw anything is told so already here.
  app.options('/images/generations', {
    config: { anyCaller: true, neverPublic: true },
    schema: {} // not worth a place in the document
  }, async (_request, reply) => reply.code(204).header('allow', 'POST, OPTIONS').send())

  for (const kind of Object.keys(kinds) as OpenAIKind[]) {
    const { id, summary, description } = kinds[kind]
    const fields = openaiFields(kind, parameters)
    const isForm = kind !== 'generations'
    const images: Record<string, TSchema> = {
      ...(isForm && { image: Type.Array(Binary('An image'), { minItems: 1, description: 'An image, or several' }) }),
      ...(kind === 'edits' && { mask: Type.Optional(Binary('What of the first image is drawn anew')) })
    }
    const isImage = (name: string) => name === 'mask' && 'mask' in images
    const isImageList = (name: string) => name === 'image'

    /** Brings the body into one shape, without what clients leave open. */
    async function takeBody (request: FastifyRequest): Promise<void> {
      request.sentImages = {}
      if (isForm) {
        if (!request.isMultipart()) {
          throw apiError('SDR_UNSUPPORTED_MEDIA_TYPE', 'Expected a body of multipart/form-data.')
        }
        const form = await readForm(withoutBrackets(request.parts()),
          asParameters(fields), bodyLimits.formFiles, { isImage, isImageList })
        Object.assign(request, { body: form.fields, sentImages: form.files })
      }
      if (typeof request.body !== 'object' || request.body === null || Array.isArray(request.body)) return
      request.body = saidFields(request.body)
      refuseForeign(request.body as object, { ...fields, ...images }, parameters)
    }

    app.post(`/images/${kind}`, {
      config: { permission: 'generate', json: { text: bodyLimits.json.text } },
      bodyLimit: isForm ? bodyLimits.form : bodyLimits.withImages(0),
      preParsing: [holdRoom],
      preValidation: takeBody,
      sse: 'manual',
      schema: {
        ...documented(id),
        summary,
        description: `${description}Answers when the images are there; a client that leaves cancels them, unless ` +
          '--keep-abandoned-jobs. Fields that this server does not know are ignored, null means absent.',
        errors: drawErrors,
        consumes: [isForm ? 'multipart/form-data' : 'application/json'],
        body: Type.Object({ ...fields, ...images }),
        response: {
          200: {
            description: 'The images, or with stream the events of their making',
            content: {
              'application/json': { schema: Named(ImagesAnswer) },
              'text/event-stream': { schema: Type.String() }
            }
          }
        }
      }
    }, async (request, reply) => {
      const { image: _image, mask: _mask, ...body } = request.body as OpenAIRequest
      const drawings = drawingsOf(kind, body, takeImages(request), {
        catalog, aliases, engine, limits: config, parameters, loadedModel: app.jobs.loadedModels[0] ?? null
      })
      const output = outputOf(body)
      if (body.stream === true) return await streamImages(request, reply, { kind, body, output, drawings })
      const finished = await imageJobs.drawAndWait(request, reply, drawings)
      const data = body.response_format === 'url'
        ? finished.flatMap(job => job.images.map(({ index, seed }) =>
          ({ url: linkTo(request, job, index, output), seed })))
        : await encoded(request, finished, output)
      return imagesAnswer(finished, body, output, data)
    })
  }

  app.get('/images/files/:name', {
    config: { carriesCredentials: true },
    schema: {
      ...documented('FetchImage'),
      public: true,
      summary: 'Get the image of a signed link',
      description: 'The links come from response_format url. Each is for one image and ends after ' +
        '--signed-url-minutes, or with the account of its owner.',
      errors: ['SDR_FORBIDDEN', 'SDR_JOB_NOT_FOUND', 'SDR_IMAGE_NOT_FOUND'],
      params: Type.Object({ name: Type.String({ maxLength: 64, description: 'Name of the image' }) }),
      querystring: Type.Object({
        expires: Type.Integer({ minimum: 0, maximum: 10 ** 12, description: 'Seconds since 1970' }),
        quality: Type.Optional(Type.Integer({ minimum: 1, maximum: 100, description: 'Of JPEG and WebP' })),
        signature: Type.String({ maxLength: signatureLength, description: 'Made by this server' })
      }),
      response: {
        200: {
          description: 'The image',
          content: Object.fromEntries(outputFormats.map(format => [mediaType(format), { schema: Binary('The image') }]))
        }
      }
    }
  }, async (request, reply) => {
    const { job: id, index, ...output } = links.check(request.params.name, request.query)
    const job = await app.jobs.get(id)
    if (await app.store.accounts.isGone(job.owner)) throw badLink()
    // Who has the link may show the image, on a page of any origin.
    reply.header('cross-origin-resource-policy', 'cross-origin')
    return await reply.type(mediaType(output.format)).send(await imageOf(request, job, index, output))
  })

  /** The bytes of an image in the format that was asked for. */
  async function imageOf (request: FastifyRequest, job: Job, index: number, output: Output): Promise<Buffer> {
    const image = job.images.find(image => image.index === index)
    if (image === undefined) throw apiError('SDR_IMAGE_NOT_FOUND')
    const read = async () => (await app.jobs.openImage(job, index)).bytes()
    return isOriginal(output)
      ? await read()
      : await convertImage(read, output, app.decoderFor(request))
  }

  async function encoded (request: FastifyRequest, jobs: Job[], output: Output) {
    const images = jobs.flatMap(job => job.images.map(image => ({ job, ...image })))
    const bytes = images.reduce((sum, image) => sum + image.bytes, 0)
    return await answers.run(callerOf(request), async () => {
      const data = []
      for (const { job, index, seed } of images) {
        data.push({ b64_json: (await imageOf(request, job, index, output)).toString('base64'), seed })
      }
      return data
    }, Math.min(bytes, mostAnsweredForOne))
  }

  function linkTo (request: FastifyRequest, { id: job }: Job, index: number, output: Output): string {
    const path = `${config.basePath ?? ''}${app.prefix}/images/files/${links.sign({ job, index, ...output })}`
    const server = `${request.protocol}://${request.host}`
    return URL.canParse(path, server) ? new URL(path, server).href : path // HTTP/1.0 needs no Host
  }

  /** Sends the events of jobs; an error comes as an event, because the status is sent already. */
  async function streamImages (
    request: FastifyRequest, reply: FastifyReply,
    { kind, body, output, drawings }: {
      kind: OpenAIKind, body: OpenAIRequest, output: Output, drawings: Drawing[]
    }
  ): Promise<void> {
    const jobs = await imageJobs.submit(request, reply, drawings) // what is refused here has a status yet
    const partial = new PartialImages(kind, body)
    const send = async ({ type, ...data }: { type: string }) =>
      taken(reply, reply.sse.send({ event: type, data: { type, ...data } }))
    reply.sse.sendHeaders()
    try {
      const finished = await imageJobs.finish(request, reply, jobs, async ({ name, data }, index) => {
        if (name !== 'preview') return
        const event = partial.eventOf(jobs[index]!, data as Parameters<PartialImages['eventOf']>[1])
        if (event !== undefined) await send(event)
      })
      for (const job of finished) {
        for (const { index, seed } of job.images) {
          const image = body.response_format === 'url'
            ? { url: linkTo(request, job, index, output), seed }
            : { b64_json: (await imageOf(request, job, index, output)).toString('base64'), seed }
          await send(completedEvent(kind, job, body, output, image))
        }
      }
    } catch (error) {
      const { body } = errorAnswer(error as Error, request, reply.raw, openaiErrors)
      if (!reply.raw.destroyed) await taken(reply, reply.sse.send({ event: 'error', data: body }))
    }
  }
}

/** The images of a request, which does not keep them: it may wait long for its jobs. */
function takeImages (request: FastifyRequest): SentImages {
  const { sentImages } = request
  request.sentImages = {}
  return sentImages
}

/** `image[]` and `image[0]` are `image`, as clients write lists. */
async function * withoutBrackets (parts: AsyncIterable<FormPart>): AsyncGenerator<FormPart> {
  for await (const part of parts) {
    const { fieldname } = part
    // Not a copy: the bytes of a part are read by its methods.
    if (fieldname !== undefined) part.fieldname = fieldname.replace(/\[\d{0,2}\]$/, '')
    yield part
  }
}

function asParameters (fields: Record<string, TSchema>): Record<string, { schema: TSchema }> {
  return Object.fromEntries(Object.entries(fields).map(([name, schema]) => [name, { schema }]))
}

export default routes
