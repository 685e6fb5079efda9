import { type Stats, constants, lstat } from 'node:fs'
import { access } from 'node:fs/promises'
import { promisify } from 'node:util'
import { forEachLimited } from '../../util/concurrency.ts'
import { inspectHeader } from '../detect/inspect.ts'
import { ModelFileError } from '../headers/header.ts'
import { readModel } from '../headers/read-header.ts'
import { isIndex } from '../headers/sharded.ts'
import type { ModelRoot } from '../roots.ts'
import type { FileContent, ScanCache } from './scan-cache.ts'
import { type FoundFiles, type ScannedFile, addWarning, byRelative, findFiles, isGone, reasonOf } from './walk.ts'

export interface ScanResult extends FoundFiles {
  /** Headers that were read because `cache` did not know them. */
  headersRead: number
  /** Whether `cache` differs from what it was. */
  cacheChanged: boolean
}

/** How many headers were read, of those that the cache did not know. */
export type ScanProgress = (done: { read: number, total: number }) => void

const statLink = promisify(lstat) // half the cost of the one in node:fs/promises

/** Asked for in one go, which keeps the thread pool awake: waking it for each file takes longer than the answer. */
const filesAtOnce = 256
const headersAtOnce = 64

/**
 * Finds the model files below the roots and reads the headers that `cache` does not know; brings `cache` up to date.
 * What can't be read becomes a warning: a scan does not fail. A file that this user may not read is listed with the
 * reason, or it would seem to be missing.
 */
export async function scanModels (
  roots: readonly ModelRoot[], cache: ScanCache, progress?: ScanProgress
): Promise<ScanResult> {
  const found = await findFiles(roots)
  const result = { ...found, files: [], headersRead: 0, cacheChanged: false }
  const reader = new FileReader(cache, result)
  await reader.measure(found.files)
  await reader.readHeaders(progress)
  reader.forgetLost()
  result.files.sort((a: ScannedFile, b: ScannedFile) => a.root - b.root || byRelative(a, b))
  return result
}

interface UnreadFile { file: ScannedFile, inode: number }

class FileReader {
  readonly #cache: ScanCache
  readonly #result: ScanResult
  readonly #seen = new Set<string>()
  readonly #unread: UnreadFile[] = []

  constructor (cache: ScanCache, result: ScanResult) {
    this.#cache = cache
    this.#result = result
  }

  async measure (found: readonly ScannedFile[]): Promise<void> {
    for (let start = 0; start < found.length; start += filesAtOnce) {
      const files = found.slice(start, start + filesAtOnce)
      const measured = await Promise.allSettled(files.map(({ path }) => statLink(path)))
      const readErrors = await Promise.all(measured.map((stats, index) =>
        stats.status === 'fulfilled' ? readErrorOf(files[index]!.path, stats.value) : undefined))
      for (const [index, stats] of measured.entries()) {
        const file = files[index]!
        if (stats.status === 'rejected') this.#unreadable(file, stats.reason)
        else if (!stats.value.isFile()) addWarning(this.#result.warnings, file.path, 'This is not a regular file.')
        else this.#recall(file, stats.value, readErrors[index])
      }
    }
  }

  #recall (file: ScannedFile, { size, mtimeMs: modified, ino: inode }: Stats, forbidden: unknown): void {
    file.size = size
    file.modified = modified
    this.#seen.add(file.path)
    if (forbidden !== undefined && file.format !== 'bundle') return this.#forbid(file, forbidden)
    const known = this.#cache.get(file.path)
    if (known?.modified === modified && known.size === size && known.inode === inode) {
      file.content = known.content
      file.sha256 = known.sha256
    } else if (file.format !== 'bundle') {
      this.#unread.push({ file, inode })
      return
    }
    this.#result.files.push(file)
  }

  async readHeaders (progress?: ScanProgress): Promise<void> {
    const total = this.#unread.length
    let read = 0
    await forEachLimited(this.#unread, headersAtOnce, async file => {
      await this.#readFile(file)
      progress?.({ read: ++read, total })
    })
  }

  async #readFile ({ file, inode }: UnreadFile): Promise<void> {
    const { path, modified, size } = file
    try {
      file.content = await contentOf(path)
      this.#result.headersRead++
      this.#result.files.push(file)
      // Of an index the cache would not see that its parts have changed.
      if (isIndex(path)) return
      this.#cache.set(path, { modified, size, inode, content: file.content })
      this.#result.cacheChanged = true
    } catch (error) {
      if (isForbidden(error)) this.#forbid(file, error)
      else this.#unreadable(file, error)
    }
  }

  #forbid (file: ScannedFile, error: unknown): void {
    this.#unreadable(file, error)
    // Not cached: the right to read the file can come without a new time of change.
    file.content = { error: `The server may not read this file (${reasonOf(error)}). Give its user the right to.` }
    this.#result.files.push(file)
  }

  #unreadable ({ path }: ScannedFile, error: unknown): void {
    if (!isGone(error)) addWarning(this.#result.warnings, path, `The file can't be read: ${reasonOf(error)}.`)
  }

  forgetLost (): void {
    for (const path of this.#cache.keys()) {
      if (this.#seen.has(path)) continue
      this.#cache.delete(path)
      this.#result.cacheChanged = true
    }
  }
}

async function contentOf (path: string): Promise<FileContent> {
  try {
    // Through JSON, because a short text taken out of a header keeps the whole header in memory.
    const { header, size } = await readModel(path)
    const summary = { ...inspectHeader(header), ...isIndex(path) && { size } }
    return JSON.parse(JSON.stringify(summary)) as FileContent
  } catch (error) {
    if (!(error instanceof ModelFileError)) throw error
    return error.blocked ? { blocked: error.message } : { error: error.message }
  }
}

/** Read rights of the owner, the group and all others. */
const readableByAll = 0o444

/**
 * Why this process may not read the file; undefined when it may. Rights change without the time of change, so the cache
 * can't know them. The system is asked only when the mode leaves it open.
 */
async function readErrorOf (path: string, { mode }: Stats): Promise<unknown> {
  if ((mode & readableByAll) === readableByAll) return undefined
  return await access(path, constants.R_OK).then(() => undefined, error => isForbidden(error) ? error : undefined)
}

function isForbidden (error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException
  return code === 'EACCES' || code === 'EPERM'
}
