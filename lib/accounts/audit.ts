import { widestNetworkOf } from '../network/addresses.ts'
import { transaction, type Database } from '../storage/database.ts'
import { isoTime } from '../util/iso-time.ts'
import type { OnTrouble } from '../storage/records.ts'

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

interface WaitingEntry extends AuditEntry {
  at: number
}

/** Events by which accounts and models are administered: their successes are kept apart from what every user can do. */
const administration: readonly AuditEvent[] = [
  'user.create', 'user.update', 'user.remove', 'model.pull', 'model.convert', 'model.remove'
]

/** Rows kept of each kind, about 20 MB. Beyond that its largest shares lose their oldest rows: see `shareOf`. */
const capacity = 100_000

/** Rows that are written between two looks at the capacity. */
const pruneInterval = 1000

/** Characters of one field: what a caller typed may be long. */
const fieldLength = 300

/** Milliseconds that failures wait to be written together, so that a flood of them costs few writes to the disk. */
const delay = 250

/** Longest pause in milliseconds between two tries while the table can't be written. */
const longestDelay = 8000

/** Failures that may wait; more than the limits for strangers let through in that time. */
const mostWaiting = 1000

/** Records kept while the table can't be written, a few MB. Beyond that the oldest failures are given up first. */
const mostKept = 5000

/** Who did what, in the table `audit`. No secret ever gets here: callers pass names, ids and codes. */
export class AuditLog {
  readonly #database: Database
  readonly #onTrouble: OnTrouble
  readonly #insert
  #waiting: WaitingEntry[] = []
  #timer: NodeJS.Timeout | undefined
  /** Why the last write failed; undefined when it did not. */
  #trouble: unknown
  #delay = delay

  constructor (database: Database, onTrouble: OnTrouble = () => {}) {
    this.#database = database
    this.#onTrouble = onTrouble
    this.#insert = database.prepare(`
      INSERT INTO audit (at, event, outcome, actor, subject, address, reason, kind, share)
      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`)
  }

  /**
   * A success is on the disk when this returns, a failure a moment later; while the table can't be written they wait.
   * Never throws. `entry` must be `printable`.
   */
  record (entry: AuditEntry): void {
    this.#waiting.push({ ...entry, at: Date.now() })
    if (this.#waiting.length > mostKept) this.#giveUpOne()
    const isUrgent = entry.outcome === 'success' || this.#waiting.length >= mostWaiting
    if (isUrgent && this.#trouble === undefined) this.flush()
    else this.#schedule()
  }

  /** Writes what waits, or tries again later. */
  flush (): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    if (this.#waiting.length === 0) return
    try {
      const lastId = transaction(this.#database, () => this.#waiting.reduce((_, entry) => this.#write(entry), 0))
      const isPruneDue = lastId % pruneInterval < this.#waiting.length
      this.#waiting = []
      this.#trouble = undefined
      this.#delay = delay
      if (isPruneDue) this.#prune()
    } catch (error) {
      this.#trouble = error
      this.#onTrouble('audit', error, 0)
      this.#delay = Math.min(this.#delay * 2, longestDelay)
      this.#schedule()
    }
  }

  /** Writes what waits for the last time; to be called before the database is closed. */
  close (): void {
    this.flush()
    clearTimeout(this.#timer)
    if (this.#waiting.length > 0) this.#onTrouble('audit', this.#trouble, this.#waiting.length)
  }

  /** A page of records, the oldest of them first. */
  list ({ after, before = Number.MAX_SAFE_INTEGER, event, outcome, actor, limit }: AuditFilter): AuditRecord[] {
    this.flush()
    const rows = this.#database.prepare(`
      SELECT id, at, event, outcome, actor, subject, address, reason FROM audit
      WHERE id > ? AND id < ? AND event = ifnull(?, event) AND outcome = ifnull(?, outcome) AND actor = ifnull(?, actor)
      ORDER BY id ${after === undefined ? 'DESC' : 'ASC'} LIMIT ?`)
      .all(after ?? 0, before, event ?? null, outcome ?? null, actor ?? null, limit) as unknown as
      Array<AuditRecord & { at: number }>
    if (after === undefined) rows.reverse()
    return rows.map(row => ({ ...row, at: isoTime(row.at) }))
  }

  #schedule (): void {
    this.#timer ??= setTimeout(() => this.flush(), this.#delay).unref()
  }

  #giveUpOne (): void {
    const failure = this.#waiting.findIndex(({ outcome }) => outcome === 'failure')
    this.#waiting.splice(Math.max(failure, 0), 1)
    this.#onTrouble('audit', this.#trouble, 1)
  }

  /** @returns the id of the record */
  #write (entry: WaitingEntry): number {
    const { at, event, outcome, actor, subject, address, reason } = entry
    const { lastInsertRowid } = this.#insert.run(
      at, event, outcome, actor, subject ?? null, address ?? null, reason ?? null, kindOf(entry), shareOf(entry))
    return Number(lastInsertRowid)
  }

  /** Of each kind that is over its capacity, the largest shares are cut to one length that fits. */
  #prune (): void {
    for (const kind of ['administration', 'use', 'failure']) {
      const { rows } = this.#database.prepare('SELECT count(*) AS rows FROM audit WHERE kind = ?')
        .get(kind) as { rows: number }
      if (rows <= capacity) continue
      this.#database.prepare(`
        DELETE FROM audit WHERE id IN (
          SELECT id FROM (
            SELECT id, row_number() OVER (PARTITION BY share ORDER BY id DESC) AS age FROM audit WHERE kind = ?)
          ORDER BY age DESC, id LIMIT ?)`).run(kind, rows - capacity)
    }
  }
}

function kindOf ({ event, outcome }: AuditEntry): 'administration' | 'use' | 'failure' {
  if (outcome === 'failure') return 'failure'
  return administration.includes(event) ? 'administration' : 'use'
}

/**
 * Whose records push each other out. Successes belong to their actor. Failures belong to the network that they came
 * from, because strangers choose the name that they try.
 */
function shareOf ({ outcome, actor, address }: AuditEntry): string {
  return outcome === 'success' ? actor : address === undefined ? '' : widestNetworkOf(address)
}

/**
 * Texts of a bounded length without control, direction or line-breaking characters: what a caller typed as a user name
 * must not move the cursor of a terminal or begin a line of the log.
 */
export function printable<Texts extends object> (texts: Texts): Texts {
  return Object.fromEntries(Object.entries(texts).map(([name, text]) =>
    [name, typeof text === 'string'
      ? text.slice(0, fieldLength).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, '\ufffd')
      : text])) as Texts
}
