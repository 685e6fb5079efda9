import { setTimeout as delay } from 'node:timers/promises'
import { EngineError, type Engine, type EngineImage, type ImageParameters, type LoadOptions, type ModelFiles, type Progress, type RunOptions } from '../engine/engine.ts'
import { isStorageFull } from './files.ts'
import { withGenerationText } from './generation-text.ts'
import type { Inputs } from './inputs.ts'
import type { JobEvents } from './job-events.ts'
import type { JobStore } from './job-store.ts'
import { isEnded, type Attachments, type Job, type JobError, type JobProgress } from './job.ts'
import type { Choice } from './line.ts'
import type { Outputs, StoredImage } from './outputs.ts'
import { StepTimes, type StepWatch } from './step-times.ts'

/** What an engine needs to do a job. */
export interface ResolvedJob {
  files: ModelFiles
  options: LoadOptions
  /** Of the operation `generate`, or of `upscale` for a job of that type. */
  parameters: ImageParameters | { repeats?: number }
  attachments: Attachments
}

/**
 * Turns a job into an engine's terms: finds its files, prepares the images that came with it.
 * What it throws fails the job; the `code` of an ApiError becomes that of the job (`SDR_MODEL_NOT_FOUND` → `model_not_found`).
 */
export type Resolve = (job: Job, attachments: Attachments) => ResolvedJob | Promise<ResolvedJob>

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
  /** Called after a job ended or went back to the queue. */
  onLeft?: (job: Job) => void
  /** Milliseconds before the first new attempt with an engine that can't be started; doubles up to a minute. */
  backOff?: number
  /** Milliseconds since 1970. */
  now?: () => number
}

export interface SchedulerStatus {
  state: 'idle' | 'running' | 'waiting_for_engine' | 'draining' | 'stopped'
  /** The job that runs. */
  job: string | null
  /** Id of the model that the engine holds. */
  loaded_model: string | null
  /** Why waiting jobs do not run at the moment, and when that is tried again. */
  blocked: { reason: string, retry_at: string } | null
}

interface Run {
  job: Job
  progress: JobProgress | null
  /** Why it is being aborted. */
  ending?: 'cancel' | 'drain'
  controller: AbortController
}

const longestBackOff = 60_000
/** Milliseconds that an aborted job has to end: the engine's own grace period, and then some. */
const abortTimeout = 30_000

/** Gives the waiting jobs to one engine, one after the other. No job can stop it. */
export class Scheduler {
  readonly #parts: SchedulerParts
  readonly #now: () => number
  readonly #stepTimes = new StepTimes()
  readonly #stop = new AbortController()
  #isDraining = false
  #loop: Promise<void> | undefined
  #run: Run | undefined
  #loaded: { model: string, key: string, generation: number } | undefined
  #blocked: SchedulerStatus['blocked'] = null
  #failures = 0
  #wake = () => {}
  #isAwake = false

  constructor (parts: SchedulerParts) {
    this.#parts = parts
    this.#now = parts.now ?? Date.now
  }

  get status (): SchedulerStatus {
    const state = this.#loop === undefined
      ? 'stopped'
      : this.#isDraining
        ? 'draining'
        : this.#run !== undefined
          ? 'running'
          : this.#blocked !== null ? 'waiting_for_engine' : 'idle'
    return { state, job: this.#run?.job.id ?? null, loaded_model: this.#loadedModel ?? null, blocked: this.#blocked }
  }

  get isDraining (): boolean {
    return this.#isDraining
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

  /** Asks the engine to let go of a running job, which is `cancelled` once it did. Returns false when it does not run. */
  cancel (jobId: string): boolean {
    if (this.#run?.job.id !== jobId) return false
    this.#abort(this.#run, 'cancel')
    return true
  }

  /**
   * Starts no more jobs and waits for the running one; after `timeout` milliseconds it goes back to the queue, as if it
   * had not been started.
   */
  async drain (timeout: number): Promise<void> {
    this.#isDraining = true
    this.wake()
    this.#stop.abort()
    if (await this.#ends(timeout) || this.#run === undefined) return
    const run = this.#run
    this.#abort(run, 'drain')
    if (await this.#ends(abortTimeout)) return
    this.#parts.logger.error({ job: run.job.id }, 'The engine did not let go of the job; it is left behind')
    this.#parts.store.giveBack(run.job.id)
  }

  get #loadedModel (): string | undefined {
    const { generation, status } = this.#parts.engine
    const isThere = this.#loaded?.generation === generation && (status.state === 'idle' || status.state === 'busy')
    return isThere ? this.#loaded?.model : undefined
  }

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

  async #work (): Promise<void> {
    while (!this.#isDraining) {
      try {
        const choice = this.#parts.store.next(this.#loadedModel)
        if (choice === undefined) {
          await this.#sleep()
        } else {
          if (this.#parts.engine.status.state !== 'idle') await this.#parts.engine.start()
          await this.#do(choice)
          this.#failures = 0
          this.#blocked = null
        }
      } catch (error) {
        await this.#backOff(error)
      }
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
    const reason = (error as Error).message
    this.#blocked = { reason, retry_at: new Date(this.#now() + wait).toISOString() }
    logger.error({ err: error, retry_in: wait }, `Jobs have to wait: ${reason}`)
    await this.#pause(wait)
  }

  /** Ends early when the scheduler is to stop. */
  async #pause (milliseconds: number): Promise<void> {
    if (this.#stop.signal.aborted) return
    await delay(milliseconds, undefined, { signal: this.#stop.signal }).catch((error: Error) => {
      if (error.name !== 'AbortError') throw error
    })
  }

  async #do (choice: Choice): Promise<void> {
    const { store, inputs, outputs, events, logger } = this.#parts
    const job = store.start(choice)
    if (job === undefined) return
    logger.info({ job: job.id, owner: job.owner, model: job.model, attempt: job.attempts }, 'Job started')
    const run: Run = { job, progress: null, controller: new AbortController() }
    this.#run = run
    events.publishJob(job)

    let failure: unknown
    let leave: () => Job | undefined
    try {
      const images = await this.#execute(run)
      leave = () => run.ending === 'cancel' ? store.endCancelled(job.id) : store.complete(job.id, images)
    } catch (error) {
      failure = error
      leave = () => this.#leaveAfter(error, run)
    }
    const left = await this.#persist(leave)
    this.#run = undefined
    if (left === undefined) return
    if (left.status !== 'completed') await this.#tidy(job, () => outputs.remove(job))
    if (isEnded(left.status)) await this.#tidy(job, () => inputs.remove(job.id))
    this.#report(left, failure)
    if (left.status === 'queued' && isUnavailable(failure)) throw failure
  }

  /** Loads the model unless it is there, draws, and keeps the images. */
  async #execute (run: Run): Promise<StoredImage[]> {
    const { engine, inputs, outputs, resolve } = this.#parts
    const { job, controller: { signal } } = run
    const { files, options, parameters, attachments } = await resolve(job, await inputs.read(job.id))
    signal.throwIfAborted()

    const key = JSON.stringify([files, options])
    if (this.#loadedModel === undefined || this.#loaded?.key !== key) {
      this.#loaded = undefined
      this.#progress(run, { phase: 'loading_model', step: 0, steps: 0, index: 0 })
      await engine.run('load', { files, options }, { signal, progress: progress => this.#progress(run, progress) })
      this.#loaded = { model: job.model, key, generation: engine.generation }
      signal.throwIfAborted()
    }

    const images = await this.#draw(run, parameters, attachments)
    this.#progress(run, { phase: 'saving', step: 0, steps: 0, index: 0 })
    return await outputs.save(job, images.map(image => ({ ...image, png: withGenerationText(job, image) })))
  }

  async #draw (run: Run, parameters: ResolvedJob['parameters'], attachments: Attachments): Promise<EngineImage[]> {
    const { engine, events } = this.#parts
    const { job } = run
    const images: EngineImage[] = []
    const watch = this.#stepTimes.watch(kindOf(job), Number(job.parameters['batch_count'] ?? 1), this.#now)
    const observer: RunOptions = {
      attachments,
      signal: run.controller.signal,
      progress: progress => this.#progress(run, progress, watch),
      image: image => { images.push(image) },
      preview: ({ png, ...preview }) => {
        if (!events.isWatched(job.id)) return
        events.publish(job.id, 'preview', { ...preview, format: 'png', image: Buffer.from(png).toString('base64') })
      }
    }
    if (job.type === 'upscale') await engine.run('upscale', parameters as { repeats?: number }, observer)
    else await engine.run('generate', parameters as ImageParameters, observer)
    if (images.length === 0) throw new EngineError('generation_failed', 'The engine ended without an image and without an error.')
    watch.finish()
    return images
  }

  #progress (run: Run, progress: Progress, watch?: StepWatch): void {
    const { phase, step, steps } = progress
    run.progress = { phase, step, steps, eta_seconds: watch?.estimate(progress) ?? null }
    this.#parts.events.publish(run.job.id, 'progress', run.progress)
  }

  #leaveAfter (error: unknown, { job, ending }: Run): Job | undefined {
    const { store } = this.#parts
    if (ending === 'cancel') return store.endCancelled(job.id)
    if (ending === 'drain' || isUnavailable(error)) return store.giveBack(job.id)
    if (isCrash(error)) return store.retryOrFail(job.id, error.message)
    return store.fail(job.id, toJobError(error))
  }

  /** A change of state must be stored, however long the database can't be written. Undefined when the state was another. */
  async #persist (change: () => Job | undefined): Promise<Job | undefined> {
    for (;;) {
      try {
        return change()
      } catch (error) {
        await this.#backOff(error)
        if (this.#stop.signal.aborted) return undefined
      }
    }
  }

  /** Files that can't be deleted are no reason to stop. */
  async #tidy (job: Job, work: () => Promise<void>): Promise<void> {
    try {
      await work()
    } catch (error) {
      this.#parts.logger.warn({ job: job.id, err: error }, 'Files of an ended job cannot be deleted')
    }
  }

  #report (job: Job, failure: unknown): void {
    const { events, logger, onLeft } = this.#parts
    const details = { job: job.id, status: job.status, ...(failure === undefined ? {} : { err: failure }) }
    if (job.status === 'failed') logger.error(details, 'Job failed')
    else if (job.status === 'queued') logger.warn(details, 'Job went back to the queue')
    else logger.info({ job: job.id, status: job.status }, 'Job ended')
    events.publishJob(job)
    onLeft?.(job)
  }

  #abort (run: Run, ending: 'cancel' | 'drain'): void {
    // A cancelled job stays cancelled when the server is told to stop meanwhile.
    run.ending ??= ending
    run.controller.abort()
  }
}

/** Jobs of one kind take about the same time per step. */
function kindOf ({ type, model, parameters: { width, height } }: Job): string {
  return `${type} ${model} ${width}x${height}`
}

function isCrash (error: unknown): error is EngineError {
  return error instanceof EngineError && (error.code === 'engine_crashed' || error.code === 'engine_timeout')
}

function isUnavailable (error: unknown): boolean {
  return error instanceof EngineError && (error.code === 'engine_unavailable' || error.code === 'engine_busy')
}

function toJobError (error: unknown): JobError {
  if (isStorageFull(error)) return { code: 'storage_full', message: 'There is no room left to store the images.' }
  const { code, message } = error as { code?: unknown, message: string }
  if (error instanceof EngineError) return { code: error.code, message }
  if (typeof code === 'string' && code.startsWith('SDR_')) return { code: code.slice(4).toLowerCase(), message }
  return { code: 'internal', message: 'The server failed to do this job; its log says why.' }
}
