import { apiError, type ApiError } from '../../errors.ts'
import { networksOf } from '../network/addresses.ts'
import type { AuthMethod } from '../options/permissions.ts'
import { storageError } from '../storage/storage-errors.ts'
import { isLoginName, type Accounts } from './accounts.ts'
import { notAccepted, type Guard } from './guard.ts'
import { LoginThrottle } from './login-throttle.ts'
import type { Principal } from './principals.ts'
import type { AccountStore, AuditEntry, CheckedAccount, RefusedRefresh } from './store/store.ts'
import type { AccessTokens, Login } from './tokens.ts'

interface LoginRequest {
  ip: string
  headers: { 'user-agent'?: string }
  principal: Principal
}

/** Checks a password. @param address of the caller. @returns undefined for a wrong name or password */
type CheckPassword = (username: string, password: string, address: string) => Promise<CheckedAccount | undefined>

interface LoginParts<Request> {
  auth: AuthMethod
  store: AccountStore
  accounts: Accounts
  tokens: AccessTokens
  accepts: Guard<never, never>['accepts']
  audit: (request: Request, entry: Pick<AuditEntry, 'event'> & Partial<AuditEntry>) => Promise<void>
}

const refreshErrors: Record<RefusedRefresh['reason'] | 'unknown', () => ApiError> = {
  unknown: () => apiError('SDR_INVALID_TOKEN', 'The refresh token is not valid; log in again.'),
  reused: () => apiError('SDR_INVALID_TOKEN',
    'This refresh token was used before, so its session has been ended; log in again.'),
  'not admitted': notAccepted
}

/** Login, refresh and password change, the same for every method that has them; only `checkPassword` differs. */
export class Logins<Request extends LoginRequest> {
  /** How the running method checks a password; a method without logins leaves it undefined. */
  checkPassword: CheckPassword | undefined
  readonly #parts: LoginParts<Request>
  readonly #throttle: LoginThrottle

  constructor (parts: LoginParts<Request>) {
    this.#parts = parts
    this.#throttle = new LoginThrottle(parts.store.loginFailures)
  }

  /** @throws {ApiError} 401 for a wrong name or password, 409 where there are no logins, 429 while backing off */
  async login (username: string, password: string, request: Request): Promise<Login> {
    const { store: { sessions }, tokens, audit } = this.#parts
    return await this.#recorded(request, 'login', username, async () => {
      const account = await this.#check(username, password, request.ip, this.#method())
      const session = await sessions.open(account, request.ip, request.headers['user-agent'] ?? '')
      // An account can be disabled, or get a new password, during the check.
      if (session === undefined) throw apiError('SDR_INVALID_CREDENTIALS')
      await audit(request, { event: 'login', actor: session.user.username, subject: session.sessionId })
      return tokens.issue(session)
    })
  }

  /** @throws {ApiError} 401, 409 */
  async refresh (refreshToken: string, request: Request): Promise<Login> {
    const { store: { sessions }, tokens, accepts, audit } = this.#parts
    this.#method()
    const session = await sessions.rotate(refreshToken, accepts)
    const entry = { event: 'refresh', actor: session?.user.username ?? '', subject: session?.sessionId } as const
    if (session === undefined || session.refreshToken === null) {
      const reason = session?.reason ?? 'unknown'
      await audit(request, { ...entry, outcome: 'failure', reason })
      throw refreshErrors[reason]()
    }
    await audit(request, entry)
    return tokens.issue(session)
  }

  /** Changes the password of the caller. @throws {ApiError} 403, 409, 429 */
  async changePassword (request: Request, current: string, next: string): Promise<void> {
    const { accounts, audit } = this.#parts
    const { username, source } = request.principal
    await this.#recorded(request, 'user.password', username, async () => {
      this.#method()
      if (source !== 'local') {
        throw apiError('SDR_CONFLICT', 'This account belongs to the operating system; change its password there.')
      }
      // Not the method's own check: under --auth unix and pam the system may have another account of this name.
      const account = await this.#check(username, current, request.ip,
        async (username, password) => await accounts.verify(username, password), 'SDR_WRONG_PASSWORD')
      await accounts.changePassword(account, next, request.principal)
      await audit(request, { event: 'user.password', subject: username })
    })
  }

  /** @throws SDR_CONFLICT under a method that has no sessions */
  #method (): CheckPassword {
    if (this.checkPassword !== undefined) return this.checkPassword
    throw apiError('SDR_CONFLICT', `This server runs with --auth ${this.#parts.auth}, which has no logins.`)
  }

  /**
   * @param wrong what a wrong password is. Not 401 for a caller whose session is good: clients would end it.
   * @throws {ApiError} when the password is wrong, or the account or the address has to wait
   */
  async #check (
    username: string, password: string, ip: string, checkPassword: CheckPassword,
    wrong: 'SDR_INVALID_CREDENTIALS' | 'SDR_WRONG_PASSWORD' = 'SDR_INVALID_CREDENTIALS'
  ): Promise<CheckedAccount> {
    if (!isLoginName(username)) throw apiError(wrong)
    const [address] = networksOf(ip)
    const isKnown = async () =>
      (await this.#parts.store.sessions.addressesOf(username)).some(known => networksOf(known)[0] === address)
    const wait = await this.#throttle.attempt(username, address, isKnown)
    if (wait > 0) {
      throw apiError('SDR_RATE_LIMITED', `Too many failed logins; try again in ${wait} s.`, { retryAfter: wait })
    }
    const account = await checkPassword(username, password, ip).catch(async error => {
      const isUnknown = error.statusCode === 503 || storageError(error) !== undefined
      if (isUnknown) await this.#throttle.takeBack(username, address)
      throw error
    })
    if (account === undefined) throw apiError(wrong)
    await this.#throttle.succeed(username, address)
    return account
  }

  /** Runs `work`, and records its error. */
  async #recorded<T> (
    request: Request, event: 'login' | 'user.password', actor: string, work: () => Promise<T>
  ): Promise<T> {
    try {
      return await work()
    } catch (thrown) {
      const error = storageError(thrown) ?? thrown as ApiError
      await this.#parts.audit(request, { event, outcome: 'failure', actor, reason: error.code })
      throw error
    }
  }
}
