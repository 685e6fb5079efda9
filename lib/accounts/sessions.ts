import { createHash, randomBytes } from 'node:crypto'
import { uuidv7 } from 'uuidv7'
import { apiError } from '../../errors.ts'
import { transaction, type Database } from '../storage/database.ts'
import type { AccountSource } from './principals.ts'
import type { AccountRole } from '../options/permissions.ts'
import { Remembered, type Versioned } from '../util/remembered.ts'
import { isoTime } from '../util/iso-time.ts'
import type { CheckedAccount } from './users.ts'

/** A session as its owner sees it. */
interface Session {
  id: string
  address: string
  user_agent: string
  created_at: string
  last_used_at: string
  expires_at: string
}

interface ActiveRow extends SessionUser {
  expires_at: number
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
  /** The account as it was when the session was opened or refreshed. */
  user: SessionUser
  /** Opaque, good for one use. */
  refreshToken: string
}

/** Why a known refresh token gets no next one: it was used before, or its account is not admitted at present. */
export interface RefusedRefresh {
  sessionId: string
  user: SessionUser
  refreshToken: null
  reason: 'reused' | 'not admitted'
}

const prefix = 'sdrr_'
const sessionsPerUser = 100

/** Sessions in memory, of some 300 bytes each. */
const mostRemembered = 10_000

/** Used refresh tokens that a session remembers. An older one is refused too, but no longer ends the session. */
const rememberedTokens = 100

/** The account of a session, as it is now. */
export interface SessionUser {
  id: string
  username: string
  role: AccountRole
  source: AccountSource
}

/**
 * Login sessions. An access token counts only while its session is here, so ending one acts at once. Refresh tokens
 * rotate; the second use of one means that there is a copy, and ends the session (RFC 9700, section 4.14).
 */
export class SessionStore {
  readonly #database: Database
  readonly #lifetime: number
  readonly #longest: number
  readonly #active: Remembered<ActiveRow>
  readonly #findActive
  readonly #addresses

  /**
   * @param lifetime milliseconds that a session lives on after its last refresh
   * @param longest milliseconds after the login that no refresh goes beyond
   * @param changes lets sessions be remembered, with their accounts, until the database is written to
   */
  constructor (
    database: Database,
    { lifetime, longest = Infinity, changes }: { lifetime: number, longest?: number, changes?: Versioned }
  ) {
    this.#database = database
    this.#lifetime = lifetime
    this.#longest = longest
    // Sessions of the time before this bound was, or was as low.
    database.prepare('UPDATE sessions SET expires_at = created_at + $longest WHERE expires_at > created_at + $longest')
      .run({ longest })
    this.#active = new Remembered(changes, mostRemembered)
    const active = database.prepare(`
      SELECT users.id, users.username, users.role, users.source, sessions.expires_at
      FROM sessions JOIN users ON users.id = sessions.user_id WHERE sessions.id = ? AND users.disabled = 0`)
    this.#findActive = (sessionId: string) => active.get(sessionId) as ActiveRow | undefined
    this.#addresses = database.prepare(`
      SELECT DISTINCT address FROM sessions JOIN users ON users.id = user_id
      WHERE username = ? COLLATE NOCASE AND expires_at > ?`)
  }

  /**
   * Opens a session of an account whose password was found right.
   * @returns undefined when the account was disabled or removed since, or its password changed.
   */
  open ({ user: { id: userId }, hash }: CheckedAccount, address: string, userAgent: string): OpenedSession | undefined {
    return transaction(this.#database, () => {
      const now = Date.now()
      const user = this.#database.prepare(`
        UPDATE users SET last_login_at = ? WHERE id = ? AND disabled = 0 AND password IS ?
        RETURNING id, username, role, source`)
        .get(now, userId, hash) as SessionUser | undefined
      if (user === undefined) return undefined
      const sessionId = uuidv7()
      this.#database.prepare('DELETE FROM sessions WHERE expires_at <= ?').run(now)
      this.#database.prepare('INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?)')
        .run(
          sessionId, userId, address, userAgent.slice(0, 256), now, now, now + Math.min(this.#lifetime, this.#longest))
      this.#database.prepare(`
        DELETE FROM sessions WHERE user_id = ? AND id NOT IN (
          SELECT id FROM sessions WHERE user_id = ? ORDER BY last_used_at DESC, id DESC LIMIT ?)`)
        .run(userId, userId, sessionsPerUser)
      return { sessionId, user, refreshToken: this.#issue(sessionId) }
    })
  }

  /**
   * Takes a refresh token and gives the next one.
   * @param admits whether the account may come in; while not, the token is not used up
   * @returns undefined when the token is unknown or its session has ended; no next token when the account is not
   * admitted, or the token had been used before, in which case the session has been ended.
   */
  rotate (
    refreshToken: string, admits: (account: Pick<SessionUser, 'id' | 'source'>) => boolean = () => true
  ): OpenedSession | RefusedRefresh | undefined {
    const hash = hashOf(refreshToken)
    return transaction(this.#database, () => {
      const now = Date.now()
      const found = this.#database.prepare(`
        SELECT sessions.id AS sessionId, users.id, users.username, users.role, users.source,
          refresh_tokens.used_at AS usedAt
        FROM refresh_tokens JOIN sessions ON sessions.id = refresh_tokens.session_id
        JOIN users ON users.id = sessions.user_id
        WHERE refresh_tokens.hash = ? AND sessions.expires_at > ? AND users.disabled = 0`).get(hash, now) as
        SessionUser & { sessionId: string, usedAt: number | null } | undefined
      if (found === undefined) return undefined
      const { sessionId, usedAt, ...user } = found
      if (usedAt !== null) {
        this.#database.prepare('DELETE FROM sessions WHERE id = ?').run(sessionId)
        return { sessionId, user, refreshToken: null, reason: 'reused' }
      }
      if (!admits({ id: user.id, source: user.source })) {
        return { sessionId, user, refreshToken: null, reason: 'not admitted' }
      }
      this.#database.prepare('UPDATE refresh_tokens SET used_at = ? WHERE hash = ?').run(now, hash)
      this.#database.prepare(`
        DELETE FROM refresh_tokens WHERE session_id = ? AND hash IN (
          SELECT hash FROM refresh_tokens WHERE session_id = ? AND used_at IS NOT NULL
          ORDER BY used_at DESC LIMIT -1 OFFSET ?)`)
        .run(sessionId, sessionId, rememberedTokens)
      this.#database.prepare('UPDATE sessions SET last_used_at = ?, expires_at = min(?, created_at + ?) WHERE id = ?')
        .run(now, now + this.#lifetime, this.#longest, sessionId)
      return { sessionId, user, refreshToken: this.#issue(sessionId) }
    })
  }

  /** The account of a living session, with the role it has now; undefined when the session or the account is gone. */
  activeUser (sessionId: string, userId: string): SessionUser | undefined {
    const row = this.#active.get(sessionId, this.#findActive)
    return row === undefined || row.id !== userId || row.expires_at <= Date.now() ? undefined : row
  }

  /** The addresses from which an account of that name is logged in. */
  addressesOf (username: string): string[] {
    const rows = this.#addresses.all(username, Date.now()) as Array<{ address: string }>
    return rows.map(({ address }) => address)
  }

  list (userId: string): Session[] {
    const rows = this.#database.prepare(`
      SELECT * FROM sessions WHERE user_id = ? AND expires_at > ? ORDER BY last_used_at DESC`)
      .all(userId, Date.now()) as unknown as SessionRow[]
    return rows.map(({ user_id: _, created_at, last_used_at, expires_at, ...rest }) => ({
      ...rest, created_at: isoTime(created_at), last_used_at: isoTime(last_used_at), expires_at: isoTime(expires_at)
    }))
  }

  /** Ends one session of that account. @throws SDR_SESSION_NOT_FOUND */
  end (sessionId: string, userId: string): void {
    const { changes } = this.#database.prepare('DELETE FROM sessions WHERE id = ? AND user_id = ?')
      .run(sessionId, userId)
    if (changes === 0) throw apiError('SDR_SESSION_NOT_FOUND')
  }

  #issue (sessionId: string): string {
    const refreshToken = prefix + randomBytes(32).toString('base64url')
    this.#database.prepare('INSERT INTO refresh_tokens (hash, session_id) VALUES (?, ?)')
      .run(hashOf(refreshToken), sessionId)
    return refreshToken
  }
}

/** A fast hash is enough: the token is 256 random bits, not a password. */
function hashOf (token: string): Buffer {
  return createHash('sha256').update(token).digest()
}
