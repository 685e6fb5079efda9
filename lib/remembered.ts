import type { Database } from './database.ts'

/**
 * Rows that are read once and then remembered until anybody writes to the database: this process, or the command line in
 * another one. A change therefore acts at the next request.
 */
export class Remembered<Row> {
  readonly #changes: Changes | undefined
  readonly #capacity: number
  readonly #rows = new Map<string, Row>()
  #version: number | undefined

  /**
   * @param changes without them nothing is remembered
   * @param capacity rows that are kept; one more and it begins anew
   */
  constructor (changes?: Changes, capacity = 10_000) {
    this.#changes = changes
    this.#capacity = capacity
  }

  /** The row of `key`. What is not there is looked for each time, or strangers could fill the memory with guesses. */
  get (key: string, read: (key: string) => Row | undefined): Row | undefined {
    // Before the row is read: what is written in between is read then, and read again the next time.
    const version = this.#changes?.version
    if (version === undefined) return read(key)
    if (version !== this.#version) this.#rows.clear()
    this.#version = version
    const known = this.#rows.get(key)
    if (known !== undefined) return known
    const row = read(key)
    if (row === undefined) return undefined
    if (this.#rows.size >= this.#capacity) this.#rows.clear()
    this.#rows.set(key, row)
    return row
  }
}

/** Notices that somebody wrote to a database. */
export class Changes {
  readonly #version

  /** @param observer a connection that writes nothing, because SQLite does not tell a connection of its own commits */
  constructor (observer: Database) {
    this.#version = observer.prepare('PRAGMA data_version')
  }

  /** Another number than before when anything was committed since. */
  get version (): number {
    return (this.#version.get() as { data_version: number }).data_version
  }
}
