import { write, type Database } from '../../../storage/database.ts'
import { isoTime } from '../../../util/iso-time.ts'
import type { JobRetention, Removable } from '../job-store.ts'
import { keyLifetime } from '../bounds.ts'
import type { JobRow } from './rows.ts'
import type { Statement, Statements } from './statements.ts'

/** An ended job with what it takes of the bounds. */
type EndedRow = Pick<JobRow, 'sequence' | 'id' | 'created_at'> & { finished_at: number, units: number, bytes: number }
/** The sum over the ended jobs of a caller. */
interface Share { caller: string, amount: number }

export class SqliteRetention implements JobRetention {
  readonly #database: Database
  readonly #statements: Statements
  readonly #now: () => number

  constructor (database: Database, statements: Statements, now: () => number) {
    this.#database = database
    this.#statements = statements
    this.#now = now
  }

  async expired (
    { keepJobs, keepJobsPerOwner = Infinity, keepAfter, limit }: Parameters<JobRetention['expired']>[0]
  ): Promise<Removable[]> {
    const { endedBefore, keptUnits, mostUnits } = this.#statements
    // Asked whenever a job has ended, mostly for nothing: then not a row is read beyond the first.
    const tooOld = endedBefore.all({ before: keepAfter, limit }) as unknown as EndedRow[]
    if (tooOld.length > 0) return tooOld.map(toRemovable)
    const top = mostUnits.get() as Share | undefined
    if (top !== undefined && top.amount > keepJobsPerOwner) {
      return this.#leastWanted(top, top.amount - keepJobsPerOwner, limit).map(toRemovable)
    }
    const excess = Math.min((keptUnits.get() as { amount: number }).amount - keepJobs, limit)
    if (excess <= 0) return []
    return ofLargest(mostUnits, 'units', excess, share => this.#leastWanted(share, share.take, limit))
      .slice(0, limit).map(toRemovable)
  }

  /**
   * The ended jobs of a caller that go first: those without images, the oldest first, but not the newest tenth of all,
   * whose errors may still be asked for; then the oldest ones.
   */
  #leastWanted ({ caller, amount }: Share, excess: number, limit: number): EndedRow[] {
    const { spareWithoutImages, oldestWithoutImages, oldestWithImages } = this.#statements
    const spare = Math.max(1, Math.floor(amount / 10))
    const bare = firstOf(spareWithoutImages.all({ caller, spare, limit }), 'units', excess)
    const rest = excess - bare.reduce((sum, { units }) => sum + units, 0)
    if (rest <= 0 || bare.length >= limit) return bare
    const isTaken = new Set(bare.map(({ id }) => id))
    const oldest = [
      ...oldestWithImages.all({ caller, limit }), ...oldestWithoutImages.all({ caller, limit: limit + bare.length })
    ] as unknown as EndedRow[]
    oldest.sort((a, b) => a.finished_at - b.finished_at || a.sequence - b.sequence)
    return [...bare, ...firstOf(oldest.filter(({ id }) => !isTaken.has(id)), 'units', rest)].slice(0, limit)
  }

  async overQuota (
    { keepBytes, keepBytesPerOwner, limit }: Parameters<JobRetention['overQuota']>[0]
  ): Promise<Removable[]> {
    const { keptAbove, kept, mostBytes, oldestWithImages, keptOfAll } = this.#statements
    const oldestBeyond = (rows: unknown[], excess: number) => firstOf(rows.slice(0, -1), 'bytes', excess)
    for (const { caller, amount } of keptAbove
      .iterate({ most: keepBytesPerOwner }) as Iterable<unknown> as Iterable<Share>) {
      const jobs = oldestBeyond(oldestWithImages.all({ caller, limit: limit + 1 }), amount - keepBytesPerOwner)
      if (jobs.length > 0) return jobs.map(toRemovable)
    }
    const excess = (kept.get() as { amount: number }).amount - keepBytes
    if (excess <= 0) return []
    const jobs = ofLargest(mostBytes, 'bytes', excess, ({ caller, take }) =>
      oldestBeyond(oldestWithImages.all({ caller, limit: limit + 1 }), take))
    // Where nothing was found, each caller has one job.
    return (jobs.length > 0 ? jobs.slice(0, limit) : oldestBeyond(keptOfAll.all({ limit: limit + 1 }), excess))
      .map(toRemovable)
  }

  async withImages (ids: readonly string[]): Promise<ReadonlySet<string>> {
    const rows = this.#statements.withImages.all({ ids: JSON.stringify(ids) }) as Array<{ id: string }>
    return new Set(rows.map(({ id }) => id))
  }

  async dropImages (ids: readonly string[]): Promise<void> {
    await write(this.#database, () => {
      this.#statements.dropImages.run({ ids: JSON.stringify(ids) })
      this.#statements.dropBytes.run({ ids: JSON.stringify(ids) })
    })
  }

  async remove (ids: readonly string[]): Promise<void> {
    await write(this.#database, () => {
      this.#statements.remove.run({ ids: JSON.stringify(ids) })
      this.#statements.dropKeys.run({ before: this.#now() - keyLifetime })
    })
  }
}

/** The first rows that have `excess` of something together. */
function firstOf (rows: unknown[], what: 'units' | 'bytes', excess: number): EndedRow[] {
  const first = []
  for (const row of rows as EndedRow[]) {
    if (excess <= 0) break
    excess -= row[what]
    first.push(row)
  }
  return first
}

/**
 * What each caller has to give so that `excess` is gone and only those lose anything that keep most.
 * @param shares those who have most first.
 */
function fairShares (shares: Iterable<Share>, excess: number): Array<Share & { take: number }> {
  const largest: Share[] = []
  let sum = 0
  for (const share of shares) {
    // Those before can give enough without one of them getting more than one below this share.
    if (largest.length > 0 && sum - largest.length * (share.amount - 1) >= excess) break
    largest.push(share)
    sum += share.amount
  }
  const level = Math.max(0, Math.floor((sum - excess) / largest.length))
  return largest.flatMap(share => {
    const take = Math.min(share.amount - level, excess)
    excess -= Math.max(take, 0)
    return take > 0 ? [{ ...share, take }] : []
  })
}

/** What `pick` takes of the callers who have most, until `excess` is gone. */
function ofLargest (
  largestFirst: Statement, what: 'units' | 'bytes', excess: number,
  pick: (share: Share & { take: number }) => EndedRow[]
): EndedRow[] {
  const picked: EndedRow[] = []
  for (const share of fairShares(largestFirst.iterate() as Iterable<unknown> as Iterable<Share>, excess)) {
    if (excess <= 0) break
    const rows = pick(share)
    for (const row of rows) excess -= row[what]
    picked.push(...rows)
  }
  return picked
}

function toRemovable ({ id, created_at: createdAt }: EndedRow): Removable {
  return { id, created_at: isoTime(createdAt) }
}
