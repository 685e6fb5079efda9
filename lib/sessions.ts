import { createHash, randomBytes } from 'node:crypto'
import { uuidv7 } from 'uuidv7'
import { apiError } from '../errors.ts'
import { transaction, type Database } from './database.ts'
import type { AccountRole } from './principals.ts'
import { isoTime } from './users.ts'

/** A session as its owner sees it. */
export interface Session {
  id: string
  address: string
  user_agent: string
  created_at: string
  last_used_at: string
  expires_at: string
}

interface SessionRow {
  id: string
  user_id: string
  address: string
  user_agent: string
  created_at: number
  last_used_at: number
  expires_at: number
}

export interface OpenedSession {
  sessionId: string
  userId: string
  /** Opaque, good for one use. */
  refreshToken: string
}

const prefix = 'sdrr_'
const sessionsPerUser = 100

/**
 * Login sessions. An access token counts only while its session is here, so ending one acts at once. Refresh tokens
 * rotate; the second use of one means that somebody has a copy, and ends the session (RFC 9700, section 4.14).
 */
export class SessionStore {
  readonly #database: Database
  readonly #lifetime: number
  readonly #active

  /** @param lifetime milliseconds that a session lives on after its last refresh. */
  constructor (database: Database, lifetime: number) {
    this.#database = database
    this.#lifetime = lifetime
    this.#active = database.prepare(`
      SELECT users.id, users.username, users.role FROM sessions JOIN users ON users.id = sessions.user_id
      WHERE sessions.id = ? AND sessions.user_id = ? AND sessions.expires_at > ? AND users.disabled = 0`)
  }

  open (userId: string, address: string, userAgent: string): OpenedSession {
    return transaction(this.#database, () => {
      const now = Date.now()
      const sessionId = uuidv7()
      this.#database.prepare('DELETE FROM sessions WHERE expires_at <= ?').run(now)
      this.#database.prepare('INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?)')
        .run(sessionId, userId, address, userAgent.slice(0, 256), now, now, now + this.#lifetime)
      this.#database.prepare(`
        DELETE FROM sessions WHERE user_id = ? AND id NOT IN (
          SELECT id FROM sessions WHERE user_id = ? ORDER BY last_used_at DESC, id DESC LIMIT ?)`).run(userId, userId, sessionsPerUser)
      return { sessionId, userId, refreshToken: this.#issue(sessionId) }
    })
  }

  /**
   * Takes a refresh token and gives the next one.
   * @returns `reused` with the session that was ended when the token had been used before.
   * @throws SDR_INVALID_TOKEN when the token is unknown or its session has ended.
   */
  rotate (refreshToken: string): OpenedSession | { reused: { sessionId: string, userId: string } } {
    const hash = hashOf(refreshToken)
    return transaction(this.#database, () => {
      const now = Date.now()
      const found = this.#database.prepare(`
        SELECT sessions.id AS sessionId, users.id AS userId, refresh_tokens.used_at AS usedAt
        FROM refresh_tokens JOIN sessions ON sessions.id = refresh_tokens.session_id JOIN users ON users.id = sessions.user_id
        WHERE refresh_tokens.hash = ? AND sessions.expires_at > ? AND users.disabled = 0`).get(hash, now) as
        { sessionId: string, userId: string, usedAt: number | null } | undefined
      if (found === undefined) throw apiError('SDR_INVALID_TOKEN', 'The refresh token is not valid; log in again.')
      const { sessionId, userId, usedAt } = found
      if (usedAt !== null) {
        this.#database.prepare('DELETE FROM sessions WHERE id = ?').run(sessionId)
        return { reused: { sessionId, userId } }
      }
      this.#database.prepare('UPDATE refresh_tokens SET used_at = ? WHERE hash = ?').run(now, hash)
      this.#database.prepare('UPDATE sessions SET last_used_at = ?, expires_at = ? WHERE id = ?').run(now, now + this.#lifetime, sessionId)
      return { sessionId, userId, refreshToken: this.#issue(sessionId) }
    })
  }

  /** The account of a living session, with the role it has now; undefined when the session or the account is gone. */
  activeUser (sessionId: string, userId: string): { id: string, username: string, role: AccountRole } | undefined {
    return this.#active.get(sessionId, userId, Date.now()) as { id: string, username: string, role: AccountRole } | undefined
  }

  list (userId: string): Session[] {
    const rows = this.#database.prepare(`
      SELECT * FROM sessions WHERE user_id = ? AND expires_at > ? ORDER BY last_used_at DESC`).all(userId, Date.now()) as unknown as SessionRow[]
    return rows.map(({ user_id: _, created_at, last_used_at, expires_at, ...rest }) => ({
      ...rest, created_at: isoTime(created_at), last_used_at: isoTime(last_used_at), expires_at: isoTime(expires_at)
    }))
  }

  /** Ends one session of that account. @throws SDR_SESSION_NOT_FOUND */
  end (sessionId: string, userId: string): void {
    const { changes } = this.#database.prepare('DELETE FROM sessions WHERE id = ? AND user_id = ?').run(sessionId, userId)
    if (changes === 0) throw apiError('SDR_SESSION_NOT_FOUND')
  }

  #issue (sessionId: string): string {
    const refreshToken = prefix + randomBytes(32).toString('base64url')
    this.#database.prepare('INSERT INTO refresh_tokens (hash, session_id) VALUES (?, ?)').run(hashOf(refreshToken), sessionId)
    return refreshToken
  }
}

/** A fast hash is enough: the token is 256 random bits, not a password. */
function hashOf (token: string): Buffer {
  return createHash('sha256').update(token).digest()
}
