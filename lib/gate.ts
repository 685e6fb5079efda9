import { apiError } from '../errors.ts'

/**
 * Lets a bounded number of expensive calls run, a bounded number wait, and refuses the rest, so that a flood of them
 * can't starve everything else.
 */
export class Gate {
  readonly #running: number
  readonly #waiting: number
  readonly #what: string
  readonly #queue: Array<() => void> = []
  #active = 0

  constructor ({ running, waiting, what }: { running: number, waiting: number, what: string }) {
    this.#running = running
    this.#waiting = waiting
    this.#what = what
  }

  /** @throws SDR_UNAVAILABLE with Retry-After when too many wait already. */
  async run<T> (work: () => Promise<T>): Promise<T> {
    if (this.#active < this.#running) {
      this.#active++
    } else {
      if (this.#queue.length >= this.#waiting) {
        throw apiError('SDR_UNAVAILABLE', `Too many ${this.#what} at once; try again in a moment.`, { retryAfter: 2 })
      }
      await new Promise<void>(resolve => this.#queue.push(resolve))
    }
    try {
      return await work()
    } finally {
      // The slot passes straight to the next in line, so that nobody who comes in between can take it.
      const next = this.#queue.shift()
      if (next === undefined) this.#active--
      else next()
    }
  }
}
