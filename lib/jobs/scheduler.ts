import { setTimeout as delay } from 'node:timers/promises'
import { apiError } from '../../errors.ts'
import type { Engine, LoadOptions, ModelFiles } from '../engine/engine.ts'
import type { Inputs } from './inputs.ts'
import type { JobEvents } from './job-events.ts'
import { isCrash, isUnavailable, toJobError } from './job-error.ts'
import type { JobStore } from './job-store.ts'
import { isEnded, type Job, type JobProgress } from './job.ts'
import { LoadedModel } from './loaded-model.ts'
import type { JobObserver } from './observer.ts'
import type { Outputs } from './outputs.ts'
import { Run, type Resolve } from './run.ts'
import { StepTimes } from './step-times.ts'

export interface Logger {
  info (details: object, message: string): void
  warn (details: object, message: string): void
  error (details: object, message: string): void
}

export interface SchedulerParts {
  engine: Engine
  store: JobStore
  inputs: Inputs
  outputs: Outputs
  events: JobEvents
  resolve: Resolve
  logger: Logger
  observer?: JobObserver
  /** Called after a job has ended. */
  onEnded?: (job: Job) => void
  /** Milliseconds before an engine that can't be started is tried again; doubles up to a minute. */
  backOff?: number
  /** Milliseconds that an aborted job has to end when the server stops: longer than the engine's grace period. */
  abortTimeout?: number
  /** Milliseconds since 1970. */
  now?: () => number
}

export interface SchedulerStatus {
  state: 'stopped' | 'idle' | 'running' | 'blocked' | 'draining'
  /** The job that runs. */
  job: string | null
  /** Id of the model that the engine holds; with a digest behind it when a job has put it together. */
  loaded_model: string | null
  /** Why jobs have to wait, though none runs, and when that is tried again; null when the engine sees to that itself. */
  blocked: { reason: string, retry_at: string | null } | null
}

/** Something else than a job that is to be done on the engine. */
interface Errand {
  work: () => Promise<void>
  resolve: () => void
  reject: (reason: unknown) => void
}

const mostErrands = 10
const longestBackOff = 60_000

/** Gives the waiting jobs to one engine, one after the other. No job can stop it. */
export class Scheduler {
  readonly #parts: SchedulerParts
  readonly #now: () => number
  readonly #loadedModel: LoadedModel
  readonly #stepTimes: StepTimes
  readonly #errands: Errand[] = []
  /** Aborted when no more work is to be begun. */
  readonly #stop = new AbortController()
  #loop: Promise<void> | undefined
  #run: Run | undefined
  #blocked: SchedulerStatus['blocked'] = null
  #failures = 0
  #wake = () => {}
  #isAwake = false

  constructor (parts: SchedulerParts) {
    this.#parts = parts
    this.#now = parts.now ?? Date.now
    this.#loadedModel = new LoadedModel(parts.engine, parts.observer?.loaded)
    // Not the clock of the wall, which somebody may set while a job runs.
    this.#stepTimes = new StepTimes(() => performance.now(), parts.observer?.stepped)
  }

  get status (): SchedulerStatus {
    return {
      state: this.#state,
      job: this.#run?.job.id ?? null,
      loaded_model: this.#loadedModel.id ?? null,
      blocked: this.#blocked ?? this.#engineTrouble
    }
  }

  get isDraining (): boolean {
    return this.#stop.signal.aborted
  }

  start (): void {
    this.#loop ??= this.#work().finally(() => { this.#loop = undefined })
  }

  /** A job was added. */
  wake (): void {
    this.#isAwake = true
    this.#wake()
  }

  /** How far a running job is; null for any other. */
  progressOf (jobId: string): JobProgress | null {
    return this.#run?.job.id === jobId ? this.#run.progress : null
  }

  /** Asks the engine to let go of a running job, which is `cancelled` once it did. */
  cancel (jobId: string): void {
    if (this.#run?.job.id === jobId) this.#run.abort('cancel')
  }

  /**
   * Loads a model between two jobs.
   * @throws {EngineError}
   * @throws {ApiError} SDR_DRAINING, SDR_UNAVAILABLE
   */
  async load (model: string, files: ModelFiles, options: LoadOptions): Promise<void> {
    await this.#between(() => this.#loadedModel.load(model, { files, options }, { signal: this.#stop.signal }))
  }

  /** Frees the memory of the loaded model between two jobs; throws as `load` does. */
  async unload (): Promise<void> {
    await this.#between(() => this.#loadedModel.unload())
  }

  /**
   * Begins nothing more and waits for the running job; after `timeout` milliseconds that one goes back to the queue, as
   * if it had not been started.
   */
  async drain (timeout: number): Promise<void> {
    this.#stop.abort()
    this.wake()
    if (await this.#ends(timeout)) return
    const run = this.#run
    run?.abort('drain')
    if (await this.#ends(this.#parts.abortTimeout ?? 30_000) || run === undefined) return
    this.#parts.logger.error({ job: run.job.id }, 'The engine does not let go of the job; it is left behind')
    this.#leaveAfter(undefined, run)
  }

  get #state (): SchedulerStatus['state'] {
    if (this.#loop === undefined) return 'stopped'
    if (this.isDraining) return 'draining'
    if (this.#run !== undefined) return 'running'
    return this.#blocked === null && this.#engineTrouble === null ? 'idle' : 'blocked'
  }

  get #engineTrouble (): SchedulerStatus['blocked'] {
    const { engine: { status: { state, last_crash: crash } }, store } = this.#parts
    if (state !== 'backing_off' || store.waiting === 0) return null
    return { reason: `The engine crashed and is about to be started again. ${crash?.reason ?? ''}`.trimEnd(), retry_at: null }
  }

  async #work (): Promise<void> {
    while (!this.isDraining) {
      try {
        await this.#workOnce()
      } catch (error) {
        await this.#backOff(error)
      }
    }
    for (const { reject } of this.#errands.splice(0)) reject(apiError('SDR_DRAINING'))
  }

  async #workOnce (): Promise<void> {
    const errand = this.#errands.shift()
    if (errand !== undefined) return await this.#runErrand(errand)
    if (this.#parts.store.waiting === 0) {
      this.#unblock()
      return await this.#sleep()
    }
    await this.#loadedModel.startEngine()
    // Chosen only now: starting the engine takes time, and the queue goes on changing.
    const choice = this.isDraining ? undefined : this.#parts.store.next(this.#loadedModel.id)
    const job = choice && this.#parts.store.start(choice)
    if (job !== undefined) await this.#runJob(job)
    this.#unblock()
  }

  async #runJob (job: Job): Promise<void> {
    const { store, inputs, outputs, events, logger } = this.#parts
    logger.info({ job: job.id, owner: job.owner, model: job.model, attempt: job.attempts }, 'Job started')
    const run = new Run(job, { ...this.#parts, loadedModel: this.#loadedModel, stepTimes: this.#stepTimes })
    this.#run = run
    events.publishJob(job)

    let failure: unknown
    let leave: () => Job | undefined
    try {
      const images = await run.execute()
      leave = () => run.ending === 'cancel' ? store.endCancelled(job.id) : store.complete(job.id, images)
    } catch (error) {
      failure = error
      leave = () => this.#leaveAfter(error, run)
    }
    const left = await this.#persist(leave)
    this.#run = undefined
    if (left?.status !== 'completed') await this.#tidy(job, () => outputs.remove(job))
    if (left === undefined) return
    if (isEnded(left.status)) await this.#tidy(job, () => inputs.remove(job.id))
    this.#report(left, failure)
    if (left.status === 'queued' && isUnavailable(failure)) throw failure
  }

  #leaveAfter (error: unknown, { job, ending }: Run): Job | undefined {
    const { store } = this.#parts
    if (ending === 'cancel') return store.endCancelled(job.id)
    if (ending === 'drain' || isUnavailable(error)) return store.giveBack(job.id)
    if (isCrash(error)) return store.retryOrFail(job.id, error.message)
    return store.fail(job.id, toJobError(error))
  }

  /**
   * Waits until a change of state is stored, however long the database can't be written.
   * @returns undefined when the job was in another state, or the server stops: then the next start decides about it.
   */
  async #persist (change: () => Job | undefined): Promise<Job | undefined> {
    for (;;) {
      try {
        return change()
      } catch (error) {
        if (this.isDraining) {
          this.#parts.logger.error({ err: error }, 'The state of a job cannot be stored')
          return undefined
        }
        await this.#backOff(error)
      }
    }
  }

  /** Files that can't be deleted are no reason to stop. */
  async #tidy (job: Job, work: () => Promise<void>): Promise<void> {
    try {
      await work()
    } catch (error) {
      this.#parts.logger.warn({ job: job.id, err: error }, 'Files of a job cannot be deleted')
    }
  }

  #report (job: Job, failure: unknown): void {
    const { events, logger, onEnded } = this.#parts
    const details = { job: job.id, status: job.status, ...(failure === undefined ? {} : { err: failure }) }
    if (job.status === 'failed') logger.error(details, 'Job failed')
    else if (job.status === 'queued') logger.warn(details, 'Job went back to the queue')
    else logger.info({ job: job.id, status: job.status }, 'Job ended')
    events.publishJob(job)
    if (isEnded(job.status)) onEnded?.(job)
  }

  /** Waits for the running job, keeps the next one waiting, and leaves the engine to `work` meanwhile. */
  async #between (work: () => Promise<void>): Promise<void> {
    if (this.isDraining || this.#loop === undefined) throw apiError('SDR_DRAINING')
    if (this.#errands.length >= mostErrands) throw apiError('SDR_UNAVAILABLE', undefined, { retryAfter: 10 })
    await new Promise<void>((resolve, reject) => {
      this.#errands.push({ work, resolve, reject })
      this.wake()
    })
  }

  async #runErrand ({ work, resolve, reject }: Errand): Promise<void> {
    try {
      await this.#loadedModel.startEngine()
      await work()
      resolve()
    } catch (error) {
      reject(error)
    }
  }

  async #sleep (): Promise<void> {
    if (!this.#isAwake) await new Promise<void>(resolve => { this.#wake = resolve })
    this.#isAwake = false
  }

  /** No job is to blame: the engine can't be started, or the database can't be written. The jobs wait. */
  async #backOff (error: unknown): Promise<void> {
    const { logger, backOff = 1000 } = this.#parts
    const wait = Math.min(backOff * 2 ** Math.min(this.#failures++, 16), longestBackOff)
    const reason = error instanceof Error ? error.message : String(error)
    this.#blocked = { reason, retry_at: new Date(this.#now() + wait).toISOString() }
    logger.error({ err: error, retry_in: wait }, `Jobs have to wait: ${reason}`)
    await delay(wait, undefined, { signal: this.#stop.signal }).catch((interruption: Error) => {
      if (!this.isDraining) throw interruption
    })
  }

  #unblock (): void {
    this.#failures = 0
    this.#blocked = null
  }

  /** Whether the scheduler stops within `timeout` milliseconds. */
  async #ends (timeout: number): Promise<boolean> {
    if (this.#loop === undefined) return true
    const timer = new AbortController()
    try {
      return await Promise.race([
        this.#loop.then(() => true),
        delay(timeout, false, { signal: timer.signal })
      ])
    } finally {
      timer.abort()
    }
  }
}
