import type { Device, Preview } from '../engine/engine.ts'
import type { Job, JobProgress, JobType } from './job.ts'
import type { LoadedModel } from './schedule/loaded-model.ts'
import type { Inputs } from './inputs.ts'
import type { JobObserver } from './observer.ts'
import type { Outputs, StoredImage } from './outputs.ts'

/**
 * Where jobs are done, one after the other in each lane: there is an `engine` lane for each device, and one lane
 * `files` for what needs no engine.
 */
export type LaneKind = 'engine' | 'files'

/** What came of a job. */
export interface Outcome {
  /** Lie in the folder of outputs already. */
  images?: readonly StoredImage[]
  /** Becomes the `result` of the job. */
  result?: Record<string, unknown>
}

/** One attempt to do a job, as its executor sees it. */
export interface Attempt {
  /** Aborted when the job is cancelled or the server stops: then the executor soon throws and leaves nothing behind. */
  signal: AbortSignal
  /** Tells how far it is. */
  progress: (progress: JobProgress) => void
}

export interface EngineAttempt extends Attempt {
  /** Its engine is idle and this attempt's alone until it is over. */
  device: Device
  /** What that engine holds in memory. */
  loadedModel: LoadedModel
  preview: (preview: Preview) => void
}

/**
 * How jobs of one type are done, and in which lane. Decides nothing about the state of the job: what it throws fails
 * the job, unless the engine is to blame; the code of an ApiError becomes that of the job.
 */
export type Executor = {
  /** Deletes what a job has left to go on with later; called when it was cancelled after it had begun. */
  abandon?: (job: Job) => Promise<void>
} & (
  | { readonly lane: 'engine', execute (job: Job, attempt: EngineAttempt): Promise<Outcome> }
  | { readonly lane: 'files', execute (job: Job, attempt: Attempt): Promise<Outcome> }
)

export type Executors = Partial<Record<JobType, Executor>>

/** What the queue has for those who do its jobs. */
export interface ExecutorParts {
  inputs: Inputs
  outputs: Outputs
  observer?: JobObserver
}
