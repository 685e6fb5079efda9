import { randomBytes } from 'node:crypto'
import { apiError, type ErrorCode } from '../../errors.ts'
import { printable } from './audit.ts'
import type { Options } from '../options/options.ts'
import type { Principal } from './principals.ts'
import type { AccountRole } from '../options/permissions.ts'
import type { SystemAccount } from '../../native/index.ts'
import type { Logger } from '../util/logger.ts'
import { whenFree } from '../storage/storage-errors.ts'
import type { AccountCheck, SystemAccounts } from './system-accounts.ts'
import { isLoginName, type CheckedAccount, type UserStore } from './users.ts'

interface SystemLoginParts {
  source: 'unix' | 'pam'
  accounts: SystemAccounts
  users: UserStore
  options: Pick<Options, 'pamServiceName' | 'adminUsers' | 'adminGroups' | 'allowedGroups'>
  logger: Pick<Logger, 'warn'>
}

type Refusal = Exclude<AccountCheck, { ok: true }>['code']

/** What the caller is told. All but the first go only to those who know the password, or say nothing of the account. */
const refusals: Record<Refusal, ErrorCode | undefined> = {
  denied: undefined,
  account_locked: 'SDR_ACCOUNT_UNAVAILABLE',
  account_expired: 'SDR_ACCOUNT_UNAVAILABLE',
  password_expired: 'SDR_PASSWORD_EXPIRED',
  second_factor: 'SDR_SECOND_FACTOR_REQUIRED',
  service_missing: 'SDR_UNAVAILABLE',
  no_privilege: 'SDR_UNAVAILABLE',
  unavailable: 'SDR_UNAVAILABLE'
}

/** Logins with the accounts of the operating system. The system checks passwords, options say who comes in as what. */
export class SystemLogin {
  readonly #parts: SystemLoginParts
  /** Ids of accounts that hold a session or a key, and that the system would not let in any more. */
  #barred = new Set<string>()

  constructor (parts: SystemLoginParts) {
    this.#parts = parts
  }

  /**
   * The account of a system user with a right password; undefined when it is not let in.
   * @throws {ApiError} what `refusals` lists
   */
  async verify (typed: string, password: string, remoteHost: string): Promise<CheckedAccount | undefined> {
    const { source, users, logger } = this.#parts
    // A directory may know one account under several spellings, of which one is its name.
    const listed = await this.#lookup(typed)
    const username = listed?.name ?? typed
    // Who may not come in is checked against a password that no account has: the time must not tell a right one.
    const mayTry = await this.#roleOf(username) !== undefined && users.find(username, source)?.disabled !== true
    const check = await this.#check(username, mayTry ? password : randomBytes(32).toString('hex'), remoteHost)
    if (!check.ok) {
      const reason = mayTry ? check.message : 'the account is root, disabled here, or in none of --allowed-groups'
      logger.warn(printable({ username, code: check.code, reason }), 'The system refused a login')
      const code = refusals[check.code]
      if (code !== undefined) throw apiError(code)
      return undefined
    }
    // PAM may know the account under another name than the one that was typed.
    const [role, confusion] = [await this.#roleOf(check.user), await this.#confusion(check.user)]
    if (confusion !== undefined) {
      logger.warn(
        printable({ username: check.user, reason: confusion }), 'The system let an account in that is refused here')
    }
    if (role === undefined || confusion !== undefined) return undefined
    const user = await whenFree(() => users.external(source, check.user, role))
    this.#barred.delete(user.id)
    return user.disabled ? undefined : { user, hash: null }
  }

  /**
   * Why the name that PAM answered could be a second spelling of an account: the account database of this machine,
   * which would say its one name, does not know it.
   */
  async #confusion (name: string): Promise<string | undefined> {
    if (!isLoginName(name)) return 'its name has characters that no name may have'
    if (await this.#lookup(name) !== null) return undefined
    if (name !== name.trim()) return 'its name begins or ends with a blank'
    const twin = this.#parts.users.spelledLike(this.#parts.source, name)
    return twin === undefined ? undefined : `there is an account ${twin}, which could be the same in another spelling`
  }

  /** Asks the system again about every account with a session or a key: it may be gone, or in other groups. */
  async review (): Promise<void> {
    const { source, users, logger } = this.#parts
    for (const { id, username, role: before } of users.externalWithAccess(source)) {
      try {
        const role = await this.#roleOf(username)
        if (role === undefined) {
          if (!this.#barred.has(id)) {
            logger.warn(
              { username }, 'The system does not let this account in any more: its sessions and keys do not count')
          }
          this.#barred.add(id)
        } else {
          this.#barred.delete(id)
          if (role !== before) users.external(source, username, role)
        }
      } catch (err) {
        logger.warn({ username, err }, 'The system does not say whether this account is still let in')
      }
    }
  }

  /** Whether a principal with a session or a key may go on, as far as the last review knows. */
  accepts ({ id, source }: Pick<Principal, 'id' | 'source'>): boolean {
    return source === this.#parts.source && !this.#barred.has(id)
  }

  #check (user: string, password: string, remoteHost: string): Promise<AccountCheck> {
    const { source, accounts, options } = this.#parts
    return source === 'unix'
      ? accounts.authenticateUnix({ user, password })
      : accounts.authenticatePam({ user, password, remoteHost, service: options.pamServiceName })
  }

  /** null when the account database of this machine has no such account. */
  async #lookup (username: string): Promise<SystemAccount | null> {
    return await this.#parts.accounts.lookup(username).catch(error => {
      if (error instanceof TypeError) return null // no account has such a name
      throw error
    })
  }

  /** What an account would come in as; undefined when not at all, as root and the second spelling of another name. */
  async #roleOf (username: string): Promise<AccountRole | undefined> {
    const { source, accounts, options: { adminUsers, adminGroups, allowedGroups } } = this.#parts
    const listed = await this.#lookup(username)
    if (listed !== null && (listed.uid === 0 || listed.name !== username)) return undefined
    const groups = await accounts.groups(username).catch(error => {
      if (error instanceof TypeError) return null // no account has such a name
      throw error
    })
    // PAM may let in a user whom the account database of this machine does not list.
    if (groups === null && source === 'unix') return undefined
    const isIn = (wanted: readonly string[]) =>
      groups?.some(({ name }) => name !== null && wanted.includes(name)) ?? false
    if (adminUsers.includes(username) || isIn(adminGroups)) return 'admin'
    return allowedGroups.length === 0 || isIn(allowedGroups) ? 'user' : undefined
  }
}
