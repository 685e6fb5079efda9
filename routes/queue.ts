import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyReply } from 'fastify'
import { Type } from 'typebox'
import { apiError } from '../errors.ts'
import {
  chooseVariant, convertImage, entityTag, isOriginal, matches, mediaType, outputFormats, thumbnailWidth
} from '../lib/images/output.ts'
import { generationText } from '../lib/jobs/generation-text.ts'
import { jobStatuses, jobTypes } from '../lib/jobs/job.ts'
import { visibleOwner } from '../lib/principals.ts'
import { ErrorResponse, Job, Named, Nullable, OneOf, Time } from './schemas.ts'

const tags = ['queue']
const config = { permission: 'queue:read' } as const

const JobId = Type.Object({ id: Type.String({ format: 'uuid', description: 'Id of the job' }) })

const Queue = Type.Object({
  ...Object.fromEntries(jobStatuses.map(status => [status, Type.Integer()])) as Record<typeof jobStatuses[number], ReturnType<typeof Type.Integer>>,
  capacity: Type.Integer({ description: 'How many jobs may wait' }),
  scheduler: Type.Object({
    state: Type.String(),
    job: Nullable(Type.String()),
    loaded_model: Nullable(Type.String()),
    blocked: Nullable(Type.Object({ reason: Type.String(), retry_at: Nullable(Time('When the next try is; null when the engine process sees to that')) }))
  })
})

const ImageName = Type.Object({
  ...JobId.properties,
  index: Type.Integer({ minimum: 0, maximum: 63, description: 'Which image of the batch, from 0' })
})

const ImageVariant = Type.Object({
  format: Type.Optional(OneOf(outputFormats, { description: 'Goes before Accept' })),
  quality: Type.Optional(Type.Integer({ minimum: 1, maximum: 100, description: 'Of JPEG and WebP; 90 when absent' })),
  width: Type.Optional(Type.Integer({
    ...thumbnailWidth, description: 'Pixels to scale down to; an image is never enlarged'
  }))
}, { additionalProperties: false })

const Binary = Type.Unsafe<unknown>({ type: 'string', format: 'binary' })
const ImageContent = Object.fromEntries(outputFormats.map(format => [mediaType(format), { schema: Binary }]))

const routes: FastifyPluginAsyncTypebox = async (app) => {
  app.get('/status', {
    config,
    schema: { operationId: 'getQueueStatus', tags, summary: 'How many jobs are in which state', response: { 200: Queue } }
  }, async () => app.jobs.status)

  app.get('/jobs', {
    config,
    schema: {
      operationId: 'listJobs',
      tags,
      summary: 'List jobs, the newest first',
      querystring: Type.Object({
        status: Type.Optional(OneOf(jobStatuses)),
        type: Type.Optional(OneOf(jobTypes)),
        model: Type.Optional(Type.String({ maxLength: 512 })),
        cursor: Type.Optional(Type.String({ maxLength: 255, description: 'next_cursor of the page before' })),
        limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 200, default: 50 }))
      }, { additionalProperties: false }),
      response: { 200: Type.Object({ jobs: Type.Array(Named(Job)), next_cursor: Nullable(Type.String()) }) }
    }
  }, async request => app.jobs.list({ ...request.query, owner: visibleOwner(request.principal) }))

  app.get('/job/:id', {
    config,
    schema: { operationId: 'getJob', tags, summary: 'Get a job', params: JobId, response: { 200: Named(Job) } }
  }, async request => app.jobs.get(request.params.id, { owner: visibleOwner(request.principal) }))

  app.delete('/job/:id', {
    config,
    schema: {
      operationId: 'cancelJob',
      tags,
      summary: 'Cancel a job',
      description: 'A waiting job is cancelled at once. A running one is `cancelled` as soon as the engine lets go of it.',
      params: JobId,
      response: { 200: Named(Job) }
    }
  }, async request => app.jobs.cancel(request.params.id, { owner: visibleOwner(request.principal) }))

  app.get('/job/:id/events', {
    config,
    sse: 'only',
    schema: {
      operationId: 'followJob',
      tags,
      summary: 'Follow a job: state, progress, preview and done events',
      description: 'Server-sent events until the job ends. Last-Event-ID replays what was missed. Closing the connection does not cancel the job.',
      params: JobId,
      headers: Type.Object({ 'last-event-id': Type.Optional(Type.String({ maxLength: 20 })) }),
      response: { 200: Type.String({ description: 'text/event-stream' }) }
    }
  }, async (request, reply) => {
    const disconnected = new AbortController()
    const events = app.jobs.subscribe(request.params.id, {
      owner: visibleOwner(request.principal),
      lastEventId: Number(request.headers['last-event-id'] ?? NaN) || undefined,
      signal: disconnected.signal
    })
    reply.sse.onClose(() => disconnected.abort())
    for await (const { id, name, data } of events) await reply.sse.send({ id: String(id), event: name, data })
  })

  app.get('/job/:id/images/:index', {
    config,
    schema: {
      operationId: 'getImage',
      tags,
      summary: 'Get an image of a finished job',
      description: 'As PNG, or as JPEG or WebP by Accept or format, with the generation data in its text. It never ' +
        'changes: If-None-Match with its ETag answers 304.',
      params: ImageName,
      querystring: ImageVariant,
      response: {
        200: { description: 'The image', content: ImageContent },
        304: Type.Null({ description: 'The image is the one that If-None-Match names' }),
        406: Named(ErrorResponse, 'Accept allows none of the formats')
      }
    }
  }, async (request, reply) => {
    const { id, index } = request.params
    const viewer = { owner: visibleOwner(request.principal) }
    const job = app.jobs.get(id, viewer)
    const image = job.images.find(image => image.index === index)
    if (image === undefined) throw apiError('SDR_IMAGE_NOT_FOUND')
    const variant = chooseVariant(request.query, request.headers.accept, image)
    const etag = entityTag(`${id}-${index}`, variant)
    const caching = { etag, 'cache-control': 'private, max-age=31536000, immutable', vary: varyByAccept(reply) }
    if (matches(request.headers['if-none-match'], etag)) return reply.code(304).headers(caching).send()

    const { handle, size } = await app.jobs.image(id, index, viewer)
    const body = isOriginal(variant)
      ? handle.createReadStream()
      : await convertImage(handle, variant, generationText(job, image))
    return reply
      .type(mediaType(variant.format))
      .headers({
        ...caching,
        'content-length': Buffer.isBuffer(body) ? body.length : size,
        'content-disposition': `inline; filename="${id}-${index}.${variant.format}"`
      })
      .send(body)
  })
}

/** Beside what other parts of the server vary an answer by. */
function varyByAccept (reply: FastifyReply): string {
  return [reply.getHeader('vary') ?? [], 'Accept'].flat().join(', ')
}

export default routes
