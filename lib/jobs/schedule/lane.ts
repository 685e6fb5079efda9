import { setTimeout as delay } from 'node:timers/promises'
import { apiError } from '../../../errors.ts'
import type { Device, Operations } from '../../engine/engine.ts'
import { isoTime } from '../../util/iso-time.ts'
import type { Logger } from '../../util/logger.ts'
import { isStorageTrouble } from '../../storage/storage-errors.ts'
import { EngineTasks, type WaitOptions } from './engine-tasks.ts'
import type { Executors, LaneKind } from '../executor.ts'
import type { Inputs } from '../inputs.ts'
import type { JobEvents } from '../job-events.ts'
import { isCrash, isUnavailable, toJobError } from '../job-error.ts'
import type { JobStore } from '../store/job-store.ts'
import { isEnded, type Job } from '../job.ts'
import { LoadedModel } from './loaded-model.ts'
import type { JobObserver } from '../observer.ts'
import type { Outputs } from '../outputs.ts'
import { Run } from './run.ts'

/** What all lanes of a scheduler share. */
export interface LaneParts {
  store: JobStore
  inputs: Inputs
  outputs: Outputs
  events: JobEvents
  executors: Executors
  logger: Logger
  observer?: JobObserver
  /** Called after a job has ended. */
  onEnded?: (job: Job) => void
  /** Milliseconds before an engine that can't be started is tried again; doubles up to a minute. */
  backOff?: number
  /** Milliseconds that an aborted job has to end when the server stops: longer than the engine's grace period. */
  abortTimeout?: number
  /** Milliseconds after which an engine without anything to do frees its model; 0 is never. */
  idleUnload?: number
  /** Milliseconds since 1970. */
  now?: () => number
  /** Milliseconds of a monotonic clock. */
  uptime?: () => number
  /** Aborted when no more work may begin. */
  stop: AbortSignal
  /** Claims the job that a lane should do next. */
  claim: (lane: Lane) => Promise<Job | undefined>
  /** A lane got busy, or a job came back: the other lanes look again at the jobs that they skipped for it. */
  onChange: (lane: Lane) => void
}

/** Several lanes together are in the first of these states that one of them is in. */
export const laneStates = ['draining', 'running', 'idle', 'blocked', 'stopped'] as const

/** How long the engine has held its model. */
export interface Residency {
  loaded_at: string
  /** When the last job for it ended; null while one runs. */
  idle_since: string | null
}

export interface LaneStatus {
  lane: LaneKind
  /** As --device or --devices names it; null in the lane that needs none. */
  device: string | null
  state: typeof laneStates[number]
  /** The job that runs. */
  job: string | null
  /** Id of the model that the engine holds, followed by a digest when a job named its components. */
  loaded_model: string | null
  residency: Residency | null
  /** Why jobs wait although none runs, and when the lane tries again; null when the engine restarts by itself. */
  blocked: { reason: string, retry_at: string | null } | null
}

const longestBackOff = 60_000
/** Milliseconds that a timer takes. */
export const longestTimer = 2 ** 31 - 1

/** Runs one job after the other, on the engine of a device or without one. No error of a job ends the loop. */
export class Lane {
  readonly kind: LaneKind
  readonly #device: Device | undefined
  readonly #parts: LaneParts
  readonly #loadedModel: LoadedModel | undefined
  readonly #tasks = new EngineTasks()
  #loop: Promise<void> | undefined
  #run: Run | undefined
  /** Jobs cancelled while this lane claims one: the claimed job may be among them. */
  #cancelled: Set<string> | undefined
  #blocked: LaneStatus['blocked'] = null
  #failures = 0
  #wake = () => {}
  #isAwake = false
  /** When the last job or task ended. */
  #idleSince = 0

  /** @param device undefined makes it the lane of files. */
  constructor (device: Device | undefined, parts: LaneParts) {
    this.kind = device === undefined ? 'files' : 'engine'
    this.#device = device
    this.#parts = parts
    this.#loadedModel = device && new LoadedModel(device.engine, parts.observer?.loaded)
  }

  get device (): Device | undefined {
    return this.#device
  }

  /** @param isNeeded whether jobs wait for a lane of its kind. */
  status (isNeeded: boolean): LaneStatus {
    const blocked = this.#blocked ?? (isNeeded ? this.#engineTrouble : null)
    return {
      lane: this.kind,
      device: this.#device?.name ?? null,
      state: this.#state === 'idle' && blocked !== null ? 'blocked' : this.#state,
      job: this.#run?.job.id ?? null,
      loaded_model: this.loadedModel ?? null,
      residency: this.#residency,
      blocked
    }
  }

  /** Id of the model that the engine holds. */
  get loadedModel (): string | undefined {
    return this.#loadedModel?.id
  }

  /** Paths of the files that the engine has in memory. */
  get loadedFiles (): string[] {
    return this.#loadedModel?.files ?? []
  }

  get run (): Run | undefined {
    return this.#run
  }

  /** Whether it would start the next job at once. */
  get isFree (): boolean {
    return this.#state === 'idle' && this.#tasks.isEmpty && this.#isReady
  }

  start (): void {
    this.#loop ??= this.#work().finally(() => { this.#loop = undefined })
  }

  /** Makes it look for work. */
  wake (): void {
    this.#isAwake = true
    this.#wake()
  }

  /**
   * Loads a model between two jobs.
   * @throws {EngineError}
   * @throws {ApiError} SDR_DRAINING; SDR_UNAVAILABLE when the running job does not end in time: then it is never done
   */
  async load (model: string, what: Operations['load']['parameters'], wait: WaitOptions = {}): Promise<void> {
    await this.#between(async () => this.#loadedModel?.load(model, what, { signal: this.#parts.stop }), wait)
  }

  /** Frees the memory of the loaded model between two jobs; throws as `load` does. */
  async unload (wait: WaitOptions = {}): Promise<void> {
    await this.#between(async () => this.#loadedModel?.unload(), wait)
  }

  /** Stops a job that this lane runs or claims. @returns whether it runs here. */
  cancel (jobId: string): boolean {
    this.#cancelled?.add(jobId)
    if (this.#run?.job.id !== jobId) return false
    this.#run.abort('cancel')
    return true
  }

  /** After `stop`: waits for the running job, and gives it back to the queue after `timeout` milliseconds. */
  async drain (timeout: number): Promise<void> {
    this.wake()
    if (await this.#ends(timeout)) return
    const run = this.#run
    run?.abort('drain')
    if (await this.#ends(this.#parts.abortTimeout ?? 30_000) || run === undefined) return
    this.#parts.logger.error({ job: run.job.id }, 'The job does not end when it is told to; it is left behind')
    await this.#persist(run.job, async () => this.#leaveAfter(undefined, run))
  }

  get #isDraining (): boolean {
    return this.#parts.stop.aborted
  }

  get #residency (): Residency | null {
    const since = this.#loadedModel?.since
    if (since === undefined) return null
    const isIdle = this.#run === undefined && this.#tasks.isEmpty
    return {
      loaded_at: isoTime(since),
      idle_since: isIdle ? isoTime(Date.now() - (this.#now() - this.#idleSince)) : null
    }
  }

  get #isReady (): boolean {
    return this.#device === undefined || this.#device.engine.status.state === 'idle'
  }

  get #state (): LaneStatus['state'] {
    if (this.#loop === undefined) return 'stopped'
    if (this.#isDraining) return 'draining'
    if (this.#run !== undefined) return 'running'
    return this.#blocked === null ? 'idle' : 'blocked'
  }

  get #engineTrouble (): LaneStatus['blocked'] {
    if (this.#device === undefined) return null
    const { state, last_crash: crash } = this.#device.engine.status
    if (state !== 'backing_off') return null
    return {
      reason: `The engine crashed and is about to be started again. ${crash?.reason ?? ''}`.trimEnd(),
      retry_at: null
    }
  }

  async #work (): Promise<void> {
    while (!this.#isDraining) {
      try {
        await this.#workOnce()
      } catch (error) {
        await this.#backOff(error)
      }
    }
    this.#tasks.rejectAll(apiError('SDR_DRAINING'))
  }

  async #workOnce (): Promise<void> {
    if (!this.#tasks.isEmpty) return await this.#runTask()
    let run: Run | undefined
    if (await this.#isNeeded()) {
      await this.#makeReady()
      // Claimed only now: starting the engine takes time, and the queue goes on changing.
      run = await this.#claim()
    }
    if (run !== undefined) await this.#runJob(run)
    this.#unblock()
    if (run === undefined) await this.#sleep()
  }

  async #isNeeded (): Promise<boolean> {
    return await this.#parts.store.waiting(this.kind) > 0
  }

  /** Claims the next job. It is aborted when it was cancelled or the server began to stop during the claim. */
  async #claim (): Promise<Run | undefined> {
    if (this.#isDraining) return undefined
    this.#cancelled = new Set()
    try {
      const job = await this.#parts.claim(this)
      if (job === undefined) return undefined
      this.#run = new Run(job, this.#parts.events)
      if (this.#cancelled.has(job.id)) this.#run.abort('cancel')
      else if (this.#isDraining) this.#run.abort('drain')
      return this.#run
    } finally {
      this.#cancelled = undefined
    }
  }

  /** @throws {EngineError} engine_unavailable */
  async #makeReady (): Promise<void> {
    if (this.#isReady) return
    this.#parts.onChange(this)
    await this.#device?.engine.start()
  }

  async #runJob (run: Run): Promise<void> {
    const { job } = run
    const { store, inputs, outputs, events, executors, logger, onChange } = this.#parts
    logger.info({ job: job.id, owner: job.owner, model: job.model, attempt: job.attempts }, 'Job started')
    onChange(this)
    const started = events.publishJob(job)

    let failure: unknown
    let leave: () => Promise<Job | undefined>
    try {
      const engine = this.#device && { device: this.#device, loadedModel: this.#loadedModel! }
      const { images = [], result } = await run.execute(executors[job.type], engine)
      leave = async () => run.ending === 'cancel' ? store.endCancelled(job.id) : store.complete(job.id, images, result)
    } catch (error) {
      failure = error
      leave = async () => this.#leaveAfter(error, run)
      // Before another lane can claim the job.
      await this.#tidy(job, () => outputs.remove(job))
    }
    const left = await this.#persist(job, leave)
    this.#run = undefined
    if (failure === undefined && left?.status !== 'completed') await this.#tidy(job, () => outputs.remove(job))
    if (left === undefined) return
    if (isEnded(left.status)) await this.#tidy(job, () => inputs.remove(job.id))
    if (left.status === 'cancelled') await this.#tidy(job, async () => executors[job.type]?.abandon?.(job))
    this.#idleSince = this.#now()
    this.#report(left, failure, started)
    if (left.status === 'queued') onChange(this)
    if (left.status === 'queued' && isUnavailable(failure)) throw failure
  }

  async #leaveAfter (error: unknown, { job, ending }: Run): Promise<Job | undefined> {
    const { store } = this.#parts
    if (ending === 'cancel') return await store.endCancelled(job.id)
    if (ending === 'drain' || isUnavailable(error)) return await store.giveBack(job.id)
    if (isCrash(error)) return await store.retryOrFail(job.id, toJobError(error).message)
    return await store.fail(job.id, toJobError(error))
  }

  /**
   * Stores a change of state, and tries again while the storage fails. A change that the database refuses for another
   * reason would be refused every time: then the job fails, and the lane goes on.
   * @returns undefined when the job was in another state, or nothing could be stored: then the next start decides.
   */
  async #persist (job: Job, change: () => Promise<Job | undefined>): Promise<Job | undefined> {
    const { store, logger } = this.#parts
    let isRefused = false
    for (;;) {
      try {
        return await change()
      } catch (error) {
        const isTrouble = isStorageTrouble(error)
        if (isTrouble && !this.#isDraining) {
          await this.#backOff(error)
          continue
        }
        logger.error({ job: job.id, err: error }, 'The state of a job cannot be stored')
        if (isTrouble || isRefused) return undefined
        isRefused = true
        change = async () => store.fail(job.id, toJobError(error))
      }
    }
  }

  /** Deletes files; a failure is only logged. */
  async #tidy (job: Job, work: () => Promise<void>): Promise<void> {
    try {
      await work()
    } catch (error) {
      this.#parts.logger.warn({ job: job.id, err: error }, 'Files of a job cannot be deleted')
    }
  }

  /** @param started id of the event of its start. */
  #report (job: Job, failure: unknown, started: number): void {
    const { events, logger, onEnded } = this.#parts
    const details = { job: job.id, status: job.status, ...(failure === undefined ? {} : { err: failure }) }
    if (job.status === 'failed') logger.error(details, 'Job failed')
    else if (job.status === 'queued') logger.warn(details, 'Job went back to the queue')
    else logger.info({ job: job.id, status: job.status }, 'Job ended')
    events.publishJob(job, started)
    if (isEnded(job.status)) onEnded?.(job)
  }

  /** Does `work` with the engine between two jobs. */
  async #between (work: () => Promise<void>, wait: WaitOptions): Promise<void> {
    if (this.#isDraining || this.#loop === undefined) throw apiError('SDR_DRAINING')
    const done = this.#tasks.add(work, wait, () =>
      this.#run === undefined ? 'the engine is not ready' : 'a job is running')
    this.#parts.onChange(this)
    this.wake()
    await done
  }

  async #runTask (): Promise<void> {
    await this.#tasks.runFirst(async () => this.#makeReady())
    this.#idleSince = this.#now()
  }

  async #sleep (): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    if (!this.#isAwake) {
      await new Promise<void>(resolve => {
        this.#wake = resolve
        timer = this.#whenIdle(resolve)
      })
    }
    clearTimeout(timer)
    this.#isAwake = false
    if (this.#isIdleForLong && !await this.#isNeeded()) await this.#unloadIdle()
  }

  /** Calls back when the model has been idle for `idleUnload`. */
  #whenIdle (callBack: () => void): NodeJS.Timeout | undefined {
    const { idleUnload = 0 } = this.#parts
    if (idleUnload === 0 || this.loadedModel === undefined) return undefined
    return setTimeout(callBack, Math.min(Math.max(this.#idleSince + idleUnload - this.#now(), 0), longestTimer)).unref()
  }

  get #isIdleForLong (): boolean {
    const { idleUnload = 0 } = this.#parts
    return idleUnload > 0 && this.loadedModel !== undefined && this.#now() - this.#idleSince >= idleUnload &&
      this.#tasks.isEmpty && !this.#isDraining
  }

  async #unloadIdle (): Promise<void> {
    const { logger } = this.#parts
    const model = this.loadedModel
    try {
      await this.#loadedModel?.unload()
      logger.info({ model, device: this.#device?.name }, 'Unloaded a model that was idle')
    } catch (error) {
      // A dead process has freed the memory already; otherwise the next model replaces this one.
      logger.warn({ model, err: error }, 'An idle model cannot be unloaded')
    }
  }

  /** Milliseconds of a monotonic clock. */
  #now (): number {
    return (this.#parts.uptime ?? (() => performance.now()))()
  }

  /** Waits after an error that no job caused: the engine does not start, or the database cannot be written. */
  async #backOff (error: unknown): Promise<void> {
    const { logger, backOff = 1000, now = Date.now, stop, onChange } = this.#parts
    const wait = Math.min(backOff * 2 ** Math.min(this.#failures++, 16), longestBackOff)
    const reason = error instanceof Error ? error.message : String(error)
    this.#blocked = { reason, retry_at: new Date(now() + wait).toISOString() }
    logger.error({ err: error, retry_in: wait }, `Jobs have to wait: ${reason}`)
    onChange(this)
    await delay(wait, undefined, { signal: stop }).catch((interruption: Error) => {
      if (!this.#isDraining) throw interruption
    })
  }

  #unblock (): void {
    this.#failures = 0
    this.#blocked = null
  }

  /** Whether the lane stops within `timeout` milliseconds. */
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
