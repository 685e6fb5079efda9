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
 * Files that come into being beside the models: under a name that no scan lists, in the folder of their target, so that
 * one rename makes them models. The data folder holds a note of what each is for: so a download can go on after a
 * crash, and what is not taken up again is deleted.
 */

const Note = Type.Object({
  /** Where the half-done file lies. */
  staging: Type.String(),
  /** Strong entity tag of the file there, which a range goes with. */
  etag: Type.Optional(Type.String()),
  /** SHA-256 that the hub promised. */
  sha256: Type.Optional(Type.String()),
  /** What it became, when it did; the way to see that a crash came only after that. */
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
/** Milliseconds after which a file that was left half done is given up. */
const abandonedAfter = 7 * day
/** Milliseconds to wait for a turn at the locks, which others have for less than one. */
const longestWait = 5000
const pause = 10

export class StagingArea {
  readonly #folder: string

  /** @param folder absolute; made when it is needed. */
  constructor (folder: string) {
    this.#folder = folder
  }

  /** Names one piece of work; the same work has the same key, also after a restart. */
  key (...of: string[]): string {
    // With the folder, so that servers with data of their own never share a half-done file.
    return createHash('sha256').update(JSON.stringify([this.#folder, ...of])).digest('hex').slice(0, 32)
  }

  /**
   * Does `work` unless another process or job is at the same.
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

  /** Leaves no lock file behind. One that a crash leaves goes with the note of its key, or with the next sweep. */
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
   * Lock files are opened and removed in here only, by one process at a time and without a pause. So no other can have
   * opened a lock file that is about to be removed, and lock what no longer has a name while the next one makes and
   * locks another file of that name. The file of the turn itself stays, one for the folder.
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

  /** Deletes the half-done file and the note of it. */
  async discard (key: string): Promise<void> {
    const note = await this.read(key)
    if (note !== undefined) await rm(note.staging, { force: true })
    await rm(this.#file(key, 'json'), { force: true })
  }

  /** Deletes what has been half done for a week, or was never noted, and is not being worked on. */
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
    // Other programs may write to the folder: only what is named like ours is deleted.
    if (note !== undefined && basename(note.staging).startsWith(stagingName(key))) {
      await rm(note.staging, { force: true })
    }
    for (const ending of ['json', 'json.tmp']) await rm(this.#file(key, ending), { force: true })
  }

  #file (key: string, ending: string): string {
    return join(this.#folder, `${key}.${ending}`)
  }
}

/** Hidden from scans, whatever its ending. */
export function stagingName (key: string): string {
  return `.${key}.part`
}

/**
 * Makes a half-done file a model: durable, with the rights that its folder suggests, in one step.
 * @throws {ApiError} SDR_CONFLICT when there is a file of that name and `overwrite` is false.
 */
export async function place (
  staging: string, target: string, { overwrite = false }: { overwrite?: boolean } = {}
): Promise<void> {
  const folder = dirname(target)
  const stats = await stat(folder)
  const handle = await open(staging, constants.O_RDWR | constants.O_NOFOLLOW)
  try {
    // Users who may read the folder are meant to read the models in it; the server's own files stay private.
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

/** `rename` would overwrite; only a link is refused when the name is taken, even at the last moment. */
async function renameToFree (staging: string, target: string): Promise<void> {
  try {
    await link(staging, target)
    await unlink(staging)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST') throw nameTaken(target)
    if (!['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK'].includes(code ?? '')) throw error
    // A file system without links: there the look comes first.
    if (await exists(target)) throw nameTaken(target)
    await rename(staging, target)
  }
}

export function nameTaken (target: string): Error {
  return apiError('SDR_CONFLICT',
    `There is a file ${JSON.stringify(basename(target))} already. Choose another name, or ask to overwrite it.`)
}

/** The finished file of an earlier try, when it is still there and unchanged. */
export async function finishedBefore ({ done }: StagingNote): Promise<StagingNote['done']> {
  if (done === undefined || !await exists(done.path)) return undefined
  const { size, mtimeMs, ino } = await lstat(done.path)
  return size === done.size && mtimeMs === done.modified && ino === done.inode ? done : undefined
}

/** Whether there is something of that name, a dangling link included. */
export async function exists (path: string): Promise<boolean> {
  try {
    await lstat(path)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw error
  }
}
