import { apiError } from '../../../errors.ts'
import type { Device, Preview } from '../../engine/engine.ts'
import type { Executor, Outcome } from '../executor.ts'
import type { JobEvents } from '../job-events.ts'
import type { Job, JobProgress } from '../job.ts'
import type { LoadedModel } from './loaded-model.ts'

/** One attempt to do a job. Says how far it is; decides nothing. */
export class Run {
  readonly job: Job
  readonly #events: JobEvents
  readonly #controller = new AbortController()
  #progress: JobProgress | null = null
  #ending: 'cancel' | 'drain' | undefined
  #isOver = false

  constructor (job: Job, events: JobEvents) {
    this.job = job
    this.#events = events
  }

  get progress (): JobProgress | null {
    return this.#progress
  }

  /** Why it was aborted. */
  get ending (): 'cancel' | 'drain' | undefined {
    return this.#ending
  }

  /** Makes the executor let go of the job. */
  abort (ending: 'cancel' | 'drain'): void {
    // A cancelled job does not come back when the server is told to stop meanwhile.
    this.#ending = this.#ending === 'cancel' ? 'cancel' : ending
    this.#controller.abort()
  }

  /** @param engine what the lane has of an engine; undefined in a lane without one. */
  async execute (
    executor: Executor | undefined, engine: { device: Device, loadedModel: LoadedModel } | undefined
  ): Promise<Outcome> {
    const attempt = {
      signal: this.#controller.signal,
      progress: (progress: JobProgress) => this.#tell(progress),
      preview: (preview: Preview) => this.#show(preview)
    }
    try {
      attempt.signal.throwIfAborted()
      if (executor?.lane === 'files') return await executor.execute(this.job, attempt)
      if (executor !== undefined && engine !== undefined) {
        return await executor.execute(this.job, { ...attempt, ...engine })
      }
      throw apiError('SDR_UNSUPPORTED_FEATURE', `This server does no jobs of type ${this.job.type}.`)
    } finally {
      this.#isOver = true
    }
  }

  #tell (progress: JobProgress): void {
    // Who was given up may still have something to say.
    if (this.#isOver) return
    this.#progress = progress
    this.#events.publish(this.job.id, 'progress', progress)
  }

  #show ({ png, ...preview }: Preview): void {
    if (this.#isOver || !this.#events.isWatched(this.job.id)) return
    this.#events.publish(this.job.id, 'preview', {
      ...preview,
      format: 'png',
      image: Buffer.from(png).toString('base64')
    })
  }
}
