import { EngineError, phases, type Observer, type Progress, type RunOptions } from './engine.ts'
import type { ExpectedImages } from './expected-images.ts'

/** Milliseconds; a timer this late means that this process was stopped (SIGSTOP, a paused container). */
const stoppedFor = 1000
/** Most images of one job. */
const mostImages = 64

/** One call of `run`, until its promise is settled. */
export class Operation {
  readonly id: number
  readonly outcome: Promise<object>
  readonly expected: ExpectedImages
  isCancelled = false
  /** To the process. */
  isSent = false
  isSettled = false
  /** What it fails with when this side kills the process. */
  killError: EngineError | undefined
  readonly #observer: Observer
  #fulfil!: (result: object) => void
  #reject!: (error: unknown) => void
  #failure: { error: unknown } | undefined
  #silence: NodeJS.Timeout | undefined
  #heardAt = 0
  /** The last phase and image, as one number. */
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
    // It may fail before it is awaited.
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

  /** Whether another phase or image has begun. That is rare, because the phase never goes back. */
  isNewPart (progress: Progress): boolean {
    const part = phases.indexOf(progress.phase) * mostImages + progress.index
    if (part <= this.#part) return false
    this.#part = part
    return true
  }

  /** Calls an observer. @returns false when it threw; the operation then fails with its error. */
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

  /** Calls `hung` when `heard` was not called for `timeout` milliseconds in which this process was running. */
  watchSilence (timeout: number, hung: () => void): void {
    this.#heardAt = performance.now()
    this.#silence = setTimeout(() => {
      // Messages may be unread, and what stopped this process may have stopped the engine too.
      if (performance.now() - this.#heardAt > timeout + stoppedFor) this.heard()
      else hung()
    }, timeout).unref()
  }

  heard (): void {
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
