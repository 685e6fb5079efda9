import { setTimeout as sleep } from 'node:timers/promises'
import { apiError } from '../../errors.ts'
import {
  findAuthAddon, loadAuthAddon,
  type AuthAddon, type PamRequest, type SystemAccount, type SystemGroup, type UnixRequest, type Verdict,
  type VerdictCode
} from '../../native/index.ts'

/** Milliseconds before which no login fails: the age of an account's hash method must not show in the time. */
const shortestFailure = 300
/** Seconds after which it is worth coming back when all places are taken. */
const busyRetry = 2

interface SystemAccountsOptions {
  /** Checks that run at once, 1…64. Each has a thread of its own. */
  concurrency?: number
  /** Checks that wait for a place, 0…10 000. */
  waiting?: number
  /** Milliseconds until the caller gets an error, waiting included. */
  timeout?: number
}

export type AccountCheck =
  | { ok: true, user: string }
  | {
    ok: false
    code: Exclude<VerdictCode, 'ok'>
    /** For the log, never for the client: it may say whether the account exists. */
    message: string
  }

interface SystemAccountsSupport {
  /** true, or why it can't be used and what to do. */
  pam: true | string
  unix: true | string
}

/** The accounts of this system, checked by auth.node with bounds on how much it may cost. */
export class SystemAccounts {
  readonly #concurrency: number
  readonly #waitingLimit: number
  readonly #timeout: number
  readonly #waiting = new Set<() => void>()
  #running = 0
  #addon: Promise<AuthAddon> | undefined

  constructor ({ concurrency = 4, waiting = 32, timeout = 10_000 }: SystemAccountsOptions = {}) {
    this.#concurrency = inRange('concurrency', concurrency, 1, 64)
    this.#waitingLimit = inRange('waiting', waiting, 0, 10_000)
    this.#timeout = inRange('timeout', timeout, 1, 600_000)
  }

  /** Checks that hold a thread, abandoned ones included, and checks that wait for one. */
  get load (): { running: number, waiting: number } {
    return { running: this.#running, waiting: this.#waiting.size }
  }

  /**
   * What can be used here; to be asked before the server listens.
   * @throws {TypeError} when `service` or `confDir` can't be a name of one
   */
  async support (service?: string, confDir?: string): Promise<SystemAccountsSupport> {
    const found = await findAuthAddon()
    if (!found.ok) return { pam: found.reason, unix: found.reason }
    const addon = await this.#load()
    return { pam: addon.pamProblem(service, confDir) ?? true, unix: addon.unixProblem() ?? true }
  }

  /**
   * Authenticates and checks an account through a PAM service, whose policy alone decides who may enter.
   * The password stays referenced until the promise settles; a Uint8Array may be wiped then.
   * @throws {ApiError} SDR_UNAVAILABLE when there is no place or no answer in time
   */
  authenticatePam (request: PamRequest): Promise<AccountCheck> {
    return this.#authenticate(addon => addon.pamAuthenticate(request))
  }

  /** As `authenticatePam`, against the account database. Never root, never without a password. */
  authenticateUnix (request: UnixRequest): Promise<AccountCheck> {
    return this.#authenticate(addon => addon.unixAuthenticate(request))
  }

  /** The account of that name as the system spells it; null when there is none. */
  lookup (user: string): Promise<SystemAccount | null> {
    return this.#inPlace(addon => addon.lookup(user))
  }

  /** The groups of an account, the primary one included; null when there is no such account. */
  groups (user: string): Promise<SystemGroup[] | null> {
    return this.#inPlace(addon => addon.groupsOf(user))
  }

  async #authenticate (check: (addon: AuthAddon) => Promise<Verdict>): Promise<AccountCheck> {
    const began = performance.now()
    const { code, message, user, delayMs } = await this.#inPlace(check).catch(invalidInput)
    if (code === 'ok') return { ok: true, user }
    // Held back here and not on the check's thread: failing logins must not take the places of others.
    const delay = Math.max(shortestFailure, delayMs) - (performance.now() - began)
    await sleep(Math.min(Math.max(delay, 0), this.#timeout))
    return { ok: false, code, message }
  }

  /** Runs a check when it has a place, and keeps the place until the check's thread has ended. */
  async #inPlace<T> (check: (addon: AuthAddon) => Promise<T>): Promise<T> {
    const addon = await this.#load()
    return await new Promise<T>((resolve, reject) => {
      const start = () => {
        this.#running++
        new Promise<T>(resolve => resolve(check(addon))).then(resolve, reject).finally(() => {
          clearTimeout(timer)
          this.#running--
          const [next] = this.#waiting
          if (next === undefined) return
          this.#waiting.delete(next)
          next()
        })
      }
      const timer = setTimeout(() => {
        this.#waiting.delete(start)
        reject(apiError('SDR_UNAVAILABLE', 'The system did not answer in time whether the account is valid.',
          { retryAfter: Math.ceil(this.#timeout / 1000) }))
      }, this.#timeout)

      if (this.#running < this.#concurrency) return start()
      if (this.#waiting.size < this.#waitingLimit) return this.#waiting.add(start)
      clearTimeout(timer)
      reject(apiError('SDR_UNAVAILABLE', 'Too many accounts are being checked now.', { retryAfter: busyRetry }))
    })
  }

  #load (): Promise<AuthAddon> {
    this.#addon ??= loadAuthAddon()
    return this.#addon
  }
}

/** A name or password that the addon does not even look at (too long, control characters) belongs to no account. */
function invalidInput (error: unknown): Verdict {
  if (!(error instanceof TypeError)) throw error
  return { code: 'denied', message: error.message, user: '', delayMs: 0 }
}

function inRange (name: string, value: number, least: number, most: number): number {
  if (Number.isInteger(value) && value >= least && value <= most) return value
  throw new RangeError(`Expected an integer between ${least} and ${most} for ${name} but received ${value}.`)
}
