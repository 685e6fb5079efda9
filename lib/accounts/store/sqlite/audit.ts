import { transaction, type Database } from '../../../storage/database.ts'
import { isoTime } from '../../../util/iso-time.ts'
import { auditKinds } from '../../audit-events.ts'
import type { AuditFilter, AuditRecord, AuditRecords } from '../store.ts'

export class SqliteAudit implements AuditRecords {
  readonly #database: Database
  readonly #insert

  constructor (database: Database) {
    this.#database = database
    this.#insert = database.prepare(`
      INSERT INTO audit (at, event, outcome, actor, subject, address, reason, kind, share)
      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`)
  }

  /** Does not wait for a lock: the log keeps what cannot be written at once. */
  async append (entries: Parameters<AuditRecords['append']>[0]): Promise<number> {
    return transaction(this.#database, () => {
      let last: number | bigint = 0
      for (const { at, event, outcome, actor, subject, address, reason, kind, share } of entries) {
        last = this.#insert.run(
          at, event, outcome, actor, subject ?? null, address ?? null, reason ?? null, kind, share).lastInsertRowid
      }
      return Number(last)
    })
  }

  async prune (capacity: number): Promise<void> {
    for (const kind of auditKinds) {
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

  async list (
    { after, before = Number.MAX_SAFE_INTEGER, event, outcome, actor, limit }: AuditFilter
  ): Promise<AuditRecord[]> {
    const rows = this.#database.prepare(`
      SELECT id, at, event, outcome, actor, subject, address, reason FROM audit
      WHERE id > ? AND id < ? AND event = ifnull(?, event) AND outcome = ifnull(?, outcome) AND actor = ifnull(?, actor)
      ORDER BY id ${after === undefined ? 'DESC' : 'ASC'} LIMIT ?`)
      .all(after ?? 0, before, event ?? null, outcome ?? null, actor ?? null, limit) as unknown as
      Array<AuditRecord & { at: number }>
    if (after === undefined) rows.reverse()
    return rows.map(row => ({ ...row, at: isoTime(row.at) }))
  }
}
