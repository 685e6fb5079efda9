import { apiError, type ApiError } from '../../../errors.ts'

export interface Bounds {
  /** Jobs that may wait, of all callers and of one. */
  capacity?: number
  capacityPerOwner?: number
  /** Bytes of attachments of jobs that have not ended, of all callers and of one. */
  inputBytes?: number
  inputBytesPerOwner?: number
  /** Webhooks of one caller that are not delivered yet. */
  webhooksPerOwner?: number
}

/** What is taken of a bound, by the caller and by all together. */
interface Taken {
  own: number
  all: number
}

export const defaultCapacity = 1000

/** Engine crashes after which a job has failed: the second one shows that the job causes them. */
export const mostEngineCrashes = 2
/** Deaths of the server under a job after which it fails: most have other causes, but a job may kill servers too. */
export const mostServerDeaths = 5
/** Characters of `error.message`: an engine's last words can be a long log. */
export const longestMessage = 2000
export const mostPerPage = 200
/** Characters of parameters after which a page ends early: more would keep the event loop busy. */
export const bytesPerPage = 1024 * 1024
/** Milliseconds for which an idempotency key is known. */
export const keyLifetime = 24 * 60 * 60 * 1000

/** Callers who may have all the webhooks that one may have. */
const callersWithWebhooks = 20

/** @throws {ApiError} SDR_QUEUE_FULL when no more jobs of the caller may wait. */
export function checkWaiting (
  { own, all }: Taken, { capacity = defaultCapacity, capacityPerOwner = 100 }: Bounds
): void {
  if (all >= capacity) throw queueFull(`${capacity} jobs are waiting, and the queue takes no more;`)
  if (own >= capacityPerOwner) {
    throw queueFull(`${capacityPerOwner} of your jobs are waiting, and one caller may not have more;`)
  }
}

/**
 * @param bytes of the attachments of a new job.
 * @throws {ApiError} SDR_QUEUE_FULL, SDR_BODY_TOO_LARGE when they are too large for an empty queue.
 */
export function checkInputs (
  bytes: number, { own, all }: Taken, { inputBytes = Infinity, inputBytesPerOwner = Infinity }: Bounds
): void {
  const most = Math.min(inputBytes, inputBytesPerOwner)
  if (bytes > most) {
    throw apiError('SDR_BODY_TOO_LARGE', `The images of one job may have ${most} bytes together; these have ${bytes}.`)
  }
  if (own + bytes > inputBytesPerOwner) {
    throw queueFull(`The images of your jobs that have not ended take ${own} bytes, these ${bytes} more, ` +
      `and one caller may have ${inputBytesPerOwner};`)
  }
  if (all + bytes > inputBytes) {
    throw queueFull(`The images of all jobs that have not ended may take ${inputBytes} bytes, ` +
      `and there is no room for these ${bytes};`)
  }
}

/** @throws {ApiError} SDR_QUEUE_FULL when no more webhooks of the caller may wait. */
export function checkWebhooks ({ own, all }: Taken, { webhooksPerOwner = 1000 }: Bounds): void {
  if (own >= webhooksPerOwner) {
    throw queueFull(`${own} webhooks of your jobs are not delivered yet, and one caller may not have more; ` +
      'ask without webhook_url, or')
  }
  if (all >= webhooksPerOwner * callersWithWebhooks) {
    throw queueFull(`${all} webhooks are not delivered yet; ask without webhook_url, or`)
  }
}

function queueFull (reason: string): ApiError {
  // Seconds: about the time of one job.
  return apiError('SDR_QUEUE_FULL', `${reason} try again later.`, { retryAfter: 10 })
}
