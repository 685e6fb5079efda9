import type { JobStore } from './job-store.ts'
import type { Outputs } from './outputs.ts'
import type { Logger } from './scheduler.ts'

export interface RetentionOptions {
  /** Ended jobs that are kept, the newest ones. */
  keepJobs?: number
  /** Days for which an ended job is kept. */
  keepDays?: number
}

interface RetentionParts extends RetentionOptions {
  store: JobStore
  outputs: Outputs
  logger: Logger
  /** Milliseconds since 1970. */
  now?: () => number
}

const hour = 60 * 60 * 1000
const day = 24 * hour
/** Jobs that are deleted without a pause; the server answers requests in between. */
const batch = 100

/** Deletes old jobs together with their images: every hour, and whenever a job has ended. */
export class Retention {
  readonly #parts: RetentionParts
  #timer: NodeJS.Timeout | undefined
  #running: Promise<void> | undefined
  #isStopped = false

  constructor (parts: RetentionParts) {
    this.#parts = parts
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
    const { store, outputs, logger, keepJobs = 10_000, keepDays = 30, now = Date.now } = this.#parts
    while (!this.#isStopped) {
      const jobs = store.expired({ keepJobs, keepAfter: now() - keepDays * day, limit: batch })
      if (jobs.length === 0) return
      for (const job of jobs) {
        await outputs.remove(job).catch(error => {
          logger.warn({ job: job.id, err: error }, 'The images of a deleted job remain until the next start')
        })
      }
      store.remove(jobs.map(({ id }) => id))
      logger.info({ jobs: jobs.length }, 'Old jobs deleted')
    }
  }
}
