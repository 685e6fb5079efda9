import { networksOf } from '../network/addresses.ts'
import type { Maybe } from '../util/maybe.ts'
import { foldedName } from './principals.ts'
import type { Failures, LoginFailures } from './store/store.ts'

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

interface Meter {
  key: string
  tolerated: number
  forgiven: number
  /** Whether strangers share this meter with the address, so that it does not hold up one that the account knows. */
  isShared: boolean
}

/**
 * Back-off for logins. It unlocks by itself. Unknown accounts are counted like known ones, so that the answer says
 * nothing of which exist.
 */
export class LoginThrottle {
  readonly #failures: LoginFailures

  constructor (failures: LoginFailures) {
    this.#failures = failures
  }

  /**
   * Asks to try a password. The try counts as failed until `takeBack` or `succeed` says otherwise, so that many at once
   * are no way around the wait.
   * @param isKnown whether the account is logged in from this address; then strangers elsewhere, in the same wider
   *   network too, do not matter. Asked only when it makes a difference.
   * @returns seconds to wait, or 0 when the password may be looked at now
   */
  async attempt (username: string, address: string, isKnown: () => Maybe<boolean>): Promise<number> {
    const tryOnce = (ignoresShared: boolean) => this.#change(username, address, (meters, counts, now) => {
      const [own, shared] = [false, true].map(isShared => Math.max(
        ...meters.filter(meter => meter.isShared === isShared).map(meter => waitFor(meter, counts, now)))) as
        [number, number]
      const wait = ignoresShared ? own : Math.max(own, shared)
      if (wait === 0) for (const meter of meters) count(meter, 1, counts, now)
      return { wait, isShared: wait > own }
    })
    const { wait, isShared } = await tryOnce(false)
    return isShared && await isKnown() ? (await tryOnce(true)).wait : wait
  }

  /** A right password clears what this address did to this account, not the address: it may be guessing at others. */
  async succeed (username: string, address: string): Promise<void> {
    await this.#change(username, address, (meters, counts, now) => {
      for (const meter of meters) count(meter, -1, counts, now)
      counts.delete(meters[0]!.key)
    })
  }

  /** It could not be checked whether the password is right. */
  async takeBack (username: string, address: string): Promise<void> {
    await this.#change(username, address, (meters, counts, now) => {
      for (const meter of meters) count(meter, -1, counts, now)
    })
  }

  async #change<Result> (
    username: string, address: string, work: (meters: Meter[], counts: Map<string, Failures>, now: number) => Result
  ): Promise<Result> {
    const meters = metersOf(username, address)
    return await this.#failures.change(meters.map(({ key }) => key), (counts, now) => work(meters, counts, now))
  }
}

function count (meter: Meter, change: 1 | -1, counts: Map<string, Failures>, now: number): void {
  const { count, last } = recent(meter, counts, now)
  counts.delete(meter.key) // so that the newest is last in the map's order
  const changed = Math.min(count + change, meter.tolerated + mostCounted)
  if (changed > 0) counts.set(meter.key, { count: changed, last: change === 1 ? now : last })
}

function recent ({ key, forgiven }: Meter, counts: Map<string, Failures>, now: number): Failures {
  const { count, last } = counts.get(key) ?? { count: 0, last: now }
  return { count: Math.max(0, count - Math.floor((now - last) / forgiven)), last }
}

function waitFor (meter: Meter, counts: Map<string, Failures>, now: number): number {
  const { count, last } = recent(meter, counts, now)
  if (count < meter.tolerated) return 0
  const wait = Math.min(longestWait, 2 ** (count - meter.tolerated))
  return Math.max(0, Math.ceil(wait - (now - last) / 1000))
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
