/** Failures in a row that cost nothing: people mistype. */
const free = { account: 5, address: 20 } as const

/** Longest wait in seconds. Short enough that a stranger can't lock anybody out, long enough to make guessing hopeless. */
const longestWait = 60

/** Failures are forgotten after this many milliseconds of quiet. */
const memory = 15 * 60 * 1000

/** Entries kept at most; the oldest go first. */
const capacity = 10_000

interface Failures {
  count: number
  last: number
}

/**
 * Back-off for logins, per account and per address: after a few failures each further one doubles the wait. It lives in
 * memory and unlocks by itself. Unknown accounts are counted like known ones, so that the answer says nothing of which exist.
 */
export class LoginThrottle {
  readonly #failures = new Map<string, Failures>()
  readonly #now: () => number

  constructor (now: () => number = Date.now) {
    this.#now = now
  }

  /** Seconds to wait before the next try; 0 when it may come now. */
  wait (username: string, address: string): number {
    return Math.max(this.#waitFor(accountKey(username), free.account), this.#waitFor(`@${address}`, free.address))
  }

  fail (username: string, address: string): void {
    for (const key of [accountKey(username), `@${address}`]) {
      const { count = 0 } = this.#recent(key) ?? {}
      this.#failures.delete(key) // so that the newest is last in the map's order
      this.#failures.set(key, { count: count + 1, last: this.#now() })
    }
    for (const key of this.#failures.keys()) {
      if (this.#failures.size <= capacity) break
      this.#failures.delete(key)
    }
  }

  /** A right password clears the account, not the address: it may be guessing at others. */
  succeed (username: string): void {
    this.#failures.delete(accountKey(username))
  }

  #recent (key: string): Failures | undefined {
    const failures = this.#failures.get(key)
    return failures !== undefined && this.#now() - failures.last < memory ? failures : undefined
  }

  #waitFor (key: string, tolerated: number): number {
    const failures = this.#recent(key)
    if (failures === undefined || failures.count < tolerated) return 0
    const wait = Math.min(longestWait, 2 ** (failures.count - tolerated))
    return Math.max(0, Math.ceil(wait - (this.#now() - failures.last) / 1000))
  }
}

function accountKey (username: string): string {
  return `#${username.toLowerCase()}`
}
