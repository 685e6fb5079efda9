import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyReply } from 'fastify'
import { taken } from '../lib/http/event-streams.ts'
import { callerOf } from '../lib/http/rate-limits.ts'
import { Type } from '../lib/http/type.ts'
import { apiError } from '../errors.ts'
import {
  chooseVariant, convertImage, entityTag, isOriginal, matches, mediaType, outputFormats, thumbnailWidth
} from '../lib/media/output.ts'
import { jobStatuses, type Job as JobDescription } from '../lib/jobs/job.ts'
import { laneStates } from '../lib/jobs/schedule/lane.ts'
import type { SchedulerStatus } from '../lib/jobs/schedule/scheduler.ts'
import { visibleOwner } from '../lib/accounts/principals.ts'
import { exampleId, Id, Named, named, Nullable, OneOf, Time } from '../lib/http/schemas.ts'
import { Job, jobExample } from './schemas/jobs.ts'
import { NextCursor } from './schemas/paging.ts'
import { JobStatus, JobType } from './schemas/values.ts'

const tags = ['queue']
const config = { permission: 'queue:read' } as const
const errors = ['SDR_JOB_NOT_FOUND'] as const

const time = { format: 'date-time', maxLength: 40, examples: ['2026-08-01T12:00:00Z'] }

const JobId = Type.Object({ id: Id('Id of the job') })

const Lane = {
  state: OneOf(laneStates),
  job: Nullable(Type.String({ description: 'The job that runs' })),
  loaded_model: Nullable(Type.String({
    description: 'Id of the model that the engine holds; with a digest behind it when a job has put it together'
  })),
  blocked: Nullable(Type.Object({
    reason: Type.String(),
    retry_at: Nullable(Time('When the next try is; null when the engine process sees to that'))
  }, { title: 'Blocked' }))
}

const laneExample = {
  state: 'running',
  job: '019dc0de-7a3e-7c21-9f0b-3f2a5b6c7d8e',
  loaded_model: 'checkpoint/sd15.safetensors',
  blocked: null
}

const Queue = named('Queue', Type.Object({
  ...Object.fromEntries(jobStatuses.map(status => [status, Type.Integer()])) as
    Record<typeof jobStatuses[number], ReturnType<typeof Type.Integer>>,
  capacity: Type.Integer({ description: 'How many jobs may wait' }),
  scheduler: Type.Object({
    ...Lane,
    lanes: Type.Array(Type.Object({
      lane: OneOf(['engine', 'files'], { description: 'Whether its jobs need an engine' }),
      device: Nullable(Type.String({ description: 'As --device or --devices names it; null without an engine' })),
      ...Lane
    }, { title: 'Lane' }), {
      description: 'Each does one job at a time: one for each device, and one for jobs that need none'
    })
  }, { description: 'All devices together; blocked when no device can be used' })
}, {
  description: 'How many jobs are in which state, and what is done at the moment',
  examples: [{
    queued: 3,
    running: 1,
    completed: 120,
    failed: 2,
    cancelled: 4,
    capacity: 1000,
    scheduler: {
      ...laneExample,
      lanes: [
        { lane: 'engine', device: 'cuda0', ...laneExample },
        { lane: 'files', device: null, state: 'idle', job: null, loaded_model: null, blocked: null }
      ]
    }
  }]
}))

const JobPage = named('JobPage', Type.Object({
  jobs: Type.Array(Named(Job)),
  next_cursor: NextCursor
}, { description: 'A page of jobs', examples: [{ jobs: [jobExample], next_cursor: null }] }))

const ImageName = Type.Object({
  ...JobId.properties,
  index: Type.Integer({ minimum: 0, maximum: 63, description: 'Which image of the batch, from 0', examples: [0] })
})

const ImageVariant = Type.Object({
  format: Type.Optional(OneOf(outputFormats, { description: 'Goes before Accept' })),
  quality: Type.Optional(Type.Integer({ minimum: 1, maximum: 100, description: 'Of JPEG and WebP; 90 when absent' })),
  width: Type.Optional(Type.Integer({
    ...thumbnailWidth, description: 'Pixels to scale down to; an image is never enlarged'
  }))
}, { additionalProperties: false })

/** Bytes of an image that is read at once; a stream takes longer than that. */
const mostWhole = 256 * 1024

const Binary = Type.Unsafe<unknown>({ type: 'string', format: 'binary' })
const ImageContent = Object.fromEntries(outputFormats.map(format => [mediaType(format), { schema: Binary }]))

const entity = { etag: { type: 'string', description: 'Tag of this variant of the image, for If-None-Match' } }

const EventStream = {
  'text/event-stream': {
    schema: Type.String({
      description: 'Server-sent events. `event` is state, progress, preview or done, `id` a counter, `data` JSON: ' +
        'the job for state and done; phase, step, steps and eta_seconds for progress; a small image in base64 for ' +
        'preview',
      examples: ['id: 7\nevent: progress\ndata: {"phase":"sampling","step":5,"steps":20,"eta_seconds":4.5}\n\n']
    })
  }
}

const routes: FastifyPluginAsyncTypebox = async (app) => {
  app.get('/status', {
    config,
    schema: {
      operationId: 'getQueueStatus',
      tags,
      summary: 'How many jobs are in which state',
      description: 'Of all owners, with what the engines do at the moment. Why jobs have to wait is said in full to ' +
        'callers with the permission `system:read`.',
      response: { 200: Named(Queue) }
    }
  }, async request => {
    const { scheduler, ...counts } = await app.jobs.status()
    if (request.principal.permissions.includes('system:read')) return { ...counts, scheduler }
    return { ...counts, scheduler: { ...withoutReason(scheduler), lanes: scheduler.lanes.map(withoutReason) } }
  })

  app.get('/jobs', {
    config,
    schema: {
      operationId: 'listJobs',
      tags,
      summary: 'List jobs, the newest first',
      description: 'Your own; administrators see all. Ended jobs stay as long as --keep-jobs and --keep-days say. ' +
        'A page ends early, with a next_cursor, when its jobs have more than 1 MiB of parameters.',
      querystring: Type.Object({
        status: Type.Optional(JobStatus()),
        type: Type.Optional(JobType()),
        model: Type.Optional(Type.String({ maxLength: 512 })),
        owner: Type.Optional(Type.String({
          minLength: 1,
          maxLength: 64,
          description: 'Id of an account; of another than your own it needs jobs:all',
          examples: [exampleId]
        })),
        created_after: Type.Optional(Type.String({ ...time, description: 'Accepted at this time or later' })),
        created_before: Type.Optional(Type.String({ ...time, description: 'Accepted before this time' })),
        cursor: Type.Optional(Type.String({ maxLength: 255, description: 'next_cursor of the page before' })),
        limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 200, default: 50 }))
      }, { additionalProperties: false }),
      response: { 200: Named(JobPage) }
    }
  }, async request => {
    const visible = visibleOwner(request.principal)
    const { owner = visible, ...filter } = request.query
    if (visible !== undefined && owner !== visible) {
      throw apiError('SDR_FORBIDDEN', 'To list the jobs of another account needs the permission jobs:all.')
    }
    return app.jobs.list({ ...filter, owner })
  })

  app.get('/job/:id', {
    config,
    schema: {
      operationId: 'getJob',
      tags,
      summary: 'Get a job',
      description: 'Its state, its place in the queue, how far it is, its images, and everything that is needed ' +
        'to repeat it.',
      errors,
      params: JobId,
      response: { 200: Named(Job) }
    }
  }, async request => app.jobs.get(request.params.id, { owner: visibleOwner(request.principal) }))

  app.delete('/job/:id', {
    config: { permission: ['generate', 'models:manage', 'jobs:all'] }, // who may make jobs may cancel them
    schema: {
      operationId: 'cancelJob',
      tags,
      summary: 'Cancel a job',
      description: 'Your own; administrators cancel any. A waiting job is cancelled at once. A running one is ' +
        '`cancelled` as soon as the engine lets go of it.',
      errors: [...errors, 'SDR_JOB_NOT_CANCELLABLE'],
      params: JobId,
      response: { 200: Named(Job) }
    }
  }, async request => app.jobs.cancel(request.params.id, { owner: visibleOwner(request.principal) }))

  app.get('/job/:id/events', {
    config,
    sse: 'manual', // whatever Accept says: there is nothing else to send
    schema: {
      operationId: 'followJob',
      tags,
      summary: 'Follow a job: state, progress, preview and done events',
      description: 'Server-sent events until the job ends. Last-Event-ID replays what was missed. Closing the ' +
        'connection does not cancel the job. Swagger UI shows them when the job has ended; `curl -N` as they come.',
      errors,
      params: JobId,
      headers: Type.Object({
        'last-event-id': Type.Optional(Type.String({ maxLength: 20, description: 'Id of the last event that came' }))
      }),
      response: { 200: { description: 'What happens to the job', content: EventStream } }
    }
  }, async (request, reply) => {
    const { id } = request.params
    const owner = visibleOwner(request.principal)
    if (request.method === 'HEAD') { // which gets no events, and would wait for them
      await app.jobs.get(id, { owner })
      return await reply.type('text/event-stream').send('')
    }
    const disconnected = new AbortController()
    reply.sse.onClose(() => disconnected.abort())
    const events = await app.jobs.subscribe(id, {
      owner,
      caller: callerOf(request),
      lastEventId: Number(request.headers['last-event-id'] ?? NaN) || undefined,
      signal: disconnected.signal
    })
    for await (const { id, name, data } of events) {
      // One event is on its way, and of later ones the newest of each type waits: that bounds what a slow reader costs.
      await taken(reply, reply.sse.send({ id: String(id), event: name, data }))
    }
  })

  app.get('/job/:id/images/:index', {
    config,
    schema: {
      operationId: 'getImage',
      tags,
      summary: 'Get an image of a finished job',
      description: 'As PNG, or as JPEG or WebP by Accept or format, with the generation data in its text. It never ' +
        'changes: If-None-Match with its ETag answers 304.',
      errors: [...errors, 'SDR_IMAGE_NOT_FOUND'],
      params: ImageName,
      headers: Type.Object({
        'if-none-match': Type.Optional(Type.String({
          maxLength: 4096, description: 'An ETag: 304 when the image has it'
        }))
      }),
      querystring: ImageVariant,
      response: {
        200: { description: 'The image', content: ImageContent, headers: entity },
        304: { type: 'null', description: 'The image is the one that If-None-Match names', headers: entity }
      }
    }
  }, async (request, reply) => {
    const { id, index } = request.params
    const job = await app.jobs.get(id, { owner: visibleOwner(request.principal) })
    const image = job.images.find(image => image.index === index)
    if (image === undefined) throw apiError('SDR_IMAGE_NOT_FOUND', whyNoImage(job, index))
    const variant = chooseVariant(request.query, request.headers.accept, image)
    const etag = entityTag(`${id}-${index}`, variant)
    const caching = { etag, 'cache-control': 'private, max-age=31536000, immutable', vary: varyByAccept(reply) }
    if (matches(request.headers['if-none-match'], etag)) return reply.code(304).headers(caching).send()

    const open = async () => app.jobs.openImage(job, index)
    const file = isOriginal(variant) ? await open() : undefined
    const body = file === undefined
      ? await convertImage(async () => (await open()).bytes(), variant, app.decoderFor(request))
      : file.size > mostWhole ? file.stream() : await file.bytes()
    return reply
      .type(mediaType(variant.format))
      .headers({
        ...caching,
        'content-length': Buffer.isBuffer(body) ? body.length : file!.size,
        'content-disposition': `inline; filename="${id}-${index}.${variant.format}"`
      })
      .send(body)
  })
}

/** The words of the system, with paths and causes, are for those who run it. */
function withoutReason<Status extends Pick<SchedulerStatus, 'blocked'>> (status: Status): Status {
  const { blocked } = status
  return {
    ...status,
    blocked: blocked && { ...blocked, reason: 'The server cannot do jobs at the moment; its log says why.' }
  }
}

function whyNoImage ({ status, position, progress, images }: JobDescription, index: number): string {
  const later = 'fetch it when the status of the job is completed.'
  if (status === 'queued') return `The job still waits (position ${position}), so it has no image yet; ${later}`
  if (status === 'running') {
    const step = progress === null || progress.steps === 0
      ? ''
      : ` (${progress.phase}, step ${progress.step} of ${progress.steps})`
    return `The job is still running${step}, so it has no image yet; ${later}`
  }
  if (status !== 'completed') return `The job is ${status} and has no images.`
  if (images.length === 0) return 'The job has no images: its type makes none, or they were deleted to make room.'
  return `The job has no image ${index}; its images are ${images.map(image => image.index).join(', ')}.`
}

/** Beside what other parts of the server vary an answer by. */
function varyByAccept (reply: FastifyReply): string {
  return [reply.getHeader('vary') ?? [], 'Accept'].flat().join(', ')
}

export default routes
