import { accessSync, chmodSync, constants, existsSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import type { DatabaseSync } from '@photostructure/sqlite'
import { apiError, CommandError, exitCodes } from '../../errors.ts'
import { ownershipHint } from './ownership.ts'
import { sqlite } from './sqlite.ts'
import { isDamaged, isStorageTrouble, whenFree } from './storage-errors.ts'

export type Database = InstanceType<typeof DatabaseSync>

/**
 * Milliseconds that a statement waits for another process (the command line beside the server) to release the lock.
 * SQLite waits without giving other work of this process a turn, so a server stops that once it has started: see
 * `yieldWhenBusy`.
 */
const busyTimeout = 5000

/**
 * Opens a SQLite file (mode 0600, WAL, foreign keys) and brings its schema up to date.
 * `migrations[n]` takes the schema from version n to n+1; `PRAGMA user_version` remembers where a file is.
 * @throws {CommandError} when the file can't be opened, or was written by a newer release; when SQLite is
 * missing.
 */
export function openDatabase (file: string, migrations: readonly string[]): Database {
  const { DatabaseSync } = sqlite()
  try {
    const database = new DatabaseSync(file, { timeout: busyTimeout })
    // FULL is what makes an answer a promise: WAL with NORMAL may lose the last commits when the machine goes down.
    database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON')
    if (file !== ':memory:') chmodSync(file, 0o600)
    migrate(database, file, migrations)
    refuseNul(database)
    return database
  } catch (error) {
    throw cannotOpen(file, error)
  }
}

/**
 * Says what `openDatabase` would, as far as that can be told without changing anything: what is in the WAL alone is not
 * seen. A file that is missing is a good one.
 * @throws {CommandError} as `openDatabase`
 */
export function checkDatabase (file: string, migrations: readonly string[]): void {
  if (!existsSync(file)) return
  const { DatabaseSync } = sqlite()
  const url = pathToFileURL(file)
  url.searchParams.set('immutable', '1') // without it SQLite makes files beside the database, and takes locks
  try {
    accessSync(file, constants.R_OK | constants.W_OK)
    const database = new DatabaseSync(url, { readOnly: true })
    try {
      refuseNewer(database, file, migrations)
      database.exec('SELECT count(*) FROM sqlite_schema')
    } finally {
      database.close()
    }
  } catch (error) {
    throw cannotOpen(file, error)
  }
}

function cannotOpen (file: string, error: unknown): CommandError {
  if (error instanceof CommandError) return error
  const advice = isDamaged(error)
    ? 'Restore it from a backup, or move it away to begin with an empty one'
    : 'Check that its folder exists and is writable'
  return new CommandError(exitCodes.storage,
    `The database ${file} cannot be opened: ${(error as Error).message}. ${advice}.${ownershipHint(file)}`,
    { cause: error })
}

/**
 * SQLite's binding ends a text at its first NUL: `alice\0x` would be stored, and found, as `alice`. So statements
 * refuse such a text. Routes refuse it before, by the name of its field.
 */
function refuseNul (database: Database): void {
  const prepare = database.prepare.bind(database)
  // Defined, because what the addon gives its classes cannot be assigned to.
  Object.defineProperty(database, 'prepare', {
    value: (...args: Parameters<typeof prepare>) => {
      const statement = prepare(...args)
      for (const name of ['run', 'get', 'all', 'iterate'] as const) {
        const call = statement[name].bind(statement) as (...values: unknown[]) => unknown
        Object.defineProperty(statement, name, {
          value: (...values: unknown[]) => {
            values.forEach(checkValue)
            return call(...values)
          }
        })
      }
      return statement
    }
  })
}

/** @param value of one parameter, or an object with those of all named ones */
function checkValue (value: unknown): void {
  if (typeof value === 'string') {
    if (value.includes('\0')) throw apiError('SDR_INVALID_REQUEST', 'Expected texts without the character NUL')
  } else if (typeof value === 'object' && value !== null && !ArrayBuffer.isView(value)) {
    Object.values(value).forEach(checkValue)
  }
}

function migrate (database: Database, file: string, migrations: readonly string[]): void {
  transaction(database, () => {
    const version = refuseNewer(database, file, migrations)
    for (const migration of migrations.slice(version)) database.exec(migration)
    if (version < migrations.length) database.exec(`PRAGMA user_version = ${migrations.length}`)
  })
}

/** @returns the version of its schema. */
function refuseNewer (database: Database, file: string, migrations: readonly string[]): number {
  const { user_version: version } = database.prepare('PRAGMA user_version').get() as { user_version: number }
  if (version <= migrations.length) return version
  throw new CommandError(exitCodes.storage,
    `The database ${file} has schema version ${version}, and this release knows ${migrations.length}: ` +
    'it was written by a newer release.')
}

/**
 * From here on a statement that meets a lock throws at once. What must be written waits with `whenFree`, and the event
 * loop goes on meanwhile.
 */
export function yieldWhenBusy (database: Database): void {
  database.exec('PRAGMA busy_timeout = 0')
}

/**
 * Closes a database and brings what its WAL holds into the file, unless another process is at work on it. SQLite would
 * do it by itself if no statement were left, and statements last until their memory is collected.
 */
export function closeDatabase (database: Database): void {
  try {
    database.exec('PRAGMA busy_timeout = 0; PRAGMA wal_checkpoint(TRUNCATE)')
  } catch (error) {
    if (!isStorageTrouble(error)) throw error // what is in the WAL is stored, and read from there
  } finally {
    database.close()
  }
}

/** Makes a change: all of it is stored, or nothing. It waits while another process holds the lock. */
export async function write<T> (database: Database, work: () => T): Promise<T> {
  return await whenFree(() => transaction(database, work))
}

/** Runs `work` in one write transaction: all of it is stored, or nothing. */
export function transaction<T> (database: Database, work: () => T): T {
  database.exec('BEGIN IMMEDIATE')
  try {
    const result = work()
    database.exec('COMMIT')
    return result
  } catch (error) {
    // A failed COMMIT or a full disk may have rolled back already.
    if (database.isTransaction) database.exec('ROLLBACK')
    throw error
  }
}
