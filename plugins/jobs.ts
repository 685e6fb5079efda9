import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { drawingExecutors, type Resolve } from '../lib/generation/run/drawing.ts'
import { toEngineTerms } from '../lib/generation/run/engine-terms.ts'
import { callerOf } from '../lib/http/rate-limits.ts'
import type { Job } from '../lib/jobs/job.ts'
import { JobQueue } from '../lib/jobs/queue.ts'
import { modelExecutors } from '../lib/models/jobs.ts'
import type { Options } from '../lib/options/options.ts'
import { AllowList } from '../lib/network/allow-list.ts'
import type { WebhookOptions } from '../lib/jobs/webhooks/webhooks.ts'
import { CommandError, exitCodes } from '../errors.ts'

declare module 'fastify' {
  interface FastifyInstance {
    jobs: JobQueue
    /** Answers with a job that was just accepted: at once, or as it is at its end when `?wait=` asks for that. */
    answerJob: (request: FastifyRequest, reply: FastifyReply, accepted: Job) => Promise<FastifyReply>
  }
}

/** @param mebibytes 0 means that there is no limit. */
function bytes (mebibytes: number): number {
  return mebibytes === 0 ? Infinity : mebibytes * 1024 * 1024
}

/** @throws {CommandError} (usage) when the hosts or the secret are none. */
function webhooks ({ webhookHosts, webhookSecret = '' }: Options): WebhookOptions | undefined {
  const hosts = new AllowList(webhookHosts, '--webhook-hosts')
  if (hosts.isEmpty) return undefined
  if (webhookSecret.length < 32) {
    throw new CommandError(exitCodes.usage,
      'Expected a secret of at least 32 characters for --webhook-secret, because --webhook-hosts is given; ' +
      '`openssl rand -hex 32` makes one')
  }
  return { hosts, secret: webhookSecret }
}

function openQueue (app: FastifyInstance): JobQueue {
  const resolve: Resolve = (job, attachments, device) => toEngineTerms(job, attachments, {
    catalog: app.models, engine: device.engine, options: { ...app.config, device: device.name }
  })
  return new JobQueue({
    dataDir: app.folders.data,
    basePath: app.config.basePath,
    devices: app.devices,
    executors: parts => ({
      ...drawingExecutors(resolve)(parts),
      ...modelExecutors({ catalog: app.models, puller: app.puller, staging: app.staging })
    }),
    logger: app.log,
    observer: app.metrics.jobs,
    idleUnload: app.config.idleUnload * 60_000,
    webhooks: webhooks(app.config),
    capacity: app.config.queueCapacity,
    capacityPerOwner: app.config.queuePerOwner,
    inputBytes: bytes(app.config.queueInputsSize),
    inputBytesPerOwner: bytes(app.config.queueInputsPerOwner),
    overtakeLimit: app.config.overtakeLimit,
    keepJobs: app.config.keepJobs,
    keepJobsPerOwner: app.config.keepJobsPerOwner || undefined,
    keepDays: app.config.keepDays,
    keepBytes: bytes(app.config.keepOutputsSize),
    keepBytesPerOwner: bytes(app.config.keepOutputsPerOwner),
    // The engine's own grace period comes first; this is for an engine that is beyond obeying.
    abortTimeout: (app.config.cancelGrace + 10) * 1000
  })
}

/** The job queue and its scheduler, in `jobs.db`, `inputs/` and `outputs/` of the data folder. */
export default fp(async (app) => {
  const jobs = openQueue(app)
  app.decorate('jobs', jobs)
  app.decorate('answerJob', async (request, reply, accepted) => {
    const { wait = 0 } = request.query as { wait?: number }
    const job = wait === 0
      ? accepted
      : await jobs.waitFor(accepted.id, wait * 1000, { signal: reply.closeSignal, caller: callerOf(request) })
    if (wait > 0) await app.guard.decideAgain(request)
    return reply
      .header('location', `${app.config.basePath ?? ''}/api/queue/job/${accepted.id}`)
      .code(job.finished_at === null ? 202 : 200)
      .send(job)
  })
  app.addHook('onReady', async () => jobs.start())
  // Before the connections are closed: callers that wait for the running job still get it.
  app.addHook('preClose', async () => jobs.drain(app.config.shutdownTimeout * 1000))
  app.addHook('onClose', async () => jobs.close())
}, { name: 'jobs', dependencies: ['config', 'metrics', 'engine', 'models'] })
