import type { PageQuery } from '../../http/paging.ts'
import type { AccountRole, Permission } from '../../options/permissions.ts'
import type { Maybe } from '../../util/maybe.ts'
import type { AuditEvent, AuditKind, AuditOutcome } from '../audit-events.ts'
import type { AccountSource, Principal } from '../principals.ts'

/**
 * Where accounts are kept, with their sessions, keys and records. A store may be shared by several servers and may be
 * far away, so every method may wait; only what each request asks for may be at hand.
 */
export interface AccountStore {
  readonly accounts: AccountRecords
  readonly sessions: SessionRecords
  readonly keys: KeyRecords
  readonly audit: AuditRecords
  readonly loginFailures: LoginFailures
  /** When it is fulfilled, other servers act on what this one has changed. */
  close: () => Promise<void>
}

/** Who makes a change. The command line names none: its user owns the store. */
export type Actor = Pick<Principal, 'id' | 'role' | 'sessionId' | 'keyId'>

/**
 * Every change with an actor is made only while that one may still make it: the session or key of its request lives,
 * its account is not disabled and has the permission. Else it throws SDR_INVALID_TOKEN or SDR_FORBIDDEN: the request
 * may have waited since for its body, or for a password to be hashed.
 */
export interface AccountRecords {
  /** @param by needs `users:manage`. @throws SDR_CONFLICT when the name is taken, whatever its case */
  add: (account: { username: string, role: AccountRole, hash: string }, by?: Actor) => Promise<Account>
  /** The account that stands for a system user, made at the first login; its role follows the system's groups. */
  addExternal: (source: 'unix' | 'pam', username: string, role: AccountRole) => Promise<Account>
  /** The name of another account of that system that differs in nothing but spelling. */
  spelledLike: (source: 'unix' | 'pam', username: string) => Promise<string | undefined>
  /** The accounts of a system that could come in without a new login: with a session or a key. */
  externalWithAccess: (source: 'unix' | 'pam') => Promise<Account[]>
  /** A page in the order of names. @throws SDR_INVALID_REQUEST for a cursor that no page gave */
  list: (query?: PageQuery) => Promise<{ users: Account[], next_cursor: string | null }>
  /** All of them, in the same order. */
  all: () => Promise<Account[]>
  /** @throws SDR_USER_NOT_FOUND */
  get: (id: string) => Promise<Account>
  find: (username: string, source?: AccountSource) => Promise<Account | undefined>
  /** The local account of that name with the hash of its password. */
  findWithHash: (username: string) => Promise<CheckedAccount | undefined>
  isEmpty: () => Promise<boolean>
  /**
   * Whether an account of that id was disabled or removed here. An id that this store never had is not gone: the store
   * may be a wrong one, or an older copy.
   */
  isGone: (id: string) => Promise<boolean>
  /**
   * Sets a new hash unless the old one has changed; ends every session but that of the actor.
   * @throws SDR_WRONG_PASSWORD
   */
  setHash: (account: CheckedAccount, hash: string, by: Actor) => Promise<void>
  /**
   * Changes all or nothing. A new hash and disabling end every session.
   * @param by needs `users:manage`. @throws SDR_USER_NOT_FOUND, SDR_CONFLICT for the last administrator
   */
  change: (id: string, changes: Pick<Partial<Account>, 'role' | 'disabled'> & { hash?: string }, by?: Actor) =>
  Promise<Account>
  /** Removes the account with its sessions and keys. @returns what it was. @throws as `change` */
  remove: (id: string, by?: Actor) => Promise<Account>
}

export interface Account {
  id: string
  username: string
  source: AccountSource
  role: AccountRole
  disabled: boolean
  created_at: string
  last_login_at: string | null
}

/** An account whose password was right, and what it was compared with: null for one that the system has checked. */
export interface CheckedAccount {
  user: Account
  hash: string | null
}

/**
 * Login sessions. An access token counts only while its session is here, so ending one acts at once. Refresh tokens
 * rotate; the second use of one means that there is a copy, and ends the session (RFC 9700, section 4.14).
 */
export interface SessionRecords {
  /**
   * Opens a session of an account whose password was found right.
   * @returns undefined when the account was disabled or removed since, or its password changed.
   */
  open: (account: CheckedAccount, address: string, userAgent: string) => Promise<OpenedSession | undefined>
  /**
   * Takes a refresh token and gives the next one.
   * @param accepts whether the account may come in; while not, the token is not used up
   * @returns undefined when the token is unknown or its session has ended; no next token when the account is not
   * accepted, or the token had been used before, in which case the session has been ended.
   */
  rotate: (refreshToken: string, accepts?: (account: Pick<SessionUser, 'id' | 'source'>) => boolean) =>
  Promise<OpenedSession | RefusedRefresh | undefined>
  /** The account of a living session, with the role it has now; undefined when the session or the account is gone. */
  activeUser: (sessionId: string, userId: string) => Maybe<SessionUser | undefined>
  /** The addresses from which an account of that name is logged in. */
  addressesOf: (username: string) => Promise<string[]>
  /** Those of one account, the last used first. */
  list: (userId: string) => Promise<Session[]>
  /** Ends one session of that account. @throws SDR_SESSION_NOT_FOUND */
  end: (sessionId: string, userId: string) => Promise<void>
}

/** A session as its owner sees it. */
interface Session {
  id: string
  address: string
  user_agent: string
  created_at: string
  last_used_at: string
  expires_at: string
}

/** The account of a session, as it is now. */
export interface SessionUser {
  id: string
  username: string
  role: AccountRole
  source: AccountSource
}

export interface OpenedSession {
  sessionId: string
  /** The account as it was when the session was opened or refreshed. */
  user: SessionUser
  /** Opaque, good for one use. */
  refreshToken: string
}

/** Why a known refresh token gets no next one: it was used before, or its account is not accepted at present. */
export interface RefusedRefresh {
  sessionId: string
  user: SessionUser
  refreshToken: null
  reason: 'reused' | 'not admitted'
}

export interface KeyRecords {
  /**
   * @param grant the permissions that the key gets, by the role that its owner has now
   * @throws what `grant` throws; SDR_CONFLICT, SDR_USER_NOT_FOUND
   */
  add: (
    key: { id: string, userId: string, name: string, hash: Uint8Array, expiresAt?: number },
    grant: (role: AccountRole) => Permission[], by?: Actor
  ) => Promise<ApiKey>
  /**
   * A page of the keys of one account, or of all, the newest first; revoked and expired ones are gone.
   * @throws SDR_INVALID_REQUEST for a cursor that no page gave.
   */
  list: (query?: PageQuery & { userId?: string }) => Promise<{ keys: ApiKey[], next_cursor: string | null }>
  /** All keys of one account, or of all accounts, in the same order. */
  all: (userId?: string) => Promise<ApiKey[]>
  /** Revokes a key of that account, or of any when `userId` is undefined. @throws SDR_KEY_NOT_FOUND */
  revoke: (id: string, userId?: string) => Promise<void>
  /** The key of an account that is not disabled, expired or not. */
  find: (id: string) => Maybe<KnownKey | undefined>
  /** Records that a key was used now. It does not throw, and no request waits for it. */
  touch: (id: string) => void
}

/** A key as its owner sees it: everything but the secret. */
export interface ApiKey {
  id: string
  name: string
  user_id: string
  username: string
  permissions: Permission[]
  created_at: string
  expires_at: string | null
  last_used_at: string | null
}

/** A key and the account that it belongs to, as they are now. */
export interface KnownKey {
  user: SessionUser
  hash: Uint8Array
  permissions: readonly Permission[]
  expiresAt: number | null
  lastUsedAt: number | null
}

export interface AuditRecords {
  /** Writes all or nothing. @returns the id of the last one; ids only grow */
  append: (entries: ReadonlyArray<AuditEntry & { at: number, kind: AuditKind, share: string }>) => Promise<number>
  /** Cuts the largest shares of each kind that has more than `capacity` records to one length that fits. */
  prune: (capacity: number) => Promise<void>
  /** A page of records, the oldest of them first. */
  list: (filter: AuditFilter) => Promise<AuditRecord[]>
}

export interface AuditEntry {
  event: AuditEvent
  outcome: AuditOutcome
  /** User name of who did it, as far as it is known; for a failed login the name that was tried. */
  actor: string
  /** What it was done to: a user name, the id of a key or session, a route. */
  subject?: string
  address?: string
  reason?: string
}

export interface AuditRecord extends Required<AuditEntry> {
  id: number
  at: string
}

export interface AuditFilter {
  /** Only records after this id, the oldest of them; without it the newest ones. */
  after?: number
  /** Only records before this id. */
  before?: number
  event?: string
  outcome?: string
  actor?: string
  /** 1…10 000. */
  limit: number
}

/** Failed logins, by what they are counted on. They may be lost with the servers, and the oldest make room. */
export interface LoginFailures {
  /**
   * Reads and changes the counts of some keys as one step.
   * @param work gets the counts of the keys, which it may change, and the time in milliseconds of a clock that is never
   * set back
   */
  change: <Result>(keys: readonly string[], work: (counts: Map<string, Failures>, now: number) => Result) =>
  Promise<Result>
}

export interface Failures {
  count: number
  last: number
}
