/** Mirrors of what the addons export. A change in native/<addon>/ changes this file in the same commit. */

/** What every addon exports. */
export interface Addon {
  /** The release of this package that it was built for. The loader refuses any other. */
  readonly version: string
}

/**
 * Outcome of a check of a password.
 * `account_expired`, `account_locked` and `password_expired` are given only to those who know the password.
 * `second_factor`: the PAM service asked for more than the password. `service_missing`: it has no file.
 * `no_privilege`: this process may not read the shadow database. `unavailable`: a part of the system failed.
 */
export type VerdictCode =
  | 'ok' | 'denied' | 'account_expired' | 'account_locked' | 'password_expired'
  | 'second_factor' | 'service_missing' | 'no_privilege' | 'unavailable'

export interface Verdict {
  code: VerdictCode
  /** The reason in the system's words, for the log only. Empty with `ok`. */
  message: string
  /** The user name as the system spells it. Empty without `ok`. */
  user: string
  /** Milliseconds that PAM wants the answer to a failure held back; the addon does not wait. */
  delayMs: number
}

export interface UnixRequest {
  /** 1…255 bytes, no control characters, no slash. */
  user: string
  /** 1…1024 bytes without NUL. A Uint8Array can be wiped by its owner as soon as the call returns, a string never. */
  password: string | Uint8Array
}

export interface PamRequest extends UnixRequest {
  /** 1…64 letters, digits, `-`, `_` and `.`. */
  service: string
  /** PAM_RHOST, what pam_access and the log of the system see; at most 255 bytes. */
  remoteHost?: string
  /** PAM_TTY, at most 255 bytes. */
  tty?: string
  /** Folder of service files in place of /etc/pam.d. Needs `confDirSupport`. */
  confDir?: string
}

/** `name` as the system spells it, whatever it was looked up by. */
export interface SystemAccount { name: string, uid: number, gid: number }

/** `name` is null for a group that has only a number. */
export interface SystemGroup { gid: number, name: string | null }

/** auth.node. What returns a promise runs on a thread of its own, and throws a TypeError at once for a bad argument. */
export interface AuthAddon extends Addon {
  readonly pamSupport: boolean
  readonly confDirSupport: boolean
  readonly unixSupport: boolean
  /** Why this PAM service can't be used, or PAM at all when none is named; null when it can. */
  pamProblem (service?: string, confDir?: string): string | null
  /** Why the account database can't be used by this process; null when it can. */
  unixProblem (): string | null
  pamAuthenticate (request: PamRequest): Promise<Verdict>
  unixAuthenticate (request: UnixRequest): Promise<Verdict>
  /** null when there is no such account. */
  lookup (user: string): Promise<SystemAccount | null>
  groupsOf (user: string): Promise<SystemGroup[] | null>
  /** The process at the other end of a Unix socket. @throws when `fd` is not a connected Unix socket */
  peerCredentials (fd: number): { pid: number, uid: number, gid: number }
}
