import { apiError } from '../../../../errors.ts'
import { boundedLimit, decodeCursor, encodeCursor, pageOf, type PageQuery } from '../../../http/paging.ts'
import type { AccountRole, Permission } from '../../../options/permissions.ts'
import { write, type Database } from '../../../storage/database.ts'
import { LastUse } from '../../../storage/records.ts'
import { whenFree } from '../../../storage/storage-errors.ts'
import { isoTime } from '../../../util/iso-time.ts'
import { Remembered, type Versioned } from '../../../util/remembered.ts'
import type { ApiKey, KeyRecords, KnownKey, SessionUser } from '../store.ts'
import { requireStanding } from './standing.ts'

interface KeyRow {
  id: string
  name: string
  user_id: string
  username: string
  hash: Uint8Array
  permissions: string
  created_at: number
  expires_at: number | null
  last_used_at: number | null
}

const keysPerUser = 100

const cursorShape = /^(\d{1,15})\n([0-9a-f]{16})$/

const selectKeys = 'SELECT api_keys.*, users.username FROM api_keys JOIN users ON users.id = api_keys.user_id'

/** Keys in memory, of some 500 bytes each. */
const mostRemembered = 10_000

export class SqliteKeys implements KeyRecords {
  readonly #database: Database
  readonly #known: Remembered<KnownKey>
  readonly #find
  readonly #lastUse: LastUse
  readonly #touch

  /** @param changes lets keys be remembered, with their accounts, until the database is written to */
  constructor (database: Database, lastUse: LastUse, changes?: Versioned) {
    this.#database = database
    this.#known = new Remembered(changes, mostRemembered)
    const found = database.prepare(`
      SELECT api_keys.*, users.username, users.role, users.source
      FROM api_keys JOIN users ON users.id = api_keys.user_id
      WHERE api_keys.id = ? AND users.disabled = 0`)
    this.#lastUse = lastUse
    this.#touch = database.prepare('UPDATE api_keys SET last_used_at = ? WHERE id = ?')
    this.#find = (id: string): KnownKey | undefined => {
      const row = found.get(id) as (KeyRow & Omit<SessionUser, 'id'>) | undefined
      if (row === undefined) return undefined
      const { user_id, username, role, source, hash, expires_at: expiresAt, last_used_at: lastUsedAt } = row
      const user = { id: user_id, username, role, source }
      return { user, hash, permissions: permissionsOf(row), expiresAt, lastUsedAt }
    }
  }

  async add (...[key, grant, by]: Parameters<KeyRecords['add']>): Promise<ApiKey> {
    const { id, userId, name, hash, expiresAt } = key
    return await write(this.#database, () => {
      requireStanding(this.#database, by)
      const owner = this.#database.prepare('SELECT role FROM users WHERE id = ?')
        .get(userId) as { role: AccountRole } | undefined
      if (owner === undefined) throw apiError('SDR_USER_NOT_FOUND')
      const permissions = grant(owner.role)
      const now = Date.now()
      this.#database.prepare('DELETE FROM api_keys WHERE expires_at <= ?').run(now)
      const { count } = this.#database.prepare('SELECT count(*) AS count FROM api_keys WHERE user_id = ?')
        .get(userId) as { count: number }
      if (count >= keysPerUser) {
        throw apiError('SDR_CONFLICT', `An account has at most ${keysPerUser} keys; revoke one first.`)
      }
      this.#database.prepare(`
        INSERT INTO api_keys (id, user_id, name, hash, permissions, created_at, expires_at)
        VALUES (?, ?, ?, ?, ?, ?, ?)`)
        .run(id, userId, name, hash, JSON.stringify(permissions), now, expiresAt ?? null)
      return toKey(this.#database.prepare(`${selectKeys} WHERE api_keys.id = ?`).get(id) as unknown as KeyRow)
    })
  }

  async list ({ userId, limit, cursor }: PageQuery & { userId?: string } = {}): ReturnType<KeyRecords['list']> {
    const most = boundedLimit(limit)
    const [createdAt, id = ''] = cursor === undefined ? [] : decodeCursor(cursor, cursorShape)
    const found = this.#select({
      userId,
      before: createdAt === undefined ? undefined : [Number(createdAt), id],
      limit: most + 1
    })
    const { rows, next_cursor } = pageOf(found, most, last => encodeCursor(String(last.created_at), last.id))
    return { keys: rows.map(toKey), next_cursor }
  }

  async all (userId?: string): Promise<ApiKey[]> {
    return this.#select({ userId }).map(toKey)
  }

  async revoke (id: string, userId?: string): Promise<void> {
    const { changes } = await whenFree(() =>
      this.#database.prepare('DELETE FROM api_keys WHERE id = ? AND (? IS NULL OR user_id = ?)')
        .run(id, userId ?? null, userId ?? null))
    if (changes === 0) throw apiError('SDR_KEY_NOT_FOUND')
  }

  find (id: string): KnownKey | undefined {
    return this.#known.get(id, this.#find)
  }

  touch (id: string): void {
    this.#lastUse.write(this.#touch, id)
  }

  #select (
    { userId, before, limit = -1 }: { userId?: string, before?: [createdAt: number, id: string], limit?: number }
  ): KeyRow[] {
    // Condition by condition, because an index does not help with `? IS NULL OR …`.
    return this.#database.prepare(`
      ${selectKeys} WHERE (expires_at IS NULL OR expires_at > ?)
      ${userId === undefined ? '' : 'AND user_id = ?'}
      ${before === undefined ? '' : 'AND (api_keys.created_at, api_keys.id) < (?, ?)'}
      ORDER BY api_keys.created_at DESC, api_keys.id DESC LIMIT ?`)
      .all(Date.now(), ...(userId === undefined ? [] : [userId]), ...(before ?? []), limit) as unknown as KeyRow[]
  }
}

/** Older releases stored a permission twice. */
function permissionsOf ({ permissions }: Pick<KeyRow, 'permissions'>): Permission[] {
  return [...new Set(JSON.parse(permissions) as Permission[])]
}

function toKey (row: KeyRow): ApiKey {
  const { id, name, user_id, username, created_at, expires_at, last_used_at } = row
  return {
    id,
    name,
    user_id,
    username,
    permissions: permissionsOf(row),
    created_at: isoTime(created_at),
    expires_at: expires_at === null ? null : isoTime(expires_at),
    last_used_at: last_used_at === null ? null : isoTime(last_used_at)
  }
}
