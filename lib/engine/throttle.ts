import type { Readable } from 'node:stream'

/** Milliseconds of one window. */
const second = 1000

/** Reads a stream at most at this rate. The rest stays in the pipe, so its writer has to wait. */
export class Throttle {
  readonly #stream: Readable
  readonly #perSecond: number
  #spent = 0
  #since = performance.now()
  #timer: NodeJS.Timeout | undefined
  #isReleased = false

  constructor (stream: Readable, perSecond: number) {
    this.#stream = stream
    this.#perSecond = perSecond
  }

  spend (units: number): void {
    const now = performance.now()
    if (now - this.#since >= second) {
      this.#since = now
      this.#spent = 0
    }
    this.#spent += units
    if (this.#spent < this.#perSecond || this.#timer !== undefined || this.#isReleased) return
    this.#stream.pause()
    this.#timer = setTimeout(() => this.#resume(), second - (now - this.#since)).unref()
  }

  /** Reads all that is left: the writer has ended. */
  release (): void {
    this.#isReleased = true
    this.#resume()
  }

  #resume (): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#stream.resume()
  }
}
