import { apiError, type ErrorCode } from '../errors.ts'
import type { Options } from './options.ts'
import type { AccountCheck, SystemAccounts } from './system-accounts.ts'
import type { User, UserStore } from './users.ts'

export interface SystemLoginParts {
  source: 'unix' | 'pam'
  accounts: SystemAccounts
  users: UserStore
  options: Pick<Options, 'pamServiceName' | 'adminUsers' | 'adminGroups' | 'allowedGroups'>
  logger: { warn: (details: object, message: string) => void, error: (details: object, message: string) => void }
}

type Refusal = Exclude<AccountCheck, { ok: true }>['code']

/** What the caller is told. All but the first are given only to those who know the password, or say nothing of the account. */
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

/** Logins with the accounts of the operating system. The system checks the password, the options say who may come in as what. */
export class SystemLogin {
  readonly #parts: SystemLoginParts

  constructor (parts: SystemLoginParts) {
    this.#parts = parts
  }

  /**
   * The account of a system user with a right password; undefined when it is not let in.
   * @throws {ApiError} what `refusals` lists
   */
  async verify (username: string, password: string, remoteHost: string): Promise<User | undefined> {
    const { source, accounts, users, options, logger } = this.#parts
    const check = source === 'unix'
      ? await accounts.authenticateUnix({ user: username, password })
      : await accounts.authenticatePam({ user: username, password, remoteHost, service: options.pamServiceName })
    if (!check.ok) {
      logger.warn({ username, code: check.code, reason: check.message }, 'The system refused a login')
      const code = refusals[check.code]
      if (code !== undefined) throw apiError(code)
      return undefined
    }
    const groups = (await accounts.groups(check.user) ?? []).map(({ name }) => name)
    const isIn = (wanted: readonly string[]) => groups.some(name => name !== null && wanted.includes(name))
    const isAdmin = options.adminUsers.includes(check.user) || isIn(options.adminGroups)
    if (!isAdmin && options.allowedGroups.length > 0 && !isIn(options.allowedGroups)) {
      logger.warn({ username, groups }, 'The account is in none of --allowed-groups')
      return undefined
    }
    const user = users.external(source, check.user, isAdmin ? 'admin' : 'user')
    return user.disabled ? undefined : user
  }
}
