import { foldedName } from './users.ts'

/**
 * What is counted. `tolerated` failures cost nothing, because people mistype; each further one doubles the wait. One
 * failure is forgotten for every `forgiven` milliseconds of quiet.
 */
const meters = {
  /** One address that guesses at one account. */
  pair: { tolerated: 5, forgiven: 120_000 },
  /** One address that guesses at many accounts. */
  address: { tolerated: 20, forgiven: 60_000 },
  /**
   * Many addresses that guess at one account. A single stranger stays below: after the first guesses the pair lets one
   * through a minute, and six are forgiven. So nobody alone can keep an account closed.
   */
  account: { tolerated: 30, forgiven: 10_000 }
} as const

/** Longest wait in seconds. */
const longestWait = 60

/** Failures beyond the tolerated ones that make no difference any more: 2⁶ is more than the longest wait. */
const mostCounted = 6

/** Entries kept at most, about 3 MB; the oldest go first. */
const capacity = 20_000

type Meter = keyof typeof meters

interface Failures {
  count: number
  last: number
}

/**
 * Back-off for logins. It lives in memory and unlocks by itself. Unknown accounts are counted like known ones, so that the
 * answer says nothing of which exist.
 */
export class LoginThrottle {
  readonly #failures = new Map<string, Failures>()
  readonly #now: () => number

  /** @param now milliseconds of a clock that is never set back */
  constructor (now: () => number = () => performance.now()) {
    this.#now = now
  }

  /**
   * Asks to try a password. The try counts as failed until `takeBack` or `succeed` says otherwise, so that many at once
   * are no way around the wait.
   * @param isKnown whether the account is logged in from this address; then strangers elsewhere do not matter. Asked only
   *   when it makes a difference.
   * @returns seconds to wait, or 0 when the password may be looked at now
   */
  attempt (username: string, address: string, isKnown: () => boolean): number {
    const keys = keysOf(username, address)
    const wait = Math.max(...keys.map(([meter, key]) => {
      const wait = this.#waitFor(meter, key)
      return wait > 0 && meter === 'account' && isKnown() ? 0 : wait
    }))
    if (wait === 0) for (const [meter, key] of keys) this.#count(meter, key, 1)
    return wait
  }

  /** A right password clears what this address did to this account, not the address: it may be guessing at others. */
  succeed (username: string, address: string): void {
    this.takeBack(username, address)
    const [[, pair]] = keysOf(username, address)
    this.#failures.delete(pair)
  }

  /** Nobody could say whether the password is right. */
  takeBack (username: string, address: string): void {
    for (const [meter, key] of keysOf(username, address)) this.#count(meter, key, -1)
  }

  #count (meter: Meter, key: string, change: 1 | -1): void {
    const { count, last } = this.#recent(meter, key)
    this.#failures.delete(key) // so that the newest is last in the map's order
    const changed = Math.min(count + change, meters[meter].tolerated + mostCounted)
    if (changed > 0) this.#failures.set(key, { count: changed, last: change === 1 ? this.#now() : last })
    for (const oldest of this.#failures.keys()) {
      if (this.#failures.size <= capacity) break
      this.#failures.delete(oldest)
    }
  }

  #recent (meter: Meter, key: string): Failures {
    const { count, last } = this.#failures.get(key) ?? { count: 0, last: this.#now() }
    const forgiven = Math.floor((this.#now() - last) / meters[meter].forgiven)
    return { count: Math.max(0, count - forgiven), last }
  }

  #waitFor (meter: Meter, key: string): number {
    const { count, last } = this.#recent(meter, key)
    if (count < meters[meter].tolerated) return 0
    const wait = Math.min(longestWait, 2 ** (count - meters[meter].tolerated))
    return Math.max(0, Math.ceil(wait - (this.#now() - last) / 1000))
  }
}

function keysOf (username: string, address: string): [pair: [Meter, string], ...others: Array<[Meter, string]>] {
  const name = foldedName(username)
  return [['pair', `${address} ${name}`], ['address', `@${address}`], ['account', `#${name}`]]
}
