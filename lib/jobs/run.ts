import {
  EngineError, type Engine, type EngineImage, type ImageParameters, type LoadOptions, type ModelFiles, type Progress,
  type RunOptions
} from '../engine/engine.ts'
import { readHeader } from '../images/png.ts'
import { withGenerationText } from './generation-text.ts'
import type { Inputs } from './inputs.ts'
import type { JobEvents } from './job-events.ts'
import { residentOf, type Attachments, type Job, type JobProgress } from './job.ts'
import type { LoadedModel } from './loaded-model.ts'
import type { NewImage, Outputs, StoredImage } from './outputs.ts'
import type { StepTimes, StepWatch } from './step-times.ts'

/** What an engine needs to do a job. */
export interface ResolvedJob {
  files: ModelFiles
  options: LoadOptions
  /** Of the operation `generate`, or of `upscale` for a job of that type. */
  parameters: ImageParameters | { repeats?: number }
  attachments: Attachments
}

/**
 * Turns a job into an engine's terms: finds its files, prepares the images that came with it. What it throws fails the
 * job; the code of an ApiError becomes that of the job (`SDR_MODEL_NOT_FOUND` → `model_not_found`).
 */
export type Resolve = (job: Job, attachments: Attachments) => ResolvedJob | Promise<ResolvedJob>

export interface RunParts {
  engine: Engine
  inputs: Inputs
  outputs: Outputs
  events: JobEvents
  resolve: Resolve
  loadedModel: LoadedModel
  stepTimes: StepTimes
}

/** One attempt to do a job, from its files to its kept images. Says how far it is; decides nothing. */
export class Run {
  readonly job: Job
  readonly #parts: RunParts
  readonly #controller = new AbortController()
  #progress: JobProgress | null = null
  #ending: 'cancel' | 'drain' | undefined
  #isOver = false

  constructor (job: Job, parts: RunParts) {
    this.job = job
    this.#parts = parts
  }

  get progress (): JobProgress | null {
    return this.#progress
  }

  /** Why it was aborted. */
  get ending (): 'cancel' | 'drain' | undefined {
    return this.#ending
  }

  /** Makes the engine let go of the job. */
  abort (ending: 'cancel' | 'drain'): void {
    // A cancelled job does not come back when the server is told to stop meanwhile.
    this.#ending = this.#ending === 'cancel' ? 'cancel' : ending
    this.#controller.abort()
  }

  async execute (): Promise<StoredImage[]> {
    const { inputs, outputs, resolve, loadedModel } = this.#parts
    const { signal } = this.#controller
    try {
      const { files, options, parameters, attachments } = await resolve(this.job, await inputs.read(this.job.id))
      signal.throwIfAborted()
      await loadedModel.load(residentOf(this.job), { files, options }, {
        signal,
        progress: progress => this.#tell(progress)
      })
      signal.throwIfAborted()
      const images = await this.#draw(parameters, attachments)
      this.#tell({ phase: 'saving', step: 0, steps: 0, index: 0 })
      return await outputs.save(this.job, images.map(image => finish(this.job, image)))
    } finally {
      this.#isOver = true
    }
  }

  async #draw (parameters: ResolvedJob['parameters'], attachments: Attachments): Promise<EngineImage[]> {
    const { engine, stepTimes } = this.#parts
    const images: EngineImage[] = []
    const watch = stepTimes.watch(this.job)
    const options: RunOptions = {
      attachments,
      signal: this.#controller.signal,
      progress: progress => this.#tell(progress, watch),
      preview: preview => this.#show(preview),
      image: image => { images.push(image) }
    }
    if (this.job.type === 'upscale') await engine.run('upscale', parameters as { repeats?: number }, options)
    else await engine.run('generate', parameters as ImageParameters, options)
    if (images.length === 0) throw new EngineError('generation_failed', 'The engine gave neither image nor error.')
    watch.finish()
    return images
  }

  #tell (progress: Progress, watch?: StepWatch): void {
    // An engine that was given up may still have something to say.
    if (this.#isOver) return
    const { phase, step, steps } = progress
    this.#progress = { phase, step, steps, eta_seconds: watch?.estimate(progress) ?? null }
    this.#parts.events.publish(this.job.id, 'progress', this.#progress)
  }

  #show ({ png, ...preview }: Parameters<NonNullable<RunOptions['preview']>>[0]): void {
    const { events } = this.#parts
    if (this.#isOver || !events.isWatched(this.job.id)) return
    events.publish(this.job.id, 'preview', { ...preview, format: 'png', image: Buffer.from(png).toString('base64') })
  }
}

/** Adds the generation data, and checks what the engine made. */
function finish (job: Job, image: EngineImage): NewImage {
  try {
    const { width, height } = readHeader(image.png)
    const sized = { ...image, width, height }
    return { ...sized, png: withGenerationText(job, sized) }
  } catch (error) {
    const message = `The engine made a damaged image: ${(error as Error).message}`
    throw new EngineError('generation_failed', message, { cause: error })
  }
}
