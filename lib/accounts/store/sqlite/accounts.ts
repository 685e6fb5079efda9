import { uuidv7 } from 'uuidv7'
import { apiError } from '../../../../errors.ts'
import { boundedLimit, decodeCursor, encodeCursor, pageOf, type PageQuery } from '../../../http/paging.ts'
import type { AccountRole } from '../../../options/permissions.ts'
import { write, type Database } from '../../../storage/database.ts'
import { isoTime } from '../../../util/iso-time.ts'
import { accountSources, foldedName, type AccountSource } from '../../principals.ts'
import type { Account, AccountRecords, Actor, CheckedAccount } from '../store.ts'
import { requireStanding } from './standing.ts'

interface AccountRow {
  id: string
  username: string
  source: AccountSource
  role: AccountRole
  password: string | null
  disabled: number
  created_at: number
  last_login_at: number | null
}

const cursorShape = new RegExp(`^(.+)\n(${accountSources.join('|')})$`, 's')

export class SqliteAccounts implements AccountRecords {
  readonly #database: Database
  readonly #sources: readonly AccountSource[]
  /** Made once: a flood of logins asks them over and over. */
  readonly #named

  /** @param sources those whose administrators can come in; the last of them stays */
  constructor (database: Database, sources: readonly AccountSource[]) {
    this.#database = database
    this.#sources = sources
    const named = (source: AccountSource, collation: string) =>
      database.prepare(`SELECT * FROM users WHERE username = ? COLLATE ${collation} AND source = '${source}'`)
    this.#named = { local: named('local', 'NOCASE'), unix: named('unix', 'BINARY'), pam: named('pam', 'BINARY') }
  }

  async add (
    { username, role, hash }: { username: string, role: AccountRole, hash: string }, by?: Actor
  ): Promise<Account> {
    return await write(this.#database, () => {
      requireStanding(this.#database, by, 'users:manage')
      const row = this.#database.prepare(`
        INSERT INTO users (id, username, source, role, password, created_at) VALUES (?, ?, 'local', ?, ?, ?)
        ON CONFLICT DO NOTHING RETURNING *`).get(uuidv7(), username, role, hash, Date.now()) as AccountRow | undefined
      if (row === undefined) throw apiError('SDR_CONFLICT', `There is already a user ${username}.`)
      return toAccount(row)
    })
  }

  async addExternal (source: 'unix' | 'pam', username: string, role: AccountRole): Promise<Account> {
    return await write(this.#database, () => {
      this.#database.prepare(`
        INSERT INTO users (id, username, source, role, created_at) VALUES (?, ?, ?, ?, ?)
        ON CONFLICT (source, username) WHERE source <> 'local' DO UPDATE SET role = excluded.role`)
        .run(uuidv7(), username, source, role, Date.now())
      return toAccount(this.#row(username, source)!)
    })
  }

  async spelledLike (source: 'unix' | 'pam', username: string): Promise<string | undefined> {
    const folded = foldedName(username)
    for (const { username: other } of this.#database.prepare('SELECT username FROM users WHERE source = ?')
      .iterate(source) as Iterable<{ username: string }>) {
      if (other !== username && foldedName(other) === folded) return other
    }
    return undefined
  }

  async externalWithAccess (source: 'unix' | 'pam'): Promise<Account[]> {
    const rows = this.#database.prepare(`
      SELECT * FROM users WHERE source = ? AND
      (id IN (SELECT user_id FROM sessions) OR id IN (SELECT user_id FROM api_keys))`)
      .all(source) as unknown as AccountRow[]
    return rows.map(toAccount)
  }

  async list ({ limit, cursor }: PageQuery = {}): ReturnType<AccountRecords['list']> {
    const most = boundedLimit(limit)
    const [username = '', source = ''] = cursor === undefined ? [] : decodeCursor(cursor, cursorShape)
    const found = this.#database.prepare(
      'SELECT * FROM users WHERE (username, source) > (?, ?) ORDER BY username, source LIMIT ?')
      .all(username, source, most + 1) as unknown as AccountRow[]
    const { rows, next_cursor } = pageOf(found, most, last => encodeCursor(last.username, last.source))
    return { users: rows.map(toAccount), next_cursor }
  }

  async all (): Promise<Account[]> {
    const rows = this.#database.prepare('SELECT * FROM users ORDER BY username, source').all()
    return (rows as unknown as AccountRow[]).map(toAccount)
  }

  async get (id: string): Promise<Account> {
    return this.#get(id)
  }

  async find (username: string, source: AccountSource = 'local'): Promise<Account | undefined> {
    const row = this.#row(username, source)
    return row && toAccount(row)
  }

  async findWithHash (username: string): Promise<CheckedAccount | undefined> {
    const row = this.#row(username, 'local')
    return row && { user: toAccount(row), hash: row.password }
  }

  async isEmpty (): Promise<boolean> {
    return this.#database.prepare('SELECT 1 FROM users LIMIT 1').get() === undefined
  }

  async isGone (id: string): Promise<boolean> {
    return this.#database.prepare(`
      SELECT 1 FROM users WHERE id = $id AND disabled = 1
      UNION ALL SELECT 1 FROM removed_users WHERE id = $id`).get({ id }) !== undefined
  }

  async setHash ({ user: { id }, hash: checked }: CheckedAccount, hash: string, by: Actor): Promise<void> {
    await write(this.#database, () => {
      requireStanding(this.#database, by)
      const { changes } = this.#database.prepare(
        'UPDATE users SET password = ? WHERE id = ? AND password = ? AND disabled = 0').run(hash, id, checked)
      if (changes === 0) throw apiError('SDR_WRONG_PASSWORD')
      this.#database.prepare('DELETE FROM sessions WHERE user_id = ? AND id IS NOT ?').run(id, by.sessionId ?? null)
    })
  }

  async change (
    id: string, { role, disabled, hash }: Pick<Partial<Account>, 'role' | 'disabled'> & { hash?: string }, by?: Actor
  ): Promise<Account> {
    return await this.#keepAnAdmin(id, by, () => {
      if (disabled === true || hash !== undefined) {
        this.#database.prepare('DELETE FROM sessions WHERE user_id = ?').run(id)
      }
      return this.#database.prepare(`
        UPDATE users SET role = ifnull(?, role), disabled = ifnull(?, disabled), password = ifnull(?, password)
        WHERE id = ? RETURNING *`)
        .get(role ?? null, disabled === undefined ? null : Number(disabled), hash ?? null, id)
    })
  }

  async remove (id: string, by?: Actor): Promise<Account> {
    return await this.#keepAnAdmin(id, by, () =>
      this.#database.prepare('DELETE FROM users WHERE id = ? RETURNING *').get(id))
  }

  #row (username: string, source: AccountSource): AccountRow | undefined {
    return this.#named[source].get(username) as AccountRow | undefined
  }

  #get (id: string): Account {
    const row = this.#database.prepare('SELECT * FROM users WHERE id = ?').get(id) as AccountRow | undefined
    if (row === undefined) throw apiError('SDR_USER_NOT_FOUND')
    return toAccount(row)
  }

  /** Without an administrator none could be made over the API any more. */
  async #keepAnAdmin (id: string, by: Actor | undefined, change: () => unknown): Promise<Account> {
    return await write(this.#database, () => {
      requireStanding(this.#database, by, 'users:manage')
      const { role, disabled } = this.#get(id)
      const changed = toAccount(change() as AccountRow)
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

function toAccount ({ password: _, disabled, created_at, last_login_at, ...rest }: AccountRow): Account {
  return {
    ...rest,
    disabled: disabled !== 0,
    created_at: isoTime(created_at),
    last_login_at: last_login_at === null ? null : isoTime(last_login_at)
  }
}
