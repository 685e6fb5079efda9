import type { Database } from './database.ts'
import { isoTime } from './users.ts'

export const auditEvents = [
  'login', 'refresh', 'logout', 'access', 'session.end',
  'user.create', 'user.update', 'user.password', 'user.remove',
  'key.create', 'key.revoke'
] as const
export type AuditEvent = typeof auditEvents[number]

export interface AuditEntry {
  event: AuditEvent
  outcome: 'success' | 'failure'
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
  /** Only records after this id. */
  after?: number
  event?: string
  actor?: string
  /** The newest so many; 1…10 000. */
  limit: number
}

/** Rows kept; about 20 MB. */
const capacity = 100_000

/** Characters of one field: what a caller typed may be long. */
const fieldLength = 300

/** Who did what, in the table `audit`. No secret ever gets here: callers pass names, ids and codes. */
export class AuditLog {
  readonly #database: Database
  readonly #insert

  constructor (database: Database) {
    this.#database = database
    this.#insert = database.prepare(`
      INSERT INTO audit (at, event, outcome, actor, subject, address, reason) VALUES (?, ?, ?, ?, ?, ?, ?)`)
  }

  record ({ event, outcome, actor, subject, address, reason }: AuditEntry): void {
    const texts = [actor, subject, address, reason].map(text => text === undefined ? null : plain(text))
    const { lastInsertRowid } = this.#insert.run(Date.now(), event, outcome, ...texts)
    if (Number(lastInsertRowid) % 1000 === 0) this.#database.prepare('DELETE FROM audit WHERE id <= ?').run(Number(lastInsertRowid) - capacity)
  }

  /** The newest records that fit, the oldest of them first. */
  list ({ after = 0, event, actor, limit }: AuditFilter): AuditRecord[] {
    const rows = this.#database.prepare(`
      SELECT * FROM audit WHERE id > ? AND (? IS NULL OR event = ?) AND (? IS NULL OR actor = ?) ORDER BY id DESC LIMIT ?`)
      .all(after, event ?? null, event ?? null, actor ?? null, actor ?? null, limit) as unknown as Array<AuditRecord & { at: number }>
    return rows.reverse().map(row => ({ ...row, at: isoTime(row.at) }))
  }
}

/** One line without control characters: what somebody typed as a user name must not move a terminal's cursor. */
function plain (text: string): string {
  return text.slice(0, fieldLength).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, '\ufffd')
}
