import { uuidv7 } from 'uuidv7'
import { apiError } from '../../errors.ts'
import { transaction, type Database } from '../storage/database.ts'
import { isoTime } from '../util/iso-time.ts'
import { boundedLimit, decodeCursor, encodeCursor, pageOf, type PageQuery } from '../http/paging.ts'
import { passwordLength, type PasswordHasher } from './passwords.ts'
import { accountSources, type AccountSource } from './principals.ts'
import type { AccountRole } from '../options/permissions.ts'
import { requireStanding, type Actor } from './standing.ts'
import { whenFree } from '../storage/storage-errors.ts'
import { quoted } from '../util/text.ts'

export interface User {
  id: string
  username: string
  source: AccountSource
  role: AccountRole
  disabled: boolean
  created_at: string
  last_login_at: string | null
}

export interface UserPage {
  users: User[]
  next_cursor: string | null
}

interface UserRow {
  id: string
  username: string
  source: AccountSource
  role: AccountRole
  password: string | null
  disabled: number
  created_at: number
  last_login_at: number | null
}

/** An account whose password was right, and what it was compared with: null for one that the system has checked. */
export interface CheckedAccount {
  user: User
  hash: string | null
}

/** What changes of an account at once; what is left out stays. */
interface AccountChanges {
  role?: AccountRole
  disabled?: boolean
  password?: string
}

/** What a user name may be. Nothing that could break a log line, a terminal or a path. */
export const usernamePattern = '^[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}$'

/** What is looked at as a user name at all: a system may have names that no local account can have. */
export const loginNamePattern = '^[^\\p{C}\\p{Zl}\\p{Zp}]{1,255}$'
const loginName = new RegExp(loginNamePattern, 'u')

/** Whether a text can be the name of an account; one with control or direction characters can't. */
export function isLoginName (text: string): boolean {
  return loginName.test(text)
}

/** One text for all spellings of a name that a directory may take for the same. */
export function foldedName (username: string): string {
  return username.normalize('NFKC').trim().toLowerCase()
}

const cursorShape = new RegExp(`^(.+)\n(${accountSources.join('|')})$`, 's')

/** Accounts. What locks a user out also ends its sessions, in the same transaction. */
export class UserStore {
  readonly #database: Database
  readonly #hasher: PasswordHasher
  readonly #sources: readonly AccountSource[]
  /** Made once: a flood of logins asks them over and over. */
  readonly #named

  /** @param sources those whose administrators can come in; the last of them stays */
  constructor (database: Database, hasher: PasswordHasher, sources = accountSources as readonly AccountSource[]) {
    this.#database = database
    this.#hasher = hasher
    this.#sources = sources
    const named = (source: AccountSource, collation: string) =>
      database.prepare(`SELECT * FROM users WHERE username = ? COLLATE ${collation} AND source = '${source}'`)
    this.#named = { local: named('local', 'NOCASE'), unix: named('unix', 'BINARY'), pam: named('pam', 'BINARY') }
  }

  /**
   * @param by who must still be allowed to when the account is stored
   * @throws SDR_INVALID_REQUEST for a bad name or password, SDR_CONFLICT when the name is taken; what `requireStanding`
   * throws.
   */
  async create (
    { username, password, role }: { username: string, password: string, role: AccountRole }, by?: Actor
  ): Promise<User> {
    checkUsername(username)
    checkPassword(password)
    const hash = await this.#hasher.hash(password)
    return await whenFree(() => transaction(this.#database, () => {
      requireStanding(this.#database, by, 'users:manage')
      const row = this.#database.prepare(`
        INSERT INTO users (id, username, source, role, password, created_at) VALUES (?, ?, 'local', ?, ?, ?)
        ON CONFLICT DO NOTHING RETURNING *`).get(uuidv7(), username, role, hash, Date.now()) as UserRow | undefined
      if (row === undefined) throw apiError('SDR_CONFLICT', `There is already a user ${username}.`)
      return toUser(row)
    }))
  }

  /** The account that stands for a system user, made at the first login; its role follows the system's groups. */
  external (source: 'unix' | 'pam', username: string, role: AccountRole): User {
    return transaction(this.#database, () => {
      this.#database.prepare(`
        INSERT INTO users (id, username, source, role, created_at) VALUES (?, ?, ?, ?, ?)
        ON CONFLICT (source, username) WHERE source <> 'local' DO UPDATE SET role = excluded.role`)
        .run(uuidv7(), username, source, role, Date.now())
      return this.find(username, source)!
    })
  }

  /** The name of another account of that system that differs in nothing but spelling. */
  spelledLike (source: 'unix' | 'pam', username: string): string | undefined {
    const folded = foldedName(username)
    for (const { username: other } of this.#database.prepare('SELECT username FROM users WHERE source = ?')
      .iterate(source) as Iterable<{ username: string }>) {
      if (other !== username && foldedName(other) === folded) return other
    }
    return undefined
  }

  /** The accounts of a system that could come in without a new login: with a session or a key. */
  externalWithAccess (source: 'unix' | 'pam'): User[] {
    const rows = this.#database.prepare(`
      SELECT * FROM users WHERE source = ? AND
      (id IN (SELECT user_id FROM sessions) OR id IN (SELECT user_id FROM api_keys))`)
      .all(source) as unknown as UserRow[]
    return rows.map(toUser)
  }

  /** A page of accounts in the order of their names. @throws SDR_INVALID_REQUEST for a cursor that no page gave. */
  list ({ limit, cursor }: PageQuery = {}): UserPage {
    const most = boundedLimit(limit)
    const [username = '', source = ''] = cursor === undefined ? [] : decodeCursor(cursor, cursorShape)
    const found = this.#database.prepare(
      'SELECT * FROM users WHERE (username, source) > (?, ?) ORDER BY username, source LIMIT ?')
      .all(username, source, most + 1) as unknown as UserRow[]
    const { rows, next_cursor } = pageOf(found, most, last => encodeCursor(last.username, last.source))
    return { users: rows.map(toUser), next_cursor }
  }

  /** All of them, in the order of their names. */
  all (): User[] {
    const rows = this.#database.prepare('SELECT * FROM users ORDER BY username, source').all() as unknown as UserRow[]
    return rows.map(toUser)
  }

  /** @throws SDR_USER_NOT_FOUND */
  get (id: string): User {
    const row = this.#database.prepare('SELECT * FROM users WHERE id = ?').get(id) as UserRow | undefined
    if (row === undefined) throw apiError('SDR_USER_NOT_FOUND')
    return toUser(row)
  }

  find (username: string, source: AccountSource = 'local'): User | undefined {
    const row = this.#row(username, source)
    return row && toUser(row)
  }

  get isEmpty (): boolean {
    return this.#database.prepare('SELECT 1 FROM users LIMIT 1').get() === undefined
  }

  /**
   * The local account of that name when the password is right and it is not disabled; all else is the same undefined.
   * It is as it was before the check, so what follows from it has to be stored on condition of the hash.
   */
  async verify (username: string, password: string): Promise<CheckedAccount | undefined> {
    const row = this.#row(username, 'local')
    const isRight = await this.#hasher.verify(password, row?.password)
    return isRight && row !== undefined && row.disabled === 0 ? { user: toUser(row), hash: row.password } : undefined
  }

  /**
   * Whether an account of that id was disabled or removed here. An id that this database never had is not gone: the
   * folder of accounts may be a wrong one, or an older copy.
   */
  isGone (id: string): boolean {
    return this.#database.prepare(`
      SELECT 1 FROM users WHERE id = $id AND disabled = 1
      UNION ALL SELECT 1 FROM removed_users WHERE id = $id`).get({ id }) !== undefined
  }

  /**
   * Changes the password of an account whose old one was right, unless that has been changed meanwhile; ends every
   * session but that of the actor.
   * @throws SDR_INVALID_CREDENTIALS, SDR_INVALID_REQUEST; what `requireStanding` throws.
   */
  async changePassword ({ user: { id }, hash: checked }: CheckedAccount, next: string, by: Actor): Promise<void> {
    checkPassword(next)
    const hash = await this.#hasher.hash(next)
    await whenFree(() => transaction(this.#database, () => {
      requireStanding(this.#database, by)
      const { changes } = this.#database.prepare(
        'UPDATE users SET password = ? WHERE id = ? AND password = ? AND disabled = 0').run(hash, id, checked)
      if (changes === 0) throw apiError('SDR_INVALID_CREDENTIALS')
      this.#database.prepare('DELETE FROM sessions WHERE user_id = ? AND id IS NOT ?').run(id, by.sessionId ?? null)
    }))
  }

  /**
   * Changes an account: all of it or nothing. A new password and disabling end every session.
   * @param by who must still be allowed to when the change is stored
   * @throws SDR_USER_NOT_FOUND; SDR_CONFLICT for the last administrator, and for what the system decides of its
   * accounts; what `requireStanding` throws.
   */
  async update (id: string, { role, disabled, password }: AccountChanges, by?: Actor): Promise<User> {
    if (password !== undefined) checkPassword(password)
    if (this.get(id).source !== 'local') {
      if (password !== undefined) {
        throw apiError('SDR_CONFLICT', 'This account belongs to the operating system; change its password there.')
      }
      if (role !== undefined) {
        throw apiError('SDR_CONFLICT',
          'This account belongs to the operating system; --admin-users and --admin-groups decide its role.')
      }
    }
    const hash = password === undefined ? null : await this.#hasher.hash(password)
    return await whenFree(() => this.#guardLastAdmin(id, by, () => {
      if (disabled === true || hash !== null) this.#database.prepare('DELETE FROM sessions WHERE user_id = ?').run(id)
      return toUser(this.#database.prepare(`
        UPDATE users SET role = ifnull(?, role), disabled = ifnull(?, disabled), password = ifnull(?, password)
        WHERE id = ? RETURNING *`)
        .get(role ?? null, disabled === undefined ? null : Number(disabled), hash, id) as unknown as UserRow)
    }))
  }

  /** Removes the account with its sessions and keys. @returns what it was */
  remove (id: string, by?: Actor): User {
    return this.#guardLastAdmin(id, by, () =>
      toUser(this.#database.prepare('DELETE FROM users WHERE id = ? RETURNING *').get(id) as unknown as UserRow))
  }

  #row (username: string, source: AccountSource): UserRow | undefined {
    return this.#named[source].get(username) as UserRow | undefined
  }

  /** Without an administrator none could be made over the API any more. */
  #guardLastAdmin (id: string, by: Actor | undefined, change: () => User): User {
    return transaction(this.#database, () => {
      requireStanding(this.#database, by, 'users:manage')
      const { role, disabled } = this.get(id)
      const changed = change()
      const admin = this.#database.prepare(`
        SELECT 1 FROM users WHERE role = 'admin' AND disabled = 0 AND
        source IN (SELECT value FROM json_each(?)) LIMIT 1`)
        .get(JSON.stringify(this.#sources))
      if (role === 'admin' && !disabled && admin === undefined) {
        throw apiError('SDR_CONFLICT', 'This is the last administrator; make another one first.')
      }
      return changed
    })
  }
}

function checkUsername (username: string): void {
  if (!new RegExp(usernamePattern).test(username)) {
    throw apiError('SDR_INVALID_REQUEST',
      `Expected 1 to 64 letters, digits and . _ - @ for username but received ${quoted(username)}`)
  }
}

function checkPassword (password: string): void {
  const { minimum, maximum } = passwordLength
  if (password.length < minimum || password.length > maximum) {
    throw apiError('SDR_INVALID_REQUEST',
      `Expected ${minimum} to ${maximum} characters for password but received ${password.length}`)
  }
}

function toUser ({ password: _, disabled, created_at, last_login_at, ...rest }: UserRow): User {
  return {
    ...rest,
    disabled: disabled !== 0,
    created_at: isoTime(created_at),
    last_login_at: last_login_at === null ? null : isoTime(last_login_at)
  }
}
