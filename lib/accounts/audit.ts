import { widestNetworkOf } from '../network/addresses.ts'
import type { OnRecordError } from '../storage/records.ts'
import type { AuditEvent, AuditKind } from './audit-events.ts'
import type { AuditEntry, AuditFilter, AuditRecord, AuditRecords } from './store/store.ts'

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

/** Who did what. No secret ever gets here: callers pass names, ids and codes. */
export class AuditLog {
  readonly #records: AuditRecords
  readonly #onRecordError: OnRecordError
  #waiting: Array<AuditEntry & { at: number }> = []
  #timer: NodeJS.Timeout | undefined
  /** The write that is under way. */
  #write: Promise<void> | undefined
  /** Why the last write failed; undefined when it did not. */
  #error: unknown
  #delay = delay

  constructor (records: AuditRecords, onRecordError: OnRecordError = () => {}) {
    this.#records = records
    this.#onRecordError = onRecordError
  }

  /**
   * When it is fulfilled a success is on the disk, a failure a moment later; while records can't be written they wait.
   * Never rejected. `entry` must be `printable`.
   */
  async record (entry: AuditEntry): Promise<void> {
    this.#waiting.push({ ...entry, at: Date.now() })
    while (this.#waiting.length > mostKept) this.#giveUpOne()
    const isUrgent = entry.outcome === 'success' || this.#waiting.length >= mostWaiting
    if (isUrgent && this.#error === undefined) await this.flush()
    else this.#schedule()
  }

  /** Writes what waits, or tries again later. */
  async flush (): Promise<void> {
    await this.#write // it has not taken what came since it began
    this.#write ??= this.#writeAll().finally(() => { this.#write = undefined })
    await this.#write
  }

  /** Writes what waits for the last time; to be called before the store is closed. */
  async close (): Promise<void> {
    await this.flush()
    clearTimeout(this.#timer)
    if (this.#waiting.length > 0) this.#onRecordError('audit', this.#error, this.#waiting.length)
  }

  /** A page of records, the oldest of them first. */
  async list (filter: AuditFilter): Promise<AuditRecord[]> {
    await this.flush()
    return await this.#records.list(filter)
  }

  async #writeAll (): Promise<void> {
    clearTimeout(this.#timer)
    this.#timer = undefined
    if (this.#waiting.length === 0) return
    let entries = this.#waiting
    this.#waiting = []
    try {
      const lastId = await this.#records.append(
        entries.map(entry => ({ ...entry, kind: kindOf(entry), share: shareOf(entry) })))
      this.#error = undefined
      this.#delay = delay
      const isPruneDue = lastId % pruneInterval < entries.length
      entries = []
      if (isPruneDue) await this.#records.prune(capacity)
    } catch (error) {
      this.#error = error
      this.#waiting = [...entries, ...this.#waiting]
      this.#onRecordError('audit', error, 0)
      this.#delay = Math.min(this.#delay * 2, longestDelay)
      this.#schedule()
    }
  }

  #schedule (): void {
    this.#timer ??= setTimeout(() => this.flush(), this.#delay).unref()
  }

  #giveUpOne (): void {
    const failure = this.#waiting.findIndex(({ outcome }) => outcome === 'failure')
    this.#waiting.splice(Math.max(failure, 0), 1)
    this.#onRecordError('audit', this.#error, 1)
  }
}

function kindOf ({ event, outcome }: AuditEntry): AuditKind {
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
