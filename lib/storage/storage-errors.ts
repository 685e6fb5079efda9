import { setTimeout as delay } from 'node:timers/promises'
import { apiError, type ApiError } from '../../errors.ts'

/** Primary result code of SQLite for a full disk. */
const fullCode = 13
/** Another process holds the lock: SQLITE_BUSY, SQLITE_LOCKED. */
const busyCodes: readonly number[] = [5, 6]
/** The file is none of SQLite's, or not as SQLite left it: SQLITE_CORRUPT, SQLITE_NOTADB. */
const damagedCodes: readonly number[] = [11, 26]
/** What else may be over later, of memory, rights and the disk. */
const passingCodes: readonly number[] = [
  7, // SQLITE_NOMEM
  8, // SQLITE_READONLY
  10, // SQLITE_IOERR
  14, // SQLITE_CANTOPEN
  15 // SQLITE_PROTOCOL
]

/** Milliseconds that a change waits for another process to release the database. */
const patience = 5000
/** Milliseconds between two tries. */
const [firstPause, longestPause] = [5, 100]

/** Seconds after which a refused change may be tried again. */
const retryAfter = 2

/** Whether an error says that there is no room: the disk, the quota, or the database on it. */
export function isStorageFull (error: unknown): boolean {
  const { code } = Object(error) as { code?: unknown }
  return code === 'ENOSPC' || code === 'EDQUOT' || resultCode(error) === fullCode
}

/** Whether an error says that another process holds the lock of a database. */
export function isBusy (error: unknown): boolean {
  return busyCodes.includes(resultCode(error) ?? NaN)
}

export function isDamaged (error: unknown): boolean {
  return damagedCodes.includes(resultCode(error) ?? NaN)
}

/** Whether an error of the database is about its storage, so that the same change may succeed later. */
export function isStorageTrouble (error: unknown): boolean {
  return isStorageFull(error) || isBusy(error) || passingCodes.includes(resultCode(error) ?? NaN)
}

/** The answer to a request whose change could not be stored; undefined when that is not the reason of `error`. */
export function storageError (error: unknown): ApiError | undefined {
  if (isStorageFull(error)) return apiError('SDR_STORAGE_FULL', undefined, { cause: error })
  if (!isStorageTrouble(error)) return undefined
  return apiError('SDR_UNAVAILABLE',
    'The database cannot be used at the moment; try again.', { retryAfter, cause: error })
}

/**
 * Runs a change of a database, again and again while another process holds its lock. The event loop goes on in between;
 * SQLite's own waiting would stop it.
 * @throws what `work` throws, after 5 s also that the database is locked
 */
export async function whenFree<T> (work: () => T): Promise<T> {
  const end = performance.now() + patience
  for (let pause = firstPause; ; pause = Math.min(pause * 2, longestPause)) {
    try {
      return work()
    } catch (error) {
      if (!isBusy(error) || performance.now() + pause > end) throw error
    }
    await delay(pause)
  }
}

/** Reads of several rows throw without the code of SQLite: there its message says what happened. */
const codesOfMessages: Readonly<Record<string, number>> = {
  'database is locked': 5,
  'database table is locked': 6,
  'out of memory': 7,
  'attempt to write a readonly database': 8,
  'disk I/O error': 10,
  'database disk image is malformed': 11,
  'database or disk is full': fullCode,
  'unable to open database file': 14,
  'locking protocol': 15,
  'file is not a database': 26
}

function resultCode (error: unknown): number | undefined {
  const { code, errcode, message } = Object(error) as { code?: unknown, errcode?: unknown, message?: unknown }
  if (typeof errcode === 'number') return errcode & 0xff
  return code === 'ERR_SQLITE_ERROR' ? codesOfMessages[String(message)] : undefined
}
