import fp from 'fastify-plugin'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { apiError } from '../errors.ts'
import { bodyLimits, type BodyLimits } from '../lib/generation/body-limits.ts'
import { prepareJob } from '../lib/generation/prepare.ts'
import type { Drawing } from '../lib/generation/request.ts'
import { requestParameters, type Parameter } from '../lib/generation/request-schema.ts'
import { failBody } from '../lib/http/discard-body.ts'
import { callerOf } from '../lib/http/rate-limits.ts'
import { UploadLimit } from '../lib/http/upload-limit.ts'
import { abandon, awaitJob } from '../lib/jobs/awaited-job.ts'
import type { Job } from '../lib/jobs/job.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Gives back the room for a large body. */
    leaveRoom: (() => void) | undefined
  }
  interface FastifyInstance {
    imageJobs: ImageJobs
  }
}

/** The one way from a request, of whatever API, to jobs that make images. */
interface ImageJobs {
  /** Everything that an image request can say, by name. */
  parameters: Record<string, Parameter>
  bodyLimits: BodyLimits
  /**
   * A preParsing hook of every route that takes images: until a large body has become a job, its bytes count to those
   * that the caller, and all together, may have here.
   */
  holdRoom: (request: FastifyRequest, reply: FastifyReply) => Promise<void>
  /**
   * Makes a job of each drawing; the body of the request is forgotten, and `drawings` is emptied. When one is refused,
   * those before it are cancelled.
   * @throws {ApiError} as `prepareJob`, `guard.decideAgain` and `JobQueue.submit`
   */
  submit: (
    request: FastifyRequest, reply: FastifyReply, drawings: Drawing[], options?: { idempotencyKey?: string }
  ) => Promise<Job[]>
  /**
   * Waits for the end of jobs whose caller gets nothing but their images. When the caller leaves, or one job fails, the
   * others are cancelled; with --keep-abandoned-jobs they go on.
   * @param heard hears of the progress and the previews of the jobs, `index` being the place of the job in `jobs`
   * @throws {ApiError} SDR_JOB_FAILED, SDR_JOB_CANCELLED, SDR_RATE_LIMITED, SDR_UNAVAILABLE, SDR_DRAINING,
   *   SDR_INVALID_TOKEN
   */
  finish: (
    request: FastifyRequest, reply: FastifyReply, jobs: Job[],
    heard?: (event: { name: string, data: unknown }, index: number) => Promise<void> | void
  ) => Promise<Job[]>
  /** `submit` and `finish`. */
  drawAndWait: (request: FastifyRequest, reply: FastifyReply, drawings: Drawing[]) => Promise<Job[]>
}

/** Bytes of a body that is not worth counting. */
const smallBody = 64 * 1024

export default fp(async (app) => {
  const { config: limits, engineInfo: engine } = app
  const parameters = requestParameters(limits, engine)
  const bodies = bodyLimits(limits, engine, parameters)
  const room = new UploadLimit(bodies.room)
  app.decorateRequest('leaveRoom')

  async function holdRoom (request: FastifyRequest, reply: FastifyReply): Promise<void> {
    const { 'content-length': length, 'transfer-encoding': coding, 'content-type': type = '' } = request.headers
    const isForm = /^multipart\//i.test(type)
    const most = isForm ? bodies.form : request.routeOptions.bodyLimit
    const bytes = coding === undefined ? Number(length ?? 0) : most
    // Larger JSON is refused before it is read.
    if (bytes <= smallBody || (bytes > most && !isForm)) return
    request.leaveRoom = await room.enter(callerOf(request), Math.min(bytes, most), () =>
      failBody(request.raw, apiError('SDR_REQUEST_TIMEOUT',
        'Others wait for the room that this body has held for long without being complete; try again.')))
    reply.raw.once('close', request.leaveRoom)
    if (reply.raw.destroyed) request.leaveRoom()
  }

  async function submitOne (
    request: FastifyRequest, { type, request: wanted, attachments: sent, ...manner }: Drawing, idempotencyKey?: string
  ): Promise<Job> {
    const { id: owner, permissions } = request.principal
    const { job, attachments } = await prepareJob(type, wanted, sent, {
      catalog: app.models,
      engine,
      limits,
      parameters,
      loadedModel: app.jobs.loadedModels[0] ?? null,
      decoder: app.decoderFor(request),
      ...manner,
      mayRaisePriority: permissions.includes('jobs:all')
    })
    await app.guard.decideAgain(request) // looking at images takes time
    return await app.jobs.submit({ ...job, owner, caller: callerOf(request), idempotencyKey }, attachments)
  }

  async function submit (
    request: FastifyRequest, reply: FastifyReply, drawings: Drawing[],
    { idempotencyKey }: { idempotencyKey?: string } = {}
  ): Promise<Job[]> {
    const { leaveRoom = () => {} } = request
    reply.raw.off('close', leaveRoom) // the images stay in memory when their sender goes
    // Images of megabytes are not kept while the caller waits for the job.
    request.body = undefined
    const jobs: Job[] = []
    try {
      for (let drawing; (drawing = drawings.shift()) !== undefined;) {
        jobs.push(await submitOne(request, drawing, idempotencyKey))
      }
      return jobs
    } catch (error) {
      for (const { id } of jobs) await abandon(app.jobs, id, app)
      throw error
    } finally {
      leaveRoom()
    }
  }

  async function finish (
    request: FastifyRequest, reply: FastifyReply, jobs: Job[], heard?: Parameters<ImageJobs['finish']>[3]
  ): Promise<Job[]> {
    const ended = new AbortController()
    const signal = AbortSignal.any([reply.closeSignal, ended.signal])
    const wait = { caller: callerOf(request), signal, isKept: limits.keepAbandonedJobs, log: app.log }
    try {
      const finished = await Promise.all(jobs.map(async (job, index) => awaitJob(app.jobs, job, {
        ...wait, heard: heard && (event => heard(event, index))
      })))
      await app.guard.decideAgain(request)
      return finished
    } catch (error) {
      ended.abort(error)
      throw error
    }
  }

  app.decorate('imageJobs', {
    parameters,
    bodyLimits: bodies,
    holdRoom,
    submit,
    finish,
    drawAndWait: async (request, reply, drawings) => finish(request, reply, await submit(request, reply, drawings))
  })
}, { name: 'image-jobs', dependencies: ['config', 'engine', 'models', 'images', 'jobs', 'guard', 'close-signal'] })
