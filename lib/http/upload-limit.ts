import type { ApiError } from '../../errors.ts'
import { Gate } from '../util/gate.ts'

interface Bounds {
  /** Bytes of all callers, and of one. */
  bytes: number
  bytesForOne: number
  /** Milliseconds that a body may hold its room whatever others want. */
  grace?: number
}

/** A body that is being sent, or worked with. */
interface Held {
  caller: string
  bytes: number
  since: number
  /** Ends the request when its body is still under way. @returns whether it was */
  giveUp: () => boolean
  leave: () => void
}

const standardGrace = 10_000

/**
 * Room for large bodies, counted in bytes by what they say they have. When it is full, the callers with most of it make
 * room for one that has none: a body that holds its place and does not come would keep all others out for an hour.
 */
export class UploadLimit {
  readonly #gate: Gate
  readonly #grace: number
  readonly #held = new Set<Held>()

  constructor ({ bytes, bytesForOne, grace = standardGrace }: Bounds) {
    this.#gate = new Gate({ running: bytes, runningForOne: bytesForOne, waiting: 0, what: 'bytes of uploads' })
    this.#grace = grace
  }

  /**
   * @returns gives the room back; further calls do nothing
   * @throws {ApiError} SDR_RATE_LIMITED, SDR_UNAVAILABLE
   */
  async enter (caller: string, bytes: number, giveUp: Held['giveUp']): Promise<() => void> {
    for (;;) {
      try {
        const leave = await this.#gate.enter(caller, bytes)
        const held: Held = {
          caller, bytes, since: performance.now(), giveUp, leave: () => { if (this.#held.delete(held)) leave() }
        }
        this.#held.add(held)
        return held.leave
      } catch (error) {
        const isForAll = (error as ApiError).code === 'SDR_UNAVAILABLE'
        if (!isForAll || this.#shareOf(caller) > 0 || !this.#makeRoom()) throw error
      }
    }
  }

  #shareOf (caller: string): number {
    let share = 0
    for (const held of this.#held) if (held.caller === caller) share += held.bytes
    return share
  }

  /** @returns whether a body was given up: the oldest of the caller with most */
  #makeRoom (): boolean {
    const latest = performance.now() - this.#grace
    const candidates = [...this.#held].filter(({ since }) => since <= latest)
      .map(held => ({ held, share: this.#shareOf(held.caller) }))
      .sort((a, b) => b.share - a.share) // the oldest stay first
    const found = candidates.find(({ held }) => held.giveUp())
    found?.held.leave()
    return found !== undefined
  }
}
