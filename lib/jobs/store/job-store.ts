import type { Idempotency } from '../new-job.ts'
import type { LaneKind, Outcome } from '../executor.ts'
import type { Job, JobError, JobFilter, JobPage, JobStatus, JobType, NewJob } from '../job.ts'
import type { StoredImage } from '../outputs.ts'
import type { Bounds } from './bounds.ts'

export interface JobStoreOptions extends Bounds {
  /** How often a job may be overtaken by jobs for the model that is loaded. */
  overtakeLimit?: number
  /** Which lane a type of jobs waits for; the engines unless said. */
  laneOf?: (type: JobType) => LaneKind
  /** Before the paths of images. */
  basePath?: string
  /** Milliseconds since 1970. */
  now?: () => number
}

/** A request that has passed all checks. */
export interface AcceptedJob extends Required<Pick<NewJob, 'type' | 'owner' | 'model' | 'priority' | 'parameters'>> {
  /** A UUID that the caller has made; the keys of the attachments contain it. */
  id: string
  /** Whose share of the bounds it takes; the owner's unless said. */
  caller?: string
  /** Of its attachments. */
  inputBytes?: number
  idempotency?: Idempotency
  webhookUrl?: string
}

/** The lane that asks for a job. */
export interface Claimant {
  lane: LaneKind
  /** The model that its engine holds. */
  loadedModel?: string
  /** The models that the other free engines hold, undefined for one that holds none. */
  others?: ReadonlyArray<string | undefined>
}

/**
 * The durable queue. Each method is one atomic operation, and its change is on the disk when the promise is fulfilled.
 * A change of state happens from the expected state or not at all; then the method resolves to undefined. What a method
 * returned may be out of date by the time that the caller sees it.
 */
export interface JobStore {
  /** Jobs that may wait. */
  readonly capacity: number
  readonly retention: JobRetention
  readonly webhooks: WebhookOutbox

  /**
   * Stores a job as queued, or returns the one that this caller submitted under the same idempotency key.
   * @throws {ApiError} SDR_QUEUE_FULL, SDR_IDEMPOTENCY_CONFLICT
   */
  accept (job: AcceptedJob): Promise<{ job: Job, isNew: boolean }>
  /**
   * @param inputBytes of the attachments of a new job.
   * @throws {ApiError} SDR_QUEUE_FULL when no such job of this caller would be accepted now, SDR_BODY_TOO_LARGE when
   *   never.
   */
  checkRoom (caller: string, inputBytes?: number): Promise<void>
  /**
   * The job that this caller submitted under the key within the last 24 hours.
   * @throws {ApiError} SDR_IDEMPOTENCY_CONFLICT when it was another request.
   */
  findByKey (caller: string, idempotency: Idempotency | undefined): Promise<Job | undefined>

  get (id: string): Promise<Job | undefined>
  /**
   * A page of jobs, newest first; it ends early where the jobs are long.
   * @throws {ApiError} SDR_INVALID_REQUEST for a cursor that no page gave.
   */
  list (filter?: JobFilter): Promise<JobPage>
  counts (): Promise<Record<JobStatus, number>>
  /** How many jobs wait for a lane of this kind. */
  waiting (lane: LaneKind): Promise<number>
  /** The places of those that wait, among the jobs for lanes of the same kind: 1 is next. */
  positions (ids: readonly string[]): Promise<ReadonlyMap<string, number>>
  /** Waiting and running jobs, without those that are being cancelled. */
  unended (): Promise<Array<Pick<Job, 'id' | 'owner'>>>
  /** The key of an image in the outputs; undefined when the job or the image does not exist. */
  imageKey (id: string, index: number): Promise<string | undefined>

  /** queued → running, for the job that this lane should run next. From here on one more attempt counts. */
  claim (claimant: Claimant): Promise<Job | undefined>
  /** running → completed, with its images or its result. */
  complete (id: string, images: readonly StoredImage[], result?: Outcome['result']): Promise<Job | undefined>
  /** running → failed */
  fail (id: string, error: JobError): Promise<Job | undefined>
  /** running → queued, at the front; the attempt does not count. A job that is to be cancelled is cancelled instead. */
  giveBack (id: string): Promise<Job | undefined>
  /** As `giveBack` after the first crash of an engine, but the attempt counts; running → failed after the second. */
  retryOrFail (id: string, reason: string): Promise<Job | undefined>
  /** queued → cancelled; a running job is marked, so that a restart does not bring it back, and stays running. */
  cancel (id: string): Promise<Job | undefined>
  /** running → cancelled, when the executor has let go of the job. */
  endCancelled (id: string): Promise<Job | undefined>
  /** Requeues or ends the jobs that were running when the server died; returns them as they are now. */
  recover (): Promise<Job[]>

  close (): Promise<void>
}

/** An ended job whose files are to be deleted. */
export type Removable = Pick<Job, 'id' | 'created_at'>

/** Which ended jobs and images have to go. */
export interface JobRetention {
  /**
   * Ended jobs that are too old or too many, at most `limit`: those that ended before `keepAfter`, then those of a
   * caller beyond `keepJobsPerOwner`, then, beyond `keepJobs`, those of the callers who have most.
   */
  expired (bounds: {
    keepJobs: number, keepJobsPerOwner?: number, keepAfter: number, limit: number
  }): Promise<Removable[]>
  /**
   * Ended jobs whose images exceed what may be kept, those that ended first; at most `limit`. Beyond `keepBytes` the
   * callers who have most lose theirs. The last job of a caller, and that of all, keeps its images, however large.
   */
  overQuota (bounds: { keepBytes: number, keepBytesPerOwner: number, limit: number }): Promise<Removable[]>
  /** Those of these jobs that have images. */
  withImages (ids: readonly string[]): Promise<ReadonlySet<string>>
  /** Forgets the images of jobs; the jobs stay. */
  dropImages (ids: readonly string[]): Promise<void>
  /** Forgets ended jobs with their images, and keys that are theirs or too old. */
  remove (ids: readonly string[]): Promise<void>
}

/** A webhook whose job has ended. */
export interface DueWebhook {
  sequence: number
  url: string
  tries: number
  /** The job's id. */
  id: string
}

/** Webhooks that are not delivered yet. A webhook is due when its job has ended, and again after each failed try. */
export interface WebhookOutbox {
  /** The callers with due webhooks, those who wait longest first. */
  dueCallers (now: number): Promise<string[]>
  /** Due webhooks of a caller, at most `limit`. */
  due (caller: string, now: number, limit: number): Promise<DueWebhook[]>
  /** When the next webhook is due after `now`, in milliseconds since 1970. */
  nextDue (now: number): Promise<number | undefined>
  postpone (sequence: number, dueAt: number): Promise<void>
  remove (sequence: number): Promise<void>
}
