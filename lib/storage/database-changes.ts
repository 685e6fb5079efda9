import { setTimeout as delay } from 'node:timers/promises'
import type { Database } from './database.ts'
import type { Versioned } from '../util/remembered.ts'

/**
 * Milliseconds that a process trusts its last look at what others wrote. A look costs as much as all the rest of a
 * small answer, so a busy server must not take one for each request.
 */
const trust = 5

/**
 * Notices writes to some tables of a database: this connection at once, and every other process no later than
 * when its `settled()` is fulfilled.
 */
export class DatabaseChanges implements Versioned {
  readonly #look
  readonly #now: () => number
  #own = 0
  #others = 0
  #trustedUntil = -Infinity

  /**
   * @param observer another connection, which writes nothing: SQLite tells a connection of all commits but its own
   * @param now milliseconds of a monotonic clock
   */
  constructor (
    database: Database,
    { tables, observer, now = () => performance.now() }:
    { tables: readonly string[], observer: Database, now?: () => number }
  ) {
    this.#look = observer.prepare('PRAGMA data_version')
    this.#now = now
    database.function('changed', () => {
      this.#own++
      return null
    })
    for (const table of tables) {
      for (const change of ['INSERT', 'UPDATE', 'DELETE']) {
        database.exec(`CREATE TEMP TRIGGER ${table}_${change} AFTER ${change} ON main.${table} ` +
          'BEGIN SELECT changed(); END')
      }
    }
  }

  get version (): number {
    const now = this.#now()
    if (now >= this.#trustedUntil) {
      this.#trustedUntil = now + trust
      this.#others = (this.#look.get() as { data_version: number }).data_version
    }
    return this.#own + this.#others // both only grow
  }
}

/** Waits until every process sees what this one has written to a database. */
export async function settled (): Promise<void> {
  await delay(trust + 1) // timers may be early by a part of a millisecond
}
