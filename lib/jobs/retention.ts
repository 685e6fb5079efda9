import { setImmediate as nextTurn } from 'node:timers/promises'
import type { JobStore } from './store/job-store.ts'
import type { OutputOwner, Outputs } from './outputs.ts'
import type { Logger } from '../util/logger.ts'

export interface RetentionOptions {
  /** Ended jobs that are kept, of all callers and of one. */
  keepJobs?: number
  keepJobsPerOwner?: number
  /** Days for which an ended job is kept. */
  keepDays?: number
  /** Bytes of kept images, of all callers and of one; then those of the jobs that ended first go, and the jobs stay. */
  keepBytes?: number
  keepBytesPerOwner?: number
  /** Milliseconds of a monotonic clock. */
  uptime?: () => number
}

interface RetentionParts extends RetentionOptions {
  store: Pick<JobStore, 'retention'>
  outputs: Outputs
  logger: Logger
  /** Milliseconds since 1970. */
  now?: () => number
}

const hour = 60 * 60 * 1000
const day = 24 * hour
/** Jobs that are deleted without a pause; the server answers requests in between. */
const batch = 100

/**
 * Deletes old jobs together with their images, and images that take too much room: every hour, and whenever a job has
 * ended. The database goes first: files that a crash leaves behind have no row, and the next start deletes them.
 */
export class Retention {
  readonly #parts: RetentionParts
  #timer: NodeJS.Timeout | undefined
  #running: Promise<void> | undefined
  #isStopped = false
  /** The clock against the uptime. */
  #offset: number
  #agesCountFrom = 0

  constructor (parts: RetentionParts) {
    this.#parts = parts
    this.#offset = this.#clockOffset()
  }

  start (): void {
    this.#timer ??= setInterval(() => this.sweep(), hour).unref()
    this.sweep()
  }

  /** Deletes what is due, in the background. */
  sweep (): void {
    if (this.#isStopped) return
    this.#running ??= this.#sweep().catch(error => {
      this.#parts.logger.error({ err: error }, 'Old jobs cannot be deleted')
    }).finally(() => { this.#running = undefined })
  }

  /** Fulfilled when nothing is being deleted any more. */
  async stop (): Promise<void> {
    this.#isStopped = true
    clearInterval(this.#timer)
    await this.#running
  }

  async #sweep (): Promise<void> {
    const { store: { retention }, logger } = this.#parts
    const { keepJobs = 10_000, keepJobsPerOwner, keepBytes = Infinity, keepBytesPerOwner = Infinity } = this.#parts
    // Callers that wait for the job that has just ended are told first.
    await nextTurn()
    while (!this.#isStopped) {
      const old = await retention.expired({
        keepJobs, keepJobsPerOwner, keepAfter: this.#keepAfter(), limit: batch
      })
      const large = old.length > 0
        ? []
        : await retention.overQuota({ keepBytes, keepBytesPerOwner, limit: batch })
      if (old.length > 0) {
        await retention.remove(old.map(({ id }) => id))
        logger.info({ jobs: old.length }, 'Old jobs deleted')
      } else if (large.length > 0) {
        await retention.dropImages(large.map(({ id }) => id))
        logger.info({ jobs: large.length }, 'The oldest images deleted to make room')
      } else {
        return
      }
      for (const job of [...old, ...large]) await this.#removeFiles(job)
    }
  }

  async #removeFiles (job: OutputOwner): Promise<void> {
    const { outputs, logger } = this.#parts
    await outputs.remove(job).catch(error => {
      logger.warn({ job: job.id, err: error }, 'Deleted images remain until the next start')
    })
  }

  /** A clock that was just set forward does not make jobs old: for an hour none is deleted for age. */
  #keepAfter (): number {
    const { keepDays = 30, now = Date.now } = this.#parts
    const offset = this.#clockOffset()
    if (offset - this.#offset > hour) this.#agesCountFrom = this.#uptime() + hour
    this.#offset = offset
    return this.#uptime() < this.#agesCountFrom ? -Infinity : now() - keepDays * day
  }

  #clockOffset (): number {
    return (this.#parts.now ?? Date.now)() - this.#uptime()
  }

  #uptime (): number {
    return this.#parts.uptime?.() ?? performance.now()
  }
}
