import { transaction, type Database } from './database.ts'
import { isoTime } from './iso-time.ts'

export const auditEvents = [
  'login', 'refresh', 'logout', 'access', 'session.end',
  'user.create', 'user.update', 'user.password', 'user.remove',
  'key.create', 'key.revoke',
  'model.pull', 'model.convert', 'model.remove'
] as const
type AuditEvent = typeof auditEvents[number]

export const auditOutcomes = ['success', 'failure'] as const
type AuditOutcome = typeof auditOutcomes[number]

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

interface AuditFilter {
  /** Only records after this id. */
  after?: number
  event?: string
  outcome?: string
  actor?: string
  /** The newest so many; 1…10 000. */
  limit: number
}

/** Rows kept of each outcome, about 20 MB: strangers can make failures, and must not push out what succeeded. */
const capacity = 100_000

/** Characters of one field: what a caller typed may be long. */
const fieldLength = 300

/** Milliseconds that failures wait to be written together, so that a flood of them costs few writes to the disk. */
const delay = 250

/** Failures that may wait; more than the limits for strangers let through in that time. */
const mostWaiting = 1000

/** Who did what, in the table `audit`. No secret ever gets here: callers pass names, ids and codes. */
export class AuditLog {
  readonly #database: Database
  readonly #insert
  readonly #waiting: Array<AuditEntry & { at: number }> = []
  #timer: NodeJS.Timeout | undefined

  constructor (database: Database) {
    this.#database = database
    this.#insert = database.prepare(`
      INSERT INTO audit (at, event, outcome, actor, subject, address, reason) VALUES (?, ?, ?, ?, ?, ?, ?)`)
  }

  /** A success is on the disk when this returns, a failure a moment later. `entry` must be `printable`. */
  record (entry: AuditEntry): void {
    this.#waiting.push({ ...entry, at: Date.now() })
    if (entry.outcome === 'success' || this.#waiting.length >= mostWaiting) this.flush()
    else this.#timer ??= setTimeout(() => this.flush(), delay).unref()
  }

  /** Writes what waits; to be called before the database is closed. */
  flush (): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const entries = this.#waiting.splice(0)
    if (entries.length === 0) return
    transaction(this.#database, () => {
      for (const { at, event, outcome, actor, subject, address, reason } of entries) {
        const { lastInsertRowid } = this.#insert.run(at, event, outcome, actor, subject ?? null, address ?? null, reason ?? null)
        if (Number(lastInsertRowid) % 1000 === 0) this.#prune()
      }
    })
  }

  /** The newest records that fit, the oldest of them first. */
  list ({ after = 0, event, outcome, actor, limit }: AuditFilter): AuditRecord[] {
    this.flush()
    const rows = this.#database.prepare(`
      SELECT * FROM audit
      WHERE id > ? AND event = ifnull(?, event) AND outcome = ifnull(?, outcome) AND actor = ifnull(?, actor)
      ORDER BY id DESC LIMIT ?`)
      .all(after, event ?? null, outcome ?? null, actor ?? null, limit) as unknown as Array<AuditRecord & { at: number }>
    return rows.reverse().map(row => ({ ...row, at: isoTime(row.at) }))
  }

  #prune (): void {
    for (const outcome of auditOutcomes) {
      this.#database.prepare(`
        DELETE FROM audit WHERE outcome = ? AND id <= (SELECT id FROM audit WHERE outcome = ? ORDER BY id DESC LIMIT 1 OFFSET ?)`)
        .run(outcome, outcome, capacity)
    }
  }
}

/**
 * Texts of a bounded length without control, direction or line-breaking characters: what somebody typed as a user name
 * must not move the cursor of a terminal or begin a line of the log.
 */
export function printable<Texts extends object> (texts: Texts): Texts {
  return Object.fromEntries(Object.entries(texts).map(([name, text]) =>
    [name, typeof text === 'string' ? text.slice(0, fieldLength).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, '\ufffd') : text])) as Texts
}
