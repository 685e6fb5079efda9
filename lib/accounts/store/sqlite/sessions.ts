import { randomBytes } from 'node:crypto'
import { uuidv7 } from 'uuidv7'
import { apiError } from '../../../../errors.ts'
import { write, type Database } from '../../../storage/database.ts'
import { whenFree } from '../../../storage/storage-errors.ts'
import { Remembered, type Versioned } from '../../../util/remembered.ts'
import { isoTime } from '../../../util/iso-time.ts'
import { sha256 } from '../../secrets.ts'
import type { CheckedAccount, OpenedSession, RefusedRefresh, SessionRecords, SessionUser } from '../store.ts'

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

const prefix = 'sdrr_'
const sessionsPerUser = 100

/** Sessions in memory, of some 300 bytes each. */
const mostRemembered = 10_000

/** Used refresh tokens that a session remembers. An older one is refused too, but no longer ends the session. */
const rememberedTokens = 100

export class SqliteSessions implements SessionRecords {
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
    if (longest < Infinity) {
      // Sessions of the time before this bound was, or was as low.
      database.prepare(`
        UPDATE sessions SET expires_at = created_at + $longest
        WHERE expires_at > created_at + $longest`).run({ longest })
    }
    this.#active = new Remembered(changes, mostRemembered)
    const active = database.prepare(`
      SELECT users.id, users.username, users.role, users.source, sessions.expires_at
      FROM sessions JOIN users ON users.id = sessions.user_id WHERE sessions.id = ? AND users.disabled = 0`)
    this.#findActive = (sessionId: string) => active.get(sessionId) as ActiveRow | undefined
    this.#addresses = database.prepare(`
      SELECT DISTINCT address FROM sessions JOIN users ON users.id = user_id
      WHERE username = ? COLLATE NOCASE AND expires_at > ?`)
  }

  async open (
    { user: { id: userId }, hash }: CheckedAccount, address: string, userAgent: string
  ): Promise<OpenedSession | undefined> {
    return await write(this.#database, () => {
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

  async rotate (
    refreshToken: string, accepts: (account: Pick<SessionUser, 'id' | 'source'>) => boolean = () => true
  ): Promise<OpenedSession | RefusedRefresh | undefined> {
    const hash = sha256(refreshToken)
    return await write(this.#database, () => {
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
      if (!accepts({ id: user.id, source: user.source })) {
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

  activeUser (sessionId: string, userId: string): SessionUser | undefined {
    const row = this.#active.get(sessionId, this.#findActive)
    return row === undefined || row.id !== userId || row.expires_at <= Date.now() ? undefined : row
  }

  async addressesOf (username: string): Promise<string[]> {
    const rows = this.#addresses.all(username, Date.now()) as Array<{ address: string }>
    return rows.map(({ address }) => address)
  }

  async list (userId: string): ReturnType<SessionRecords['list']> {
    const rows = this.#database.prepare(`
      SELECT * FROM sessions WHERE user_id = ? AND expires_at > ? ORDER BY last_used_at DESC`)
      .all(userId, Date.now()) as unknown as SessionRow[]
    return rows.map(({ user_id: _, created_at, last_used_at, expires_at, ...rest }) => ({
      ...rest, created_at: isoTime(created_at), last_used_at: isoTime(last_used_at), expires_at: isoTime(expires_at)
    }))
  }

  async end (sessionId: string, userId: string): Promise<void> {
    const { changes } = await whenFree(() =>
      this.#database.prepare('DELETE FROM sessions WHERE id = ? AND user_id = ?').run(sessionId, userId))
    if (changes === 0) throw apiError('SDR_SESSION_NOT_FOUND')
  }

  #issue (sessionId: string): string {
    const refreshToken = prefix + randomBytes(32).toString('base64url')
    this.#database.prepare('INSERT INTO refresh_tokens (hash, session_id) VALUES (?, ?)')
      .run(sha256(refreshToken), sessionId)
    return refreshToken
  }
}
