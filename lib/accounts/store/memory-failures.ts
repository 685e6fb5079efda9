import type { Failures, LoginFailures } from './store.ts'

/** Entries kept at most, about 3 MB; the oldest go first. */
const capacity = 20_000

/** Failed logins in the memory of one server. */
export class MemoryFailures implements LoginFailures {
  readonly #counts = new Map<string, Failures>()
  readonly #now: () => number

  /** @param now milliseconds of a clock that is never set back */
  constructor (now: () => number = () => performance.now()) {
    this.#now = now
  }

  async change<Result> (
    _keys: readonly string[], work: (counts: Map<string, Failures>, now: number) => Result
  ): Promise<Result> {
    const result = work(this.#counts, this.#now())
    for (const oldest of this.#counts.keys()) {
      if (this.#counts.size <= capacity) break
      this.#counts.delete(oldest)
    }
    return result
  }
}
