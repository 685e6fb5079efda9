import { apiError, type ApiError } from '../../errors.ts'
import type { Job } from './job.ts'
import type { JobQueue } from './queue.ts'

interface Wait {
  /** Whose share of the places to wait it takes. */
  caller: string
  /** Aborted when the caller leaves, with the reason. */
  signal: AbortSignal
  /** Whether the job goes on when the caller does not wait to its end. */
  isKept: boolean
  log: { warn: (details: object, message: string) => void }
  /** Hears of the job's progress and previews. */
  heard?: (event: { name: string, data: unknown }) => Promise<void> | void
}

/** Milliseconds after which a caller has waited in vain. */
const longestWait = 60 * 60 * 1000

/**
 * Waits for the end of a job whose caller gets nothing but its images. When the caller leaves, may not wait, or waits
 * for more than an hour, the job is cancelled unless `isKept`.
 * @returns the job when it is completed
 * @throws {ApiError} SDR_JOB_FAILED, SDR_JOB_CANCELLED; SDR_RATE_LIMITED or SDR_UNAVAILABLE when too many wait;
 *   SDR_DRAINING; the reason of `signal`
 */
export async function awaitJob (queue: JobQueue, { id }: Job, wait: Wait): Promise<Job> {
  const { caller, signal, heard } = wait
  let job: Job | undefined
  try {
    const events = await queue.subscribe(id, { caller, signal, kind: heard === undefined ? 'wait' : 'stream' })
    const timer = setTimeout(() => events.end(), longestWait)
    try {
      for await (const event of events) {
        if (event.name === 'done') job = event.data as Job
        else await heard?.(event)
      }
    } finally {
      clearTimeout(timer)
    }
    if (job === undefined) throw whyNoEnd(queue, signal)
  } catch (error) {
    if (!wait.isKept) await abandon(queue, id, wait)
    throw error
  }
  if (job.status === 'completed') return job
  throw jobError(job)
}

/** Cancels a job that has no caller any more; what it has already made stays in the list of jobs. */
export async function abandon (queue: JobQueue, id: string, { log }: Pick<Wait, 'log'>): Promise<void> {
  await queue.cancel(id).catch((error: ApiError) => {
    if (error.code === 'SDR_JOB_NOT_CANCELLABLE' || error.code === 'SDR_JOB_NOT_FOUND') return
    log.warn({ job: id, err: error }, 'A job whose caller has left cannot be cancelled')
  })
}

/** What the caller of a job gets that ended without images. */
function jobError ({ status, error, id }: Job): ApiError {
  const details = { job: id, ...(error !== null && { code: error.code }) }
  return status === 'cancelled'
    ? apiError('SDR_JOB_CANCELLED', undefined, { details })
    : apiError('SDR_JOB_FAILED', error?.message, { details })
}

function whyNoEnd (queue: JobQueue, signal: AbortSignal): Error {
  if (signal.aborted) return signal.reason as Error
  if (queue.isDraining) return apiError('SDR_DRAINING')
  return apiError('SDR_JOB_FAILED', `The job has not ended within ${longestWait / 60_000} minutes.`)
}
