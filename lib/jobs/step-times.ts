import type { Progress } from '../engine/engine.ts'

/** Milliseconds that the parts of a job took lately. */
interface Times {
  step: number
  /** All of one image that is not sampling: conditioning, decoding. */
  rest: number
}

/** Kinds of job whose times are remembered; the least recently used ones are forgotten. */
const mostKinds = 500
/** Weight of the newest measurement. */
const newest = 0.5

/** Measures how long steps take, by kind of job (model and size), and estimates what is left of one. */
export class StepTimes {
  readonly #kinds = new Map<string, Times>()

  /** @param batchCount images that the job makes. */
  watch (kind: string, batchCount: number, now: () => number = Date.now): StepWatch {
    return new StepWatch(this.#kinds.get(kind), batchCount, now, measured => {
      const before = this.#kinds.get(kind)
      this.#kinds.delete(kind)
      this.#kinds.set(kind, before === undefined
        ? measured
        : { step: average(before.step, measured.step), rest: average(before.rest, measured.rest) })
      if (this.#kinds.size > mostKinds) this.#kinds.delete(this.#kinds.keys().next().value!)
    })
  }
}

/** Follows one job. */
export class StepWatch {
  readonly #known: Times | undefined
  readonly #batchCount: number
  readonly #now: () => number
  readonly #learn: (times: Times) => void
  readonly #startedAt: number
  #samplingTime = 0
  #stepsDone = 0
  #last: { index: number, step: number, at: number } | undefined

  constructor (known: Times | undefined, batchCount: number, now: () => number, learn: (times: Times) => void) {
    this.#known = known
    this.#batchCount = batchCount
    this.#now = now
    this.#learn = learn
    this.#startedAt = now()
  }

  /** @returns seconds until the job is finished; null while nothing is known to tell it from. */
  estimate ({ phase, index, step, steps }: Progress): number | null {
    if (phase === 'sampling') this.#sampled(index, step)
    const stepTime = this.#stepsDone > 0 ? this.#samplingTime / this.#stepsDone : this.#known?.step
    if (phase === 'loading_model' || stepTime === undefined || steps === 0) return null
    const imagesLeft = Math.max(0, this.#batchCount - index - 1)
    const left = (Math.max(0, steps - step) + imagesLeft * steps) * stepTime + (imagesLeft + 1) * (this.#known?.rest ?? 0)
    return Math.round(left / 100) / 10
  }

  /** The job is through: what it took helps with the next ones. */
  finish (): void {
    if (this.#stepsDone === 0) return
    const rest = Math.max(0, this.#now() - this.#startedAt - this.#samplingTime) / this.#batchCount
    this.#learn({ step: this.#samplingTime / this.#stepsDone, rest })
  }

  #sampled (index: number, step: number): void {
    const at = this.#now()
    if (this.#last?.index === index && step > this.#last.step) {
      this.#samplingTime += at - this.#last.at
      this.#stepsDone += step - this.#last.step
    }
    this.#last = { index, step, at }
  }
}

function average (before: number, measured: number): number {
  return before * (1 - newest) + measured * newest
}
