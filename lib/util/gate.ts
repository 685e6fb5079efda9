import { apiError } from '../../errors.ts'

interface GateBounds {
  /** Work that may run at once, in units of `weight`. */
  running: number
  /** Calls that may wait. */
  waiting: number
  /** The same for one caller; by default what holds for all. */
  runningForOne?: number
  waitingForOne?: number
  /** The work, as a plural noun, for the error. */
  what: string
}

interface Waiting {
  caller: string
  weight: number
  start: () => void
}

/** Calls of a caller that run and wait; the entry goes when both are 0. */
interface Share {
  running: number
  waiting: number
}

/**
 * Bounds expensive work: some of it runs, some waits, the rest is refused. A caller can hold neither all places nor all
 * of the line, and the caller with least running goes first.
 */
export class Gate {
  readonly #bounds: Required<GateBounds>
  readonly #line: Waiting[] = []
  readonly #shares = new Map<string, Share>()
  #running = 0

  constructor (bounds: GateBounds) {
    this.#bounds = { runningForOne: bounds.running, waitingForOne: bounds.waiting, ...bounds }
  }

  /**
   * @param caller whose share the work counts to.
   * @param weight units that it takes, at most `runningForOne`.
   * @throws {ApiError} SDR_RATE_LIMITED when too many of this caller wait, SDR_UNAVAILABLE when too many of all do;
   *   both with Retry-After.
   */
  async run<T> (caller: string, work: () => Promise<T>, weight?: number): Promise<T> {
    const leave = await this.enter(caller, weight)
    try {
      return await work()
    } finally {
      leave()
    }
  }

  /** Like `run`, for work that ends elsewhere. @returns gives the place back; further calls do nothing */
  async enter (caller: string, weight = 1): Promise<() => void> {
    const { running, runningForOne, waiting, waitingForOne, what } = this.#bounds
    const share = this.#shares.get(caller) ?? { running: 0, waiting: 0 }
    if (this.#line.length > 0 || !this.#hasRoom(share, weight)) {
      const isOwnFault = runningForOne < running && share.running + weight > runningForOne
      if (this.#line.length >= waiting && !(isOwnFault && share.waiting >= waitingForOne)) {
        throw apiError('SDR_UNAVAILABLE', `Too many ${what} at once; try again in a moment.`, { retryAfter: 2 })
      }
      if (share.waiting >= waitingForOne) {
        throw apiError('SDR_RATE_LIMITED',
          `Too many ${what} of this caller at once; try again in a moment.`, { retryAfter: 2 })
      }
      share.waiting++
      this.#shares.set(caller, share)
      await new Promise<void>(resolve => {
        this.#line.push({ caller, weight, start: resolve })
        this.#startNext() // the line may hold only callers whose own share is full
      })
    } else {
      this.#shares.set(caller, share)
      this.#take(share, weight)
    }
    let hasLeft = false
    return () => {
      if (hasLeft) return
      hasLeft = true
      share.running -= weight
      this.#running -= weight
      if (share.running === 0 && share.waiting === 0) this.#shares.delete(caller)
      this.#startNext()
    }
  }

  #hasRoom (share: Share, weight: number): boolean {
    const { running, runningForOne } = this.#bounds
    return this.#running + weight <= running && share.running + weight <= runningForOne
  }

  #take (share: Share, weight: number): void {
    share.running += weight
    this.#running += weight
  }

  /** The place is taken here, before the caller hears of it, so that nothing in between can take it. */
  #startNext (): void {
    for (;;) {
      let next: Waiting | undefined
      for (const one of this.#line) {
        const share = this.#shares.get(one.caller)!
        const isAllowed = share.running + one.weight <= this.#bounds.runningForOne
        if (isAllowed && (next === undefined || share.running < this.#shares.get(next.caller)!.running)) next = one
      }
      // A heavy one waits for room instead of being passed by lighter ones for ever.
      if (next === undefined || this.#running + next.weight > this.#bounds.running) return
      const share = this.#shares.get(next.caller)!
      this.#line.splice(this.#line.indexOf(next), 1)
      share.waiting--
      this.#take(share, next.weight)
      next.start()
    }
  }
}
