import type { Job } from './job.ts'

/** Counts what happens to jobs. All times in seconds. */
export interface JobObserver {
  /** Completed, failed or cancelled, from the queue too. */
  ended: (job: Job) => void
  /** The engine holds another model now. */
  loaded: (took: number) => void
  /** Sampling went on by one step. */
  stepped: (took: number) => void
}
