import { join, resolve as absolute } from 'node:path'
import { uuidv7 } from 'uuidv7'
import { apiError, CommandError, exitCodes, type ApiError } from '../../errors.ts'
import { prepareFolder } from '../options/folders.ts'
import { AllowList } from '../network/allow-list.ts'
import { guarded } from '../util/rarely.ts'
import { FolderBlobs, type StoredBlob } from '../storage/blobs.ts'
import { isStorageFull, storageError } from '../storage/storage-errors.ts'
import { checkUrl } from './webhooks/delivery.ts'
import { Webhooks, type WebhookOptions } from './webhooks/webhooks.ts'
import type { ExecutorParts, Executors } from './executor.ts'
import { Inputs } from './inputs.ts'
import { JobEvents, type JobEventsOptions, type JobEventStream, type SubscribeOptions } from './job-events.ts'
import type { JobStore, JobStoreOptions } from './store/job-store.ts'
import { SqliteJobStore } from './store/sqlite/sqlite-job-store.ts'
import {
  isEnded, type Attachments, type Job, type JobFilter, type JobPage, type JobStatus, type NewJob
} from './job.ts'
import { bytesOf, checkNewJob, toIdempotency, withSeed } from './new-job.ts'
import { longestTimer } from './schedule/lane.ts'
import type { Maybe } from '../util/maybe.ts'
import { Outputs } from './outputs.ts'
import { Retention, type RetentionOptions } from './retention.ts'
import { Scheduler, type SchedulerParts, type SchedulerStatus } from './schedule/scheduler.ts'

type SchedulerOptions =
  Pick<SchedulerParts, 'devices' | 'idleUnload' | 'logger' | 'observer' | 'backOff' | 'abortTimeout'>

export interface JobQueueOptions
  extends Omit<JobStoreOptions, 'laneOf'>, JobEventsOptions, RetentionOptions, SchedulerOptions {
  /** Holds `jobs.db`, `inputs/` and `outputs/`; made with mode 0700. */
  dataDir: string
  /** How jobs are done, by type. */
  executors: (parts: ExecutorParts) => Executors
  /** Without them no job may have a webhook. */
  webhooks?: WebhookOptions
  /** `jobs.db` unless given. */
  openStore?: (options: JobStoreOptions) => JobStore
}

interface QueueStatus extends Record<JobStatus, number> {
  /** Jobs that may wait. */
  capacity: number
  scheduler: SchedulerStatus
}

/** Whose jobs are meant: those of a user id, or all when there is none. */
interface Viewer {
  owner?: string
}

/** Milliseconds between two looks at the positions of jobs that have listeners. */
const positionInterval = 1000

/** The job queue, as everything outside of it uses it. */
export class JobQueue {
  readonly #parts: Omit<SchedulerParts, 'onEnded'>
  readonly #store: JobStore
  readonly #events: JobEvents
  readonly #scheduler: Scheduler
  readonly #retention: Retention
  readonly #webhookHosts: AllowList
  readonly #webhooks: Webhooks | undefined
  #positionTimer: NodeJS.Timeout | undefined
  #closing: Promise<void> | undefined

  /** @throws {CommandError} when the data folder or the database can't be opened. */
  constructor (options: JobQueueOptions) {
    const dataDir = absolute(options.dataDir)
    prepareFolder(dataDir, '--data-dir')
    const inputs = new Inputs(new FolderBlobs(join(dataDir, 'inputs')))
    const outputs = new Outputs(new FolderBlobs(join(dataDir, 'outputs')))
    const executors = options.executors({ inputs, outputs, observer: options.observer })
    const { openStore = storeOptions => new SqliteJobStore(join(dataDir, 'jobs.db'), storeOptions) } = options
    this.#store = openStore({ ...options, laneOf: type => executors[type]?.lane ?? 'engine' })
    this.#events = new JobEvents(options)
    this.#parts = { ...options, executors, store: this.#store, inputs, outputs, events: this.#events }
    this.#retention = new Retention(this.#parts)
    this.#webhookHosts = options.webhooks?.hosts ?? new AllowList([], '--webhook-hosts')
    this.#webhooks = options.webhooks && new Webhooks({ ...this.#parts, ...options.webhooks })
    this.#scheduler = new Scheduler({ ...this.#parts, onEnded: job => this.#onEnded(job) })
  }

  /**
   * Takes up what an earlier process left, then starts to work.
   * @throws {CommandError} when there is no room to note that.
   */
  async start (): Promise<void> {
    try {
      await this.#recover()
    } catch (error) {
      if (!isStorageFull(error)) throw error
      throw new CommandError(exitCodes.storage,
        `There is no room left in the data folder (${(error as Error).message}). Make room, then start again.`,
        { cause: error })
    }
    this.#scheduler.start()
    this.#retention.start()
    this.#webhooks?.wake()
    this.#positionTimer = setInterval(
      guarded(this.#parts.logger, 'The positions of waiting jobs cannot be read', () => this.#publishPositions()),
      positionInterval).unref()
  }

  async #recover (): Promise<void> {
    for (const job of await this.#store.recover()) {
      this.#parts.logger.warn({ job: job.id, status: job.status }, 'The job was running when the server stopped')
      await this.#parts.outputs.remove(job)
    }
    await this.#parts.inputs.clean(async ids => this.#store.positions(ids))
    await this.#parts.outputs.clean(async ids => this.#store.retention.withImages(ids))
  }

  /**
   * Accepts a job: when the promise is fulfilled it survives a crash of the server and of the machine. A seed is chosen
   * when there is none, or −1.
   * @throws {ApiError} SDR_INVALID_REQUEST, SDR_BODY_TOO_LARGE, SDR_FORBIDDEN (of a webhook), SDR_IDEMPOTENCY_CONFLICT,
   * SDR_DRAINING, SDR_QUEUE_FULL, SDR_STORAGE_FULL
   */
  async submit (newJob: NewJob, attachments: Attachments = {}): Promise<Job> {
    checkNewJob(newJob, attachments)
    if (newJob.webhookUrl !== undefined) checkUrl(newJob.webhookUrl, this.#webhookHosts)
    const idempotency = toIdempotency(newJob, attachments)
    const { caller = newJob.owner } = newJob
    const earlier = await this.#store.findByKey(caller, idempotency)
    if (earlier !== undefined) return this.#withProgress(earlier)
    if (this.#scheduler.isDraining) throw apiError('SDR_DRAINING')
    const inputBytes = bytesOf(attachments)
    await this.#store.checkRoom(caller, inputBytes)

    const id = uuidv7()
    try {
      await this.#parts.inputs.save(id, attachments)
      const { job, isNew } = await this.#store.accept({
        id,
        type: newJob.type,
        owner: newJob.owner,
        caller,
        inputBytes,
        model: newJob.model,
        priority: newJob.priority ?? 0,
        parameters: withSeed(newJob),
        idempotency,
        webhookUrl: newJob.webhookUrl
      })
      if (!isNew) await this.#parts.inputs.remove(id)
      this.#scheduler.wake()
      return this.#withProgress(job)
    } catch (error) {
      await this.#parts.inputs.remove(id)
      throw storageError(error) ?? error
    }
  }

  /** @throws {ApiError} SDR_JOB_NOT_FOUND, also for a job of another owner. */
  async get (id: string, { owner }: Viewer = {}): Promise<Job> {
    const job = await this.#store.get(id)
    if (job === undefined || (owner !== undefined && job.owner !== owner)) throw apiError('SDR_JOB_NOT_FOUND')
    return this.#withProgress(job)
  }

  async list (filter: JobFilter = {}): Promise<JobPage> {
    const page = await this.#store.list(filter)
    return { ...page, jobs: page.jobs.map(job => this.#withProgress(job)) }
  }

  /**
   * A waiting job is cancelled at once; a running one when the engine let go of it, which `waitFor` waits for.
   * @throws {ApiError} SDR_JOB_NOT_FOUND, SDR_JOB_NOT_CANCELLABLE
   */
  async cancel (id: string, viewer: Viewer = {}): Promise<Job> {
    await this.get(id, viewer)
    let job: Job | undefined
    try {
      job = await this.#store.cancel(id)
    } catch (error) {
      if (!this.#scheduler.cancel(id)) throw error
      // Only a server that dies before the engine lets go of the job would have needed it.
      this.#parts.logger.warn({ job: id, err: error }, 'That a job is to be cancelled cannot be stored')
      return await this.get(id, viewer)
    }
    if (job === undefined) {
      const { status } = await this.get(id, viewer)
      throw apiError('SDR_JOB_NOT_CANCELLABLE', `The job is ${status} already.`)
    }
    if (job.status === 'running') {
      this.#scheduler.cancel(id)
      return this.#withProgress(job)
    }
    this.#events.publishJob(job)
    await this.#parts.inputs.remove(id)
    // It may have come back to the queue half done.
    await this.#parts.executors[job.type]?.abandon?.(job).catch((error: unknown) => {
      this.#parts.logger.warn({ job: id, err: error }, 'Files of a job cannot be deleted')
    })
    this.#onEnded(job)
    return job
  }

  /** Cancels the waiting and running jobs of the owners that `isGone` says so of. */
  async cancelAllOf (isGone: (owner: string) => Maybe<boolean>): Promise<void> {
    const answers = new Map<string, boolean>()
    for (const { id, owner } of await this.#store.unended()) {
      if (!answers.has(owner)) answers.set(owner, await isGone(owner))
      if (answers.get(owner) === false) continue
      const job = await this.cancel(id).catch((error: ApiError) => {
        // It ended meanwhile.
        if (error.code === 'SDR_JOB_NOT_CANCELLABLE' || error.code === 'SDR_JOB_NOT_FOUND') return undefined
        throw error
      })
      if (job !== undefined) {
        this.#parts.logger.info({ job: id, owner }, 'A job was cancelled, because its owner was disabled or removed')
      }
    }
  }

  async status (): Promise<QueueStatus> {
    const [counts, waiting] = await Promise.all([this.#store.counts(), this.#store.waiting('engine')])
    return { ...counts, capacity: this.#store.capacity, scheduler: this.#scheduler.status(waiting > 0) }
  }

  /** The ids of the models that the engines hold. */
  get loadedModels (): string[] {
    return this.#scheduler.loadedModels
  }

  get isDraining (): boolean {
    return this.#scheduler.isDraining
  }

  /** Files that the engines hold in memory, and ids of the models that the running jobs are for. */
  get inUse (): { files: string[], models: string[] } {
    return this.#scheduler.inUse
  }

  /**
   * The job when it has ended, or as it is after `milliseconds`, when `signal` is aborted, or at once when too many
   * requests wait already, of this caller or of all.
   * @throws {ApiError} SDR_JOB_NOT_FOUND
   */
  async waitFor (
    id: string, milliseconds: number, { owner, ...options }: Viewer & Pick<SubscribeOptions, 'signal' | 'caller'> = {}
  ): Promise<Job> {
    const events = await this.#whileCurrent(async () => this.get(id, { owner }), job => {
      const { caller = job.owner } = options
      if (isEnded(job.status) || this.#events.isClosed || !this.#events.canWait(caller)) return job
      return this.#events.subscribe(job, { ...options, caller, kind: 'wait' })
    })
    if ('status' in events) return events
    const timer = setTimeout(() => events.end(), Math.min(milliseconds, longestTimer))
    try {
      for await (const { name, data } of events) {
        if (name === 'done') return data as Job
      }
      return await this.get(id, { owner })
    } finally {
      clearTimeout(timer)
    }
  }

  /**
   * What happens to a job, until its end. The job goes on when its listener leaves.
   * @throws {ApiError} SDR_JOB_NOT_FOUND; SDR_RATE_LIMITED when this caller has too many streams, SDR_UNAVAILABLE when
   *   all together have.
   */
  async subscribe (id: string, { owner, ...options }: Viewer & SubscribeOptions = {}): Promise<JobEventStream> {
    return await this.#whileCurrent(async () => this.get(id, { owner }), job => this.#events.subscribe(job, options))
  }

  /**
   * @param job as `get` returned it for the caller.
   * @throws {ApiError} SDR_IMAGE_NOT_FOUND
   */
  async openImage ({ id }: Job, index: number): Promise<StoredBlob> {
    const key = await this.#store.imageKey(id, index)
    if (key === undefined) throw apiError('SDR_IMAGE_NOT_FOUND')
    const image = await this.#parts.outputs.open(key)
    if (image === undefined) throw apiError('SDR_IMAGE_NOT_FOUND', 'The file of this image was deleted.')
    return image
  }

  /** Loads a model between two jobs, so that the next job for it starts sooner; see `Scheduler.load`. */
  async loadModel (...args: Parameters<Scheduler['load']>): Promise<void> {
    await this.#scheduler.load(...args)
  }

  /** Frees the memory of loaded models between two jobs; see `Scheduler.unload`. */
  async unloadModel (...args: Parameters<Scheduler['unload']>): Promise<void> {
    await this.#scheduler.unload(...args)
  }

  /**
   * Takes no more jobs; the running ones have `milliseconds` to finish, or go back to the queue. Then all event streams
   * end, and callers that wait for a job get it as it is.
   */
  async drain (milliseconds: number): Promise<void> {
    await this.#scheduler.drain(milliseconds)
    this.#events.close()
  }

  /** Drains without waiting, ends all event streams and closes the database. */
  async close (): Promise<void> {
    await (this.#closing ??= this.#close())
  }

  async #close (): Promise<void> {
    clearInterval(this.#positionTimer)
    await this.drain(0)
    await this.#retention.stop()
    await this.#webhooks?.stop()
    await this.#store.close()
  }

  #onEnded (job: Job): void {
    this.#parts.observer?.ended(job)
    this.#retention.sweep()
    this.#webhooks?.wake()
  }

  #withProgress (job: Job): Job {
    return job.status === 'running' ? { ...job, progress: this.#scheduler.progressOf(job.id) } : job
  }

  async #publishPositions (): Promise<void> {
    const watched = this.#events.watched()
    const positions = await this.#store.positions(watched.map(({ id }) => id))
    for (const { id, position } of watched) {
      if ((positions.get(id) ?? null) === position) continue
      await this.#whileCurrent(async () => this.#store.get(id), job => {
        if (job?.status === 'queued') this.#events.publishJob(job)
      })
    }
  }

  /**
   * Reads something of a job and uses it before another state is published. Otherwise a subscriber could begin with a
   * state that is over, and wait for an end that was published before it came.
   */
  async #whileCurrent<Read, Result> (read: () => Promise<Read>, use: (read: Read) => Result): Promise<Result> {
    for (;;) {
      const { lastChange } = this.#events
      const value = await read()
      if (lastChange === this.#events.lastChange) return use(value)
    }
  }
}
