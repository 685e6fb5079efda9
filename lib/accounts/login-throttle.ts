import { networksOf } from '../network/addresses.ts'
import { foldedName } from './users.ts'

/**
 * What is counted. `tolerated` failures cost nothing, because people mistype; each further one doubles the wait. One
 * failure is forgotten for every `forgiven` milliseconds of quiet. A meter with several entries has one for each
 * network that `networksOf` returns, so only the first is for IPv4 addresses.
 */
const meters = {
  /**
   * One address or network that guesses at one account. The wider networks tolerate little more than the narrowest,
   * because one customer may own them whole; they forgive sooner, so that a customer does not shut out its neighbours.
   */
  pair: [
    { tolerated: 5, forgiven: 120_000 },
    { tolerated: 7, forgiven: 60_000 },
    { tolerated: 10, forgiven: 30_000 }
  ],
  /** One address or network that guesses at many accounts. */
  address: [
    { tolerated: 20, forgiven: 60_000 },
    { tolerated: 40, forgiven: 30_000 },
    { tolerated: 80, forgiven: 15_000 }
  ],
  /**
   * Many addresses that guess at one account. A single stranger stays below, even one with a /48 and an IPv4 address:
   * after the first guesses the pairs let three through a minute, and six are forgiven. So one stranger alone cannot
   * keep an account closed.
   */
  account: { tolerated: 30, forgiven: 10_000 }
} as const

/** Longest wait in seconds. */
const longestWait = 60

/** Failures beyond the tolerated ones that make no difference any more: 2⁶ is more than the longest wait. */
const mostCounted = 6

/** Entries kept at most, about 3 MB; the oldest go first. */
const capacity = 20_000

interface Meter {
  key: string
  tolerated: number
  forgiven: number
  /** Whether strangers share this meter with the address, so that it does not hold up one that the account knows. */
  isShared: boolean
}

interface Failures {
  count: number
  last: number
}

/**
 * Back-off for logins. It lives in memory and unlocks by itself. Unknown accounts are counted like known ones, so that
 * the answer says nothing of which exist.
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
   * @param isKnown whether the account is logged in from this address; then strangers elsewhere, in the same wider
   *   network too, do not matter. Asked only when it makes a difference.
   * @returns seconds to wait, or 0 when the password may be looked at now
   */
  attempt (username: string, address: string, isKnown: () => boolean): number {
    const counting = metersOf(username, address)
    const [own, shared] = [false, true].map(isShared => {
      return Math.max(...counting.filter(meter => meter.isShared === isShared).map(meter => this.#waitFor(meter)))
    }) as [number, number]
    const wait = shared > own && isKnown() ? own : Math.max(own, shared)
    if (wait === 0) for (const meter of counting) this.#count(meter, 1)
    return wait
  }

  /** A right password clears what this address did to this account, not the address: it may be guessing at others. */
  succeed (username: string, address: string): void {
    this.takeBack(username, address)
    this.#failures.delete(metersOf(username, address)[0]!.key)
  }

  /** It could not be checked whether the password is right. */
  takeBack (username: string, address: string): void {
    for (const meter of metersOf(username, address)) this.#count(meter, -1)
  }

  #count (meter: Meter, change: 1 | -1): void {
    const { count, last } = this.#recent(meter)
    this.#failures.delete(meter.key) // so that the newest is last in the map's order
    const changed = Math.min(count + change, meter.tolerated + mostCounted)
    if (changed > 0) this.#failures.set(meter.key, { count: changed, last: change === 1 ? this.#now() : last })
    for (const oldest of this.#failures.keys()) {
      if (this.#failures.size <= capacity) break
      this.#failures.delete(oldest)
    }
  }

  #recent ({ key, forgiven }: Meter): Failures {
    const { count, last } = this.#failures.get(key) ?? { count: 0, last: this.#now() }
    return { count: Math.max(0, count - Math.floor((this.#now() - last) / forgiven)), last }
  }

  #waitFor (meter: Meter): number {
    const { count, last } = this.#recent(meter)
    if (count < meter.tolerated) return 0
    const wait = Math.min(longestWait, 2 ** (count - meter.tolerated))
    return Math.max(0, Math.ceil(wait - (this.#now() - last) / 1000))
  }
}

/** The meters that a try counts on; that of the account and the narrowest network comes first. */
function metersOf (username: string, address: string): Meter[] {
  const name = foldedName(username)
  const ofNetworks = networksOf(address).flatMap((network, width) => [
    { key: `${network} ${name}`, ...meters.pair[width]!, isShared: width > 0 },
    { key: `@${network}`, ...meters.address[width]!, isShared: width > 0 }
  ])
  return [...ofNetworks, { key: `#${name}`, ...meters.account, isShared: true }]
}
