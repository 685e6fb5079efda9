import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { apiError } from '../../errors.ts'
import { apiKeyPrefix, type Credential } from './credentials.ts'
import { transaction, type Database } from '../storage/database.ts'
import { boundedLimit, decodeCursor, encodeCursor, pageOf, type PageQuery } from '../http/paging.ts'
import type { AccountSource, Principal } from './principals.ts'
import { rolePermissions, type AccountRole, type Permission } from '../options/permissions.ts'
import { Remembered, type Versioned } from '../util/remembered.ts'
import { isoTime } from '../util/iso-time.ts'
import { LastUse } from '../storage/records.ts'
import { requireStanding, type Actor } from './standing.ts'
import { quoted } from '../util/text.ts'

/** A key as its owner sees it: everything but the secret. */
interface ApiKey {
  id: string
  name: string
  user_id: string
  username: string
  permissions: Permission[]
  created_at: string
  expires_at: string | null
  last_used_at: string | null
}

export interface KeyPage {
  keys: ApiKey[]
  next_cursor: string | null
}

interface KeyRow {
  id: string
  name: string
  user_id: string
  username: string
  role: AccountRole
  source: AccountSource
  hash: Uint8Array
  permissions: string
  created_at: number
  expires_at: number | null
  last_used_at: number | null
}

/** What the name of a key may be: printable, because it is shown in terminals. */
export const keyNamePattern = '^[^\\p{C}\\p{Zl}\\p{Zp}]{1,64}$'

const keysPerUser = 100

const cursorShape = /^(\d{1,15})\n([0-9a-f]{16})$/

const selectKeys = 'SELECT api_keys.*, users.username FROM api_keys JOIN users ON users.id = api_keys.user_id'

/** Keys in memory, of some 500 bytes each. */
const mostRemembered = 10_000

/** Milliseconds between two writes of a key's last use, so that a busy key does not write at every request. */
const lastUseResolution = 60_000

/** API keys `sdr_<id>_<secret>`. The secret is 256 random bits, so a SHA-256 of it is all that is kept. */
export class ApiKeyStore {
  readonly #database: Database
  readonly #rows: Remembered<KeyRow>
  readonly #find
  readonly #lastUse: LastUse
  readonly #touch

  /** @param changes lets keys be remembered, with their accounts, until the database is written to */
  constructor (database: Database, changes?: Versioned, lastUse = new LastUse()) {
    this.#database = database
    this.#rows = new Remembered(changes, mostRemembered)
    const found = database.prepare(`
      SELECT api_keys.*, users.username, users.role, users.source
      FROM api_keys JOIN users ON users.id = api_keys.user_id
      WHERE api_keys.id = ? AND users.disabled = 0`)
    this.#lastUse = lastUse
    this.#touch = database.prepare('UPDATE api_keys SET last_used_at = ? WHERE id = ?')
    this.#find = (id: string) => found.get(id) as KeyRow | undefined
  }

  /**
   * @param by who must still be allowed to when the key is stored
   * @returns the key with its text, which is shown this once.
   * @throws SDR_FORBIDDEN when it would have a permission that its owner lacks; SDR_INVALID_REQUEST, SDR_CONFLICT,
   * SDR_USER_NOT_FOUND; what `requireStanding` throws.
   */
  create ({ userId, name, permissions, expiresAt }: {
    userId: string, name: string, permissions?: readonly Permission[], expiresAt?: number
  }, by?: Actor): ApiKey & { key: string } {
    if (!new RegExp(keyNamePattern, 'u').test(name)) {
      throw apiError('SDR_INVALID_REQUEST',
        `Expected 1 to 64 printable characters for name but received ${quoted(name)}`)
    }
    if (expiresAt !== undefined && !(expiresAt > Date.now())) {
      throw apiError('SDR_INVALID_REQUEST', 'Expected a time in the future for expires_at')
    }
    const id = randomBytes(8).toString('hex')
    const key = `${apiKeyPrefix}${id}_${randomBytes(32).toString('base64url')}`
    return transaction(this.#database, () => {
      requireStanding(this.#database, by)
      const owner = this.#database.prepare('SELECT role FROM users WHERE id = ?')
        .get(userId) as { role: AccountRole } | undefined
      if (owner === undefined) throw apiError('SDR_USER_NOT_FOUND')
      const owned = rolePermissions[owner.role]
      const granted = [...new Set(permissions ?? owned)]
      const excess = granted.filter(permission => !owned.includes(permission))
      if (excess.length > 0) {
        throw apiError('SDR_FORBIDDEN',
          `A key cannot have more permissions than its owner; the owner lacks ${excess.join(', ')}.`)
      }
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
        .run(id, userId, name, hashOf(key), JSON.stringify(granted), now, expiresAt ?? null)
      const row = this.#database.prepare(`${selectKeys} WHERE api_keys.id = ?`).get(id) as unknown as KeyRow
      return { ...toKey(row), key }
    })
  }

  /**
   * A page of the keys of one account, or of all, the newest first; revoked and expired ones are gone.
   * @throws SDR_INVALID_REQUEST for a cursor that no page gave.
   */
  list ({ userId, limit, cursor }: PageQuery & { userId?: string } = {}): KeyPage {
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

  /** All keys of one account, or of all accounts, in the same order. */
  all (userId?: string): ApiKey[] {
    return this.#select({ userId }).map(toKey)
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

  /** Revokes a key of that account, or of any when `userId` is undefined. @throws SDR_KEY_NOT_FOUND */
  revoke (id: string, userId?: string): void {
    const { changes } = this.#database.prepare('DELETE FROM api_keys WHERE id = ? AND (? IS NULL OR user_id = ?)')
      .run(id, userId ?? null, userId ?? null)
    if (changes === 0) throw apiError('SDR_KEY_NOT_FOUND')
  }

  /** Who a key that was good acts for now; undefined when it is so no longer. */
  principalOf (id: string): Principal | undefined {
    const row = this.#living(id, Date.now())
    return row && toPrincipal(row)
  }

  /**
   * Who an API key acts for; undefined for another kind of credential.
   * @throws {ApiError} SDR_INVALID_TOKEN
   */
  readonly identify = ({ kind, value }: Credential): Principal | undefined => {
    if (kind !== 'api-key') return undefined
    const principal = this.principal(value)
    if (principal === undefined) {
      throw apiError('SDR_INVALID_TOKEN', 'The API key is not valid, has expired or was revoked.')
    }
    return principal
  }

  /** Who the key acts for, with the permissions that it and its owner both have now; undefined when it is not valid. */
  principal (key: string): Principal | undefined {
    const [, id] = /^sdr_([0-9a-f]{16})_[\w-]{43}$/.exec(key) ?? []
    if (id === undefined) return undefined
    const now = Date.now()
    const row = this.#living(id, now)
    if (row === undefined || !timingSafeEqual(hashOf(key), row.hash)) return undefined
    // A clock that was set back leaves a time that is yet to come.
    if (row.last_used_at === null || Math.abs(now - row.last_used_at) > lastUseResolution) {
      this.#lastUse.write(this.#touch, id)
    }
    return toPrincipal(row)
  }

  #living (id: string, now: number): KeyRow | undefined {
    const row = this.#rows.get(id, this.#find)
    return row === undefined || (row.expires_at !== null && row.expires_at <= now) ? undefined : row
  }
}

function hashOf (key: string): Buffer {
  return createHash('sha256').update(key).digest()
}

/** What is stored are the permissions of a set: older releases took one twice. */
function permissionsOf ({ permissions }: Pick<KeyRow, 'permissions'>): Permission[] {
  return [...new Set(JSON.parse(permissions) as Permission[])]
}

function toPrincipal (row: KeyRow): Principal {
  const owned = rolePermissions[row.role]
  const permissions = permissionsOf(row).filter(permission => owned.includes(permission))
  const { id: keyId, user_id: id, username, role, source, expires_at: keyExpiresAt } = row
  return { id, username, role, source, permissions, via: 'api-key', keyId, keyExpiresAt }
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
