import { createHash } from 'node:crypto'
import { rmSync } from 'node:fs'
import { constants, link, lstat, mkdir, open, readFile, rename, rm, stat, unlink } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { type Static, Type, Validator } from '../../http/type.ts'
import { apiError } from '../../../errors.ts'
import type { Database } from '../../storage/database.ts'
import { names, syncFolder, writeWhole } from '../../storage/files.ts'
import { tryLock } from '../../storage/lock.ts'
import { leaveToOwner } from '../../storage/ownership.ts'

/**
 * Incomplete files, in the folder of their target under a name that no scan lists: one rename makes them models. A note
 * of each in the data folder lets a download continue after a crash, and abandoned files be deleted.
 */

const Note = Type.Object({
  /** Path of the incomplete file. */
  staging: Type.String(),
  /** Strong entity tag of the source, for range requests. */
  etag: Type.Optional(Type.String()),
  /** SHA-256 that the hub promised. */
  sha256: Type.Optional(Type.String()),
  /** The finished file, to recognise a crash after the rename. */
  done: Type.Optional(Type.Object({
    path: Type.String(),
    size: Type.Number(),
    modified: Type.Number(),
    inode: Type.Number(),
    sha256: Type.Optional(Type.String())
  }))
})
export type StagingNote = Static<typeof Note>
const validator = new Validator(Note)

const day = 24 * 60 * 60 * 1000
/** Milliseconds after which an incomplete file is deleted. */
const abandonedAfter = 7 * day
/** Milliseconds to wait for `turn.lock`, which others hold for less than one. */
const longestWait = 5000
const pause = 10

export class StagingArea {
  readonly #folder: string

  /** @param folder absolute path; made when needed. */
  constructor (folder: string) {
    this.#folder = folder
  }

  /** The name of one piece of work, the same after a restart. */
  key (...of: string[]): string {
    // With the folder, so that servers with different data never share an incomplete file.
    return createHash('sha256').update(JSON.stringify([this.#folder, ...of])).digest('hex').slice(0, 32)
  }

  /**
   * Does `work` unless another process or job does the same.
   * @throws {ApiError} SDR_CONFLICT
   */
  async alone<Result> (key: string, work: () => Promise<Result>): Promise<Result> {
    await mkdir(this.#folder, { recursive: true, mode: 0o700 })
    const held = await this.#take(key)
    if (held === undefined) throw apiError('SDR_CONFLICT', 'The same is being done already, by another job or command.')
    try {
      return await work()
    } finally {
      await this.#release(key, held)
    }
  }

  /** @returns undefined when another process has it. */
  async #take (key: string): Promise<Database | undefined> {
    return await this.#inTurn(() => tryLock(this.#file(key, 'lock')))
  }

  /** Removes the lock file. After a crash the next sweep does. */
  async #release (key: string, held: Database): Promise<void> {
    try {
      await this.#inTurn(() => {
        held.close()
        rmSync(this.#file(key, 'lock'), { force: true })
      })
    } finally {
      if (held.isOpen) held.close()
    }
  }

  /**
   * Lock files are opened and removed only here, synchronously and by one process at a time. Else a process could open
   * a lock file just before its removal, and lock a file without a name while another one makes and locks a new file of
   * that name. `turn.lock` itself is never removed.
   * @throws {ApiError} SDR_UNAVAILABLE
   */
  async #inTurn<Result> (action: () => Result): Promise<Result> {
    const file = join(this.#folder, 'turn.lock')
    for (let waited = 0; waited < longestWait; waited += pause) {
      const turn = tryLock(file)
      if (turn === undefined) {
        await wait(pause)
        continue
      }
      try {
        return action()
      } finally {
        turn.close()
      }
    }
    throw apiError('SDR_UNAVAILABLE',
      `Another process keeps ${basename(this.#folder)}/turn.lock of the data folder locked. ` +
      'Is it stopped? Let it go on, or end it.')
  }

  async read (key: string): Promise<StagingNote | undefined> {
    try {
      const note: unknown = JSON.parse(await readFile(this.#file(key, 'json'), 'utf8'))
      return validator.check(note) ? note : undefined
    } catch (error) {
      if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
      throw error
    }
  }

  async write (key: string, note: StagingNote): Promise<void> {
    await mkdir(this.#folder, { recursive: true, mode: 0o700 })
    await rm(this.#file(key, 'json.tmp'), { force: true })
    await writeWhole(this.#file(key, 'json'), Buffer.from(JSON.stringify(note)))
    await syncFolder(this.#folder)
  }

  /** Deletes the incomplete file and its note. */
  async discard (key: string): Promise<void> {
    const note = await this.read(key)
    if (note !== undefined) await rm(note.staging, { force: true })
    await rm(this.#file(key, 'json'), { force: true })
  }

  /** Deletes incomplete files that are a week old or have no note, and that no process works on. */
  async sweep ({ now = Date.now() }: { now?: number } = {}): Promise<void> {
    const keys = (await names(this.#folder)).map(name => /^([0-9a-f]{32})\.(?:json|json\.tmp|lock)$/.exec(name)?.[1])
    for (const key of new Set(keys.filter(key => key !== undefined))) {
      if (!await this.#isAbandoned(key, now)) continue
      const held = await this.#take(key)
      if (held === undefined) continue
      try {
        if (await this.#isAbandoned(key, now)) await this.#clear(key)
      } finally {
        await this.#release(key, held)
      }
    }
  }

  async #isAbandoned (key: string, now: number): Promise<boolean> {
    try {
      const { mtimeMs } = await stat(this.#file(key, 'json'))
      return now - mtimeMs >= abandonedAfter
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return true
      throw error
    }
  }

  async #clear (key: string): Promise<void> {
    const note = await this.read(key)
    // Other programs may write to the folder: delete only names of ours.
    if (note !== undefined && basename(note.staging).startsWith(stagingName(key))) {
      await rm(note.staging, { force: true })
    }
    for (const ending of ['json', 'json.tmp']) await rm(this.#file(key, ending), { force: true })
  }

  #file (key: string, ending: string): string {
    return join(this.#folder, `${key}.${ending}`)
  }
}

/** Scans skip names that begin with a dot. */
export function stagingName (key: string): string {
  return `.${key}.part`
}

/**
 * Makes an incomplete file a model in one step: durable, with the owner and access rights of its folder.
 * @throws {ApiError} SDR_CONFLICT when a file has that name and `overwrite` is false.
 */
export async function place (
  staging: string, target: string, { overwrite = false }: { overwrite?: boolean } = {}
): Promise<void> {
  const folder = dirname(target)
  const stats = await stat(folder)
  const handle = await open(staging, constants.O_RDWR | constants.O_NOFOLLOW)
  try {
    // Users who may read the folder shall read the models in it.
    await handle.chmod(stats.mode & 0o666)
    await leaveToOwner((uid, gid) => handle.chown(uid, gid), stats)
    await handle.sync()
  } finally {
    await handle.close()
  }
  if (overwrite) await rename(staging, target)
  else await renameToFree(staging, target)
  await syncFolder(folder)
}

/** `rename` would overwrite; `link` fails atomically when the name is taken. */
async function renameToFree (staging: string, target: string): Promise<void> {
  try {
    await link(staging, target)
    await unlink(staging)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST') throw nameTaken(target)
    if (!['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK'].includes(code ?? '')) throw error
    // This file system has no links, so the check is not atomic.
    if (await exists(target)) throw nameTaken(target)
    await rename(staging, target)
  }
}

export function nameTaken (target: string): Error {
  return apiError('SDR_CONFLICT',
    `There is a file ${JSON.stringify(basename(target))} already. Choose another name, or ask to overwrite it.`)
}

/** The finished file of an earlier try, if it still exists unchanged. */
export async function finishedBefore ({ done }: StagingNote): Promise<StagingNote['done']> {
  if (done === undefined || !await exists(done.path)) return undefined
  const { size, mtimeMs, ino } = await lstat(done.path)
  return size === done.size && mtimeMs === done.modified && ino === done.inode ? done : undefined
}

/** Whether the path exists, be it a dangling link. */
export async function exists (path: string): Promise<boolean> {
  try {
    await lstat(path)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw error
  }
}
