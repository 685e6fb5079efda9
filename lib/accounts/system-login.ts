import { randomBytes } from 'node:crypto'
import { apiError, type ErrorCode } from '../../errors.ts'
import { isLoginName } from './accounts.ts'
import { printable } from './audit.ts'
import type { Options } from '../options/options.ts'
import type { Principal } from './principals.ts'
import type { AccountRole } from '../options/permissions.ts'
import type { SystemAccount } from '../../native/index.ts'
import type { Logger } from '../util/logger.ts'
import type { AccountRecords, CheckedAccount } from './store/store.ts'
import type { AccountCheck, SystemAccounts } from './system-accounts.ts'

interface SystemLoginParts {
  source: 'unix' | 'pam'
  system: SystemAccounts
  records: AccountRecords
  options: Pick<Options, 'pamServiceName' | 'adminUsers' | 'adminGroups' | 'allowedGroups'>
  logger: Pick<Logger, 'warn'>
}

/** What the caller is told. All but the first go only to those who know the password, or say nothing of the account. */
const errorCodes: Record<Exclude<AccountCheck, { ok: true }>['code'], ErrorCode | undefined> = {
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
  #rejected = new Set<string>()

  constructor (parts: SystemLoginParts) {
    this.#parts = parts
  }

  /**
   * The account of a system user with a right password; undefined when it is not let in.
   * @throws {ApiError} what `errorCodes` lists
   */
  async verify (typed: string, password: string, remoteHost: string): Promise<CheckedAccount | undefined> {
    const { source, records, logger } = this.#parts
    // A directory may know one account under several spellings, of which one is its name.
    const listed = await this.#lookup(typed)
    const username = listed?.name ?? typed
    // Who may not come in is checked against a password that no account has: the time must not tell a right one.
    const mayTry = await this.#roleOf(username) !== undefined &&
      (await records.find(username, source))?.disabled !== true
    const check = await this.#check(username, mayTry ? password : randomBytes(32).toString('hex'), remoteHost)
    if (!check.ok) {
      const reason = mayTry ? check.message : 'the account is root, disabled here, or in none of --allowed-groups'
      logger.warn(printable({ username, code: check.code, reason }), 'The system refused a login')
      const code = errorCodes[check.code]
      if (code !== undefined) throw apiError(code)
      return undefined
    }
    // PAM may know the account under another name than the one that was typed.
    const [role, reason] = [await this.#roleOf(check.user), await this.#reasonAgainstName(check.user)]
    if (reason !== undefined) {
      logger.warn(
        printable({ username: check.user, reason }), 'The system let an account in that is refused here')
    }
    if (role === undefined || reason !== undefined) return undefined
    const user = await records.addExternal(source, check.user, role)
    this.#rejected.delete(user.id)
    return user.disabled ? undefined : { user, hash: null }
  }

  /**
   * Why the name that PAM answered could be a second spelling of an account: the account database of this machine,
   * which would say its one name, does not know it.
   */
  async #reasonAgainstName (name: string): Promise<string | undefined> {
    if (!isLoginName(name)) return 'its name has characters that no name may have'
    if (await this.#lookup(name) !== null) return undefined
    if (name !== name.trim()) return 'its name begins or ends with a blank'
    const twin = await this.#parts.records.spelledLike(this.#parts.source, name)
    return twin === undefined ? undefined : `there is an account ${twin}, which could be the same in another spelling`
  }

  /** Asks the system again about every account with a session or a key: it may be gone, or in other groups. */
  async review (): Promise<void> {
    const { source, records, logger } = this.#parts
    for (const { id, username, role: before } of await records.externalWithAccess(source)) {
      try {
        const role = await this.#roleOf(username)
        if (role === undefined) {
          if (!this.#rejected.has(id)) {
            logger.warn(
              { username }, 'The system does not let this account in any more: its sessions and keys do not count')
          }
          this.#rejected.add(id)
        } else {
          this.#rejected.delete(id)
          if (role !== before) await records.addExternal(source, username, role)
        }
      } catch (err) {
        logger.warn({ username, err }, 'The system does not say whether this account is still let in')
      }
    }
  }

  /** Whether a principal with a session or a key may go on, as far as the last review knows. */
  accepts ({ id, source }: Pick<Principal, 'id' | 'source'>): boolean {
    return source === this.#parts.source && !this.#rejected.has(id)
  }

  #check (user: string, password: string, remoteHost: string): Promise<AccountCheck> {
    const { source, system, options } = this.#parts
    return source === 'unix'
      ? system.authenticateUnix({ user, password })
      : system.authenticatePam({ user, password, remoteHost, service: options.pamServiceName })
  }

  /** null when the account database of this machine has no such account. */
  async #lookup (username: string): Promise<SystemAccount | null> {
    return await this.#parts.system.lookup(username).catch(error => {
      if (error instanceof TypeError) return null // no account has such a name
      throw error
    })
  }

  /** What an account would come in as; undefined when not at all, as root and the second spelling of another name. */
  async #roleOf (username: string): Promise<AccountRole | undefined> {
    const { source, system, options: { adminUsers, adminGroups, allowedGroups } } = this.#parts
    const listed = await this.#lookup(username)
    if (listed !== null && (listed.uid === 0 || listed.name !== username)) return undefined
    const groups = await system.groups(username).catch(error => {
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
