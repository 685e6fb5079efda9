import type { Progress } from '../../engine/engine.ts'
import type { Job } from '../../jobs/job.ts'

/** Recent times of the parts of an image, in milliseconds. */
interface Times {
  step: number
  /** All but the steps: conditioning, decoding. */
  rest: number
}

/** Kinds of jobs whose times are remembered; the least recently seen is forgotten first. */
const mostKinds = 500
/** Weight of the newest measurement against all before. */
const newest = 0.5

/** Remembers how long steps take for each model and size, and estimates the remaining time of a job (ETA). */
export class StepTimes {
  readonly #kinds = new Map<string, Times>()
  readonly #now: () => number
  readonly #stepped: ((seconds: number) => void) | undefined

  /** @param now milliseconds. @param stepped gets the seconds of each step. */
  constructor (now: () => number, stepped?: (seconds: number) => void) {
    this.#now = now
    this.#stepped = stepped
  }

  /** Follows a job on a device: one may be faster than another. */
  watch ({ type, model, parameters }: Job, device = ''): StepWatch {
    const { width, height, steps, batch_count: images } = parameters
    const kind = `${device} ${type} ${model} ${width}x${height}`
    return new StepWatch({
      known: this.#kinds.get(kind),
      images: Number(images ?? 1),
      steps: Number(steps ?? 0),
      now: this.#now,
      stepped: this.#stepped,
      learn: times => this.#learn(kind, times)
    })
  }

  #learn (kind: string, { step, rest }: Times): void {
    const before = this.#kinds.get(kind) ?? { step, rest }
    this.#kinds.delete(kind)
    this.#kinds.set(kind, { step: average(before.step, step), rest: average(before.rest, rest) })
    if (this.#kinds.size > mostKinds) this.#kinds.delete(this.#kinds.keys().next().value!)
  }
}

interface WatchParts {
  known: Times | undefined
  images: number
  /** Of one image, as asked for; the engine may take fewer. */
  steps: number
  now: () => number
  stepped?: (seconds: number) => void
  learn: (times: Times) => void
}

/** Follows one job. */
class StepWatch {
  readonly #parts: WatchParts
  readonly #startedAt: number
  #steps: number
  #samplingTime = 0
  #stepsDone = 0
  #last: { index: number, step: number, at: number } | undefined

  constructor (parts: WatchParts) {
    this.#parts = parts
    this.#steps = parts.steps
    this.#startedAt = parts.now()
  }

  /** @returns seconds until the job is finished; null while nothing is known about its kind. */
  estimate ({ phase, index, step, steps }: Progress): number | null {
    if (phase === 'sampling') this.#sampled(index, step, steps)
    const { known, images } = this.#parts
    const stepTime = this.#stepsDone > 0 ? this.#samplingTime / this.#stepsDone : known?.step
    if (stepTime === undefined) return null
    const stepsLeft = phase === 'sampling' ? steps - step : phase === 'conditioning' ? this.#steps : 0
    const imagesAfter = Math.max(0, images - index - 1)
    const left = (stepsLeft + imagesAfter * this.#steps) * stepTime + (imagesAfter + 1) * (known?.rest ?? 0)
    return Math.max(0, Math.round(left / 100) / 10)
  }

  /** Learns from a finished job. */
  finish (): void {
    if (this.#stepsDone === 0) return
    const { now, images, learn } = this.#parts
    const rest = Math.max(0, now() - this.#startedAt - this.#samplingTime) / images
    learn({ step: this.#samplingTime / this.#stepsDone, rest })
  }

  #sampled (index: number, step: number, steps: number): void {
    const at = this.#parts.now()
    if (this.#last?.index === index && step > this.#last.step) {
      const taken = step - this.#last.step
      this.#samplingTime += at - this.#last.at
      this.#stepsDone += taken
      for (let one = 0; one < taken; one++) this.#parts.stepped?.((at - this.#last.at) / taken / 1000)
    }
    this.#last = { index, step, at }
    this.#steps = steps
  }
}

function average (before: number, measured: number): number {
  return before * (1 - newest) + measured * newest
}
