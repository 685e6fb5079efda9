import { existsSync, readFileSync, statSync } from 'node:fs'
import { CommandError, exitCodes } from '../../errors.ts'
import type { Database } from './database.ts'
import { sqlite } from './sqlite.ts'
import { isBusy } from './storage-errors.ts'

/**
 * Lets one server at a time work on a queue: two would run the same jobs. The lock is that of a SQLite file, which the
 * system releases however the process ends.
 * @returns what holds the lock until it is closed.
 * @throws {CommandError} (storage) when another process holds it, or it can't be written.
 */
export function lock (file: string): Database {
  const { DatabaseSync } = sqlite()
  const database = new DatabaseSync(file, { timeout: 0 })
  try {
    database.exec('BEGIN EXCLUSIVE')
    return database
  } catch (error) {
    database.close()
    throw cannotTake(file, error)
  }
}

/**
 * Looks whether another process holds the lock, without taking it.
 * @throws {CommandError} as `lock`
 */
export function checkLock (file: string): void {
  if (!existsSync(file)) return
  const { DatabaseSync } = sqlite()
  const database = new DatabaseSync(file, { timeout: 0, readOnly: true })
  try {
    database.exec('SELECT count(*) FROM sqlite_schema')
  } catch (error) {
    if (isBusy(error)) throw cannotTake(file, error) // what else is wrong with it, the next to take it puts right
  } finally {
    database.close()
  }
}

function cannotTake (file: string, error: unknown): CommandError {
  return new CommandError(exitCodes.storage, isBusy(error)
    ? `Another server works on this queue (${file} is locked${holderOf(file)}). ` +
      'Stop it and wait for its end, which comes after its running job, or give this one a --data-dir of its own.'
    : `The lock ${file} cannot be taken: ${(error as Error).message}. ` +
      'Check that there is room for it and that it is writable.',
  { cause: error })
}

/** The process that holds the lock, where Linux says so: ` by process 1234`. */
function holderOf (file: string): string {
  try {
    const { ino } = statSync(file)
    const held = new RegExp(`^\\d+: POSIX .* WRITE ([1-9]\\d*) \\w+:\\w+:${ino} `, 'm')
      .exec(readFileSync('/proc/locks', 'utf8'))
    return held === null ? '' : ` by process ${held[1]}`
  } catch {
    return '' // the message does without
  }
}

/** As `lock`, but undefined when another process holds it. */
export function tryLock (file: string): Database | undefined {
  try {
    return lock(file)
  } catch (error) {
    if (error instanceof CommandError && isBusy(error.cause)) return undefined
    throw error
  }
}
