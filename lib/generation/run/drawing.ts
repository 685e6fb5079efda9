import {
  EngineError, type Device, type EngineImage, type ImageParameters, type LoadOptions, type ModelFiles, type Progress
} from '../../engine/engine.ts'
import { readPngHeader } from '../../media/png.ts'
import type { EngineAttempt, Executor, ExecutorParts, Executors, Outcome } from '../../jobs/executor.ts'
import { withGenerationText } from './generation-text.ts'
import { imageTypes, residentOf, type Attachments, type Job, type JobProgress } from '../../jobs/job.ts'
import type { NewImage } from '../../jobs/outputs.ts'
import { StepTimes } from './eta.ts'

/** What an engine needs to do a job. */
export interface ResolvedJob {
  files: ModelFiles
  options: LoadOptions
  /** Of the operation `generate`, or of `upscale` for a job of that type. */
  parameters: ImageParameters | { repeats?: number }
  attachments: Attachments
  /** The SHA-256 of models that the job names, by their ids, as far as it is known. */
  hashes?: Readonly<Record<string, string>>
}

/**
 * Turns a job into an engine's terms: finds its files and prepares its attachments. An exception fails the job; the
 * code of an ApiError becomes that of the job (`SDR_MODEL_NOT_FOUND` → `model_not_found`).
 */
export type Resolve = (job: Job, attachments: Attachments, device: Device) => ResolvedJob | Promise<ResolvedJob>

/** The executor of all types of jobs that make images. */
class Drawing {
  readonly lane = 'engine'
  readonly #resolve: Resolve
  readonly #parts: ExecutorParts
  readonly #stepTimes: StepTimes

  constructor (resolve: Resolve, parts: ExecutorParts) {
    this.#resolve = resolve
    this.#parts = parts
    // Not the wall clock, which may be set while a job runs.
    this.#stepTimes = new StepTimes(() => performance.now(), parts.observer?.stepped)
  }

  async execute (job: Job, attempt: EngineAttempt): Promise<Outcome> {
    const { inputs, outputs } = this.#parts
    const { signal, progress, device, loadedModel } = attempt
    const resolved = await this.#resolve(job, await inputs.read(job.id), device)
    const { files, options, parameters, attachments, hashes } = resolved
    signal.throwIfAborted()
    await loadedModel.load(residentOf(job), { files, options }, { signal, progress: now => progress(jobProgress(now)) })
    signal.throwIfAborted()
    const kept = outputs.keep(job)
    let notices: string[]
    try {
      const keep = (image: EngineImage) => kept.add(toNewImage(job, image, hashes))
      notices = await this.#draw(job, parameters, attachments, attempt, keep)
    } catch (error) {
      await kept.settled()
      throw error
    }
    progress(jobProgress({ phase: 'saving', step: 0, steps: 0 }))
    return { images: await kept.finish(), ...notices.length > 0 && { result: { notices } } }
  }

  async #draw (
    job: Job, parameters: ResolvedJob['parameters'], attachments: Attachments,
    { signal, progress, preview, device: { name, engine } }: EngineAttempt, keep: (image: EngineImage) => void
  ): Promise<string[]> {
    let images = 0
    const watch = this.#stepTimes.watch(job, name)
    const options = {
      attachments,
      signal,
      progress: (now: Progress) => progress(jobProgress(now, watch.estimate(now))),
      preview,
      image: (image: EngineImage) => {
        images++
        keep(image)
      }
    }
    const { notices = [] } = job.type === 'upscale'
      ? await engine.run('upscale', parameters as { repeats?: number }, options)
      : await engine.run('generate', parameters as ImageParameters, options)
    const expected = (parameters as Partial<ImageParameters>).batch_count ?? 1
    if (images !== expected) {
      throw new EngineError('generation_failed', `The engine made ${images} of ${expected} images and gave no error.`)
    }
    watch.finish()
    return notices
  }
}

export function drawingExecutors (resolve: Resolve): (parts: ExecutorParts) => Executors {
  return parts => {
    const drawing: Executor = new Drawing(resolve, parts)
    return Object.fromEntries(imageTypes.map(type => [type, drawing]))
  }
}

function jobProgress ({ phase, step, steps }: Omit<Progress, 'index'>, eta: number | null = null): JobProgress {
  return { phase, step, steps, eta_seconds: eta }
}

/** The image with its generation data. */
function toNewImage (job: Job, image: EngineImage, hashes: ResolvedJob['hashes']): NewImage {
  try {
    const { width, height } = readPngHeader(image.png)
    const sized = { ...image, width, height }
    return { ...sized, png: withGenerationText(job, sized, hashes) }
  } catch (error) {
    const message = `The engine made a damaged image: ${(error as Error).message}`
    throw new EngineError('generation_failed', message, { cause: error })
  }
}
