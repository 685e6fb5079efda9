import { EngineError, phases, type Observer, type Progress, type RunOptions } from './engine.ts'
import type { ExpectedImages } from './expected-images.ts'

/** Milliseconds by which a timer is late only when this process was stopped itself (SIGSTOP, a paused container). */
const stoppedFor = 1000
/** Most images of one job. */
const mostImages = 64

/** One call of `run`, from its beginning to the settling of its promise. */
export class Operation {
  readonly id: number
  readonly outcome: Promise<object>
  readonly expected: ExpectedImages
  /** Was it to be cancelled? */
  isCancelled = false
  /** Was it given to the process? */
  isSent = false
  /** Is its outcome decided? */
  isSettled = false
  /** What it ends with when this end kills the process. */
  verdict: EngineError | undefined
  readonly #observer: Observer
  #fulfil!: (result: object) => void
  #reject!: (error: unknown) => void
  #failure: { error: unknown } | undefined
  #silence: NodeJS.Timeout | undefined
  #heardAt = 0
  /** The last phase and image that was told, as one number. */
  #part = -1
  #grace: NodeJS.Timeout | undefined

  constructor (id: number, observer: RunOptions, expected: ExpectedImages) {
    this.id = id
    this.expected = expected
    this.#observer = observer
    this.outcome = new Promise((resolve, reject) => {
      this.#fulfil = resolve
      this.#reject = reject
    })
    // Until it is awaited, which may be after it has failed.
    this.outcome.catch(() => {})
  }

  fulfil (result: object): void {
    this.isSettled = true
    if (this.#failure === undefined) this.#fulfil(result)
    else this.#reject(this.#failure.error)
  }

  reject (error: unknown): void {
    this.isSettled = true
    this.#reject(this.#failure === undefined ? error : this.#failure.error)
  }

  /** Whether another phase or image has begun, which happens seldom: the phase never goes back. */
  isNews (progress: Progress): boolean {
    const part = phases.indexOf(progress.phase) * mostImages + progress.index
    if (part <= this.#part) return false
    this.#part = part
    return true
  }

  /** Calls an observer; what it throws becomes the outcome of the operation. Returns false then. */
  observe<Name extends keyof Observer> (name: Name, value: Parameters<NonNullable<Observer[Name]>>[0]): boolean {
    if (this.#failure !== undefined) return true
    try {
      (this.#observer[name] as ((value: unknown) => void) | undefined)?.(value)
      return true
    } catch (error) {
      this.#failure = { error }
      return false
    }
  }

  /** Calls `hung` when `life` was not called for so many milliseconds, in which this process was there to hear it. */
  watchSilence (timeout: number, hung: () => void): void {
    this.#heardAt = performance.now()
    this.#silence = setTimeout(() => {
      // What was said meanwhile is still unread, and what stopped this process may have stopped the engine.
      if (performance.now() - this.#heardAt > timeout + stoppedFor) this.life()
      else hung()
    }, timeout).unref()
  }

  life (): void {
    this.#heardAt = performance.now()
    this.#silence?.refresh()
  }

  /** Calls `over` unless the operation has ended by then. */
  startGrace (delay: number, over: () => void): void {
    this.#grace ??= setTimeout(over, delay).unref()
  }

  clear (): void {
    clearTimeout(this.#silence)
    clearTimeout(this.#grace)
  }
}
