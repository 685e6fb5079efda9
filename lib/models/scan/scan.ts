import { type Dirent, type Stats, constants, lstat } from 'node:fs'
import { access, opendir, realpath, stat } from 'node:fs/promises'
import { basename, sep } from 'node:path'
import { promisify } from 'node:util'
import { forEachLimited } from '../../util/concurrency.ts'
import { quoted, unprintable } from '../../util/text.ts'
import { ModelFileError } from '../headers/header.ts'
import { type Summary, inspectHeader } from '../detect/inspect.ts'
import { type FileFormat, formatOfName, readHeader } from '../headers/read-header.ts'
import { type ModelType, typeOfFolder } from '../types.ts'

/** A folder that is searched for models. `type` says what all files in it are that do not prove otherwise. */
export interface ScanRoot {
  path: string
  type?: ModelType
}

/** What a file's header says, or why it can't be used. */
type FileContent = Summary | { blocked: string } | { error: string }

export interface ScannedFile {
  /** Index of its root in the list that was given. */
  root: number
  /** Absolute and without symbolic links in it. */
  path: string
  /** Where the link lies that led to it, when one did. */
  link?: string
  /** From the root to the file, `/` between the parts, as the file is named there (it may be a link). */
  relative: string
  /** Type that the root or the nearest folder with a known name gives, and how many parts of `relative` lead to it. */
  folderType?: ModelType
  folderDepth: number
  format: FileFormat | 'bundle'
  size: number
  modified: number
  content?: FileContent
  /** Known when it was asked for since the file changed last. */
  sha256?: string
}

/** Something that was skipped or can't be read, and why; `path` is for administrators. */
export interface ScanWarning {
  path: string
  message: string
}

export interface ScanResult {
  files: ScannedFile[]
  warnings: ScanWarning[]
  /** Real paths of the roots, by index; null for one that can't be read. */
  roots: Array<string | null>
  /** Every folder that could be opened, for watching. */
  folders: string[]
  /** Headers that were read because `cache` did not know them. */
  headersRead: number
  /** Whether `cache` differs from what it was. */
  cacheChanged: boolean
}

/** What is remembered of a file, so that its header is read once. */
export interface CachedFile {
  modified: number
  size: number
  inode: number
  content: FileContent
  sha256?: string
}

/** How many headers were read, of those that the cache did not know. */
export type ScanProgress = (done: { read: number, total: number }) => void

/** By real path. */
export type ScanCache = Map<string, CachedFile>

export const scanLimits = {
  /** Folders below a root. */
  depth: 12,
  /** Directory entries looked at in one scan, over all roots. */
  entries: 500_000,
  files: 100_000,
  /** UTF-16 units of `relative`; ids must fit where clients keep them. */
  path: 400,
  warnings: 1000
} as const

/** File name endings of models that are made of several files. */
const bundleEndings = ['.model.yaml', '.model.yml', '.model.json'] as const

const statLink = promisify(lstat) // half the cost of the one in node:fs/promises

const foldersAtOnce = 8
const linksAtOnce = 8
/** Asked for in one go, which keeps the thread pool awake: waking it for each file takes longer than the answer. */
const filesAtOnce = 256
const headersAtOnce = 64

/**
 * Finds the model files below the roots and reads the headers of those that `cache` does not know; `cache` is brought
 * up to date. Whatever can't be read becomes a warning: a scan itself does not fail. A file that this user may not read
 * is listed all the same, with the reason: a list without it looks as if the file were missing.
 *
 * Symbolic links are followed when they lead to a place inside the roots. A folder is read once, however many links
 * lead to it, so loops end by themselves.
 */
export async function scanModels (
  roots: readonly ScanRoot[], cache: ScanCache, progress?: ScanProgress
): Promise<ScanResult> {
  const scan = new Scan(roots, cache, progress)
  return await scan.run()
}

interface Folder {
  root: number
  path: string
  relative: string
  depth: number
  folderType?: ModelType
  folderDepth: number
  /** The root has a type for all that lies in it, whatever its folders are called. */
  typed: boolean
}

interface UnreadFile { file: ScannedFile, inode: number }

class Scan {
  readonly #roots: readonly ScanRoot[]
  readonly #cache: ScanCache
  readonly #progress: ScanProgress | undefined
  readonly #seenPaths = new Set<string>()
  readonly #exceeded = new Set<string>()
  readonly #result: ScanResult = {
    files: [],
    warnings: [],
    roots: [],
    folders: [],
    headersRead: 0,
    cacheChanged: false
  }

  #pending: Folder[] = []
  #links: Folder[] = []
  #found: ScannedFile[] = []
  #foundLinks: ScannedFile[] = []
  #unread: UnreadFile[] = []
  #files = 0
  #entries = 0

  constructor (roots: readonly ScanRoot[], cache: ScanCache, progress?: ScanProgress) {
    this.#roots = roots
    this.#cache = cache
    this.#progress = progress
  }

  async run (): Promise<ScanResult> {
    await this.#openRoots()
    await this.#walk()
    // Links to folders come last: what they lead to has usually been read where it really lies.
    while (this.#links.length > 0) {
      const links = this.#links.sort((a, b) => compare(a.relative, b.relative))
      this.#links = []
      for (const link of links) await this.#openLink(link)
    }
    await forEachLimited(this.#foundLinks, linksAtOnce, file => this.#followFile(file))
    await this.#measureFiles()
    const total = this.#unread.length
    let read = 0
    await forEachLimited(this.#unread, headersAtOnce, async file => {
      await this.#readFile(file)
      this.#progress?.({ read: ++read, total })
    })
    this.#forgetLost()
    const { files } = this.#result
    files.sort((a, b) => a.root - b.root || compare(a.relative, b.relative))
    return this.#result
  }

  async #openRoots (): Promise<void> {
    for (const { path } of this.#roots) {
      try {
        const real = await realpath(path)
        const isFolder = (await stat(real)).isDirectory()
        this.#result.roots.push(isFolder ? real : null)
        if (!isFolder) this.#warn(path, 'The models folder is not a folder.')
      } catch (error) {
        this.#result.roots.push(null)
        this.#warn(path, `The models folder can't be read: ${reasonOf(error)}.`)
      }
    }
    for (const [root, path] of this.#result.roots.entries()) {
      // The same folder given twice is one root; so is a folder inside another root, which skips it there.
      if (path === null || this.#result.roots.indexOf(path) !== root) continue
      const { type } = this.#roots[root]!
      const folderType = type ?? typeOfFolder(basename(path))
      this.#pending.push({ root, path, relative: '', depth: 0, folderType, folderDepth: 0, typed: type !== undefined })
    }
  }

  async #walk (): Promise<void> {
    while (this.#pending.length > 0) {
      const folders = this.#pending
      this.#pending = []
      await forEachLimited(folders, foldersAtOnce, folder => this.#readFolder(folder))
    }
  }

  async #readFolder (folder: Folder): Promise<void> {
    if (this.#seenPaths.has(folder.path)) return
    this.#seenPaths.add(folder.path)
    try {
      const entries = await opendir(folder.path, { bufferSize: 256 })
      this.#result.folders.push(folder.path)
      for await (const entry of entries) {
        if (++this.#entries > scanLimits.entries) return this.#warnOnce('entries', folder.path)
        if (!entry.name.startsWith('.')) this.#visit(folder, entry)
      }
    } catch (error) {
      if (!isGone(error)) this.#warn(folder.path, `The folder can't be read: ${reasonOf(error)}.`)
    }
  }

  #visit (folder: Folder, entry: Dirent): void {
    const { name } = entry
    const path = folder.path + sep + name
    const relative = folder.relative === '' ? name : `${folder.relative}/${name}`
    const format = bundleEndings.some(ending => name.toLowerCase().endsWith(ending)) ? 'bundle' : formatOfName(name)
    const link = entry.isSymbolicLink()
    if (!link && !entry.isDirectory() && format === undefined) return
    const objection = objectionTo(name, relative)
    if (objection !== undefined) return this.#warn(path, objection)

    if (format !== undefined && !entry.isDirectory()) {
      const { root, folderType, folderDepth } = folder
      const file: ScannedFile = { root, path, relative, folderType, folderDepth, format, size: 0, modified: 0 }
      const files = link ? this.#foundLinks : this.#found
      if (++this.#files <= scanLimits.files) files.push(file)
      else this.#warnOnce('files', path)
    } else if (folder.depth === scanLimits.depth) {
      this.#warn(path, `The folder lies more than ${scanLimits.depth} levels deep and is not searched.`)
    } else {
      const named = folder.typed ? undefined : typeOfFolder(name)
      const depth = folder.depth + 1
      const typed = named === undefined ? {} : { folderType: named, folderDepth: depth }
      const below = { ...folder, path, relative, depth, ...typed }
      if (link) this.#links.push(below)
      else if (!this.#result.roots.includes(path)) this.#pending.push(below)
    }
  }

  async #openLink (link: Folder): Promise<void> {
    try {
      const path = await this.#follow(link.path)
      if (path === undefined || !(await stat(path)).isDirectory()) return
      this.#pending.push({ ...link, path })
      await this.#walk()
    } catch (error) {
      this.#warn(link.path, `The link can't be followed: ${reasonOf(error)}.`)
    }
  }

  /** Where a link leads; undefined, with a warning, when that is outside the roots. */
  async #follow (link: string): Promise<string | undefined> {
    const path = await realpath(link)
    if (isInside(path, this.#result.roots)) return path
    this.#warn(link, 'The link leads out of the models folders and is not followed. ' +
      'Give the folder that it leads to as a models folder of its own.')
  }

  async #followFile (file: ScannedFile): Promise<void> {
    try {
      const path = await this.#follow(file.path)
      if (path !== undefined) this.#found.push({ ...file, path, link: file.path })
    } catch (error) {
      this.#warn(file.path, `The link can't be followed: ${reasonOf(error)}.`)
    }
  }

  async #measureFiles (): Promise<void> {
    for (let start = 0; start < this.#found.length; start += filesAtOnce) {
      const files = this.#found.slice(start, start + filesAtOnce)
      const measured = await Promise.allSettled(files.map(({ path }) => statLink(path)))
      const refusals = await Promise.all(measured.map((stats, index) =>
        stats.status === 'fulfilled' ? refusalToRead(files[index]!.path, stats.value) : undefined))
      for (const [index, stats] of measured.entries()) {
        const file = files[index]!
        if (stats.status === 'rejected') this.#unreadable(file, stats.reason)
        else if (!stats.value.isFile()) this.#warn(file.path, 'This is not a regular file.')
        else this.#recall(file, stats.value, refusals[index])
      }
    }
  }

  #recall (file: ScannedFile, { size, mtimeMs: modified, ino: inode }: Stats, forbidden: unknown): void {
    file.size = size
    file.modified = modified
    this.#seenPaths.add(file.path)
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

  async #readFile ({ file, inode }: UnreadFile): Promise<void> {
    const { path, modified, size } = file
    try {
      file.content = await contentOf(path)
      this.#cache.set(path, { modified, size, inode, content: file.content })
      this.#result.headersRead++
      this.#result.cacheChanged = true
      this.#result.files.push(file)
    } catch (error) {
      if (isForbidden(error)) this.#forbid(file, error)
      else this.#unreadable(file, error)
    }
  }

  #forbid (file: ScannedFile, error: unknown): void {
    this.#unreadable(file, error)
    // Not remembered: the right to read it comes without a new time of change.
    file.content = { error: `The server may not read this file (${reasonOf(error)}). Give its user the right to.` }
    this.#result.files.push(file)
  }

  #unreadable ({ path }: ScannedFile, error: unknown): void {
    if (!isGone(error)) this.#warn(path, `The file can't be read: ${reasonOf(error)}.`)
  }

  #forgetLost (): void {
    for (const path of this.#cache.keys()) {
      if (this.#seenPaths.has(path)) continue
      this.#cache.delete(path)
      this.#result.cacheChanged = true
    }
  }

  #warnOnce (limit: 'entries' | 'files', path: string): void {
    if (this.#exceeded.has(limit)) return
    this.#exceeded.add(limit)
    this.#warn(path, `There are more than ${scanLimits[limit]} ${limit} in the models folders: the rest is not listed.`)
  }

  #warn (path: string, message: string): void {
    if (this.#result.warnings.length < scanLimits.warnings) this.#result.warnings.push({ path, message })
  }
}

async function contentOf (path: string): Promise<FileContent> {
  try {
    // Through JSON, because a short text taken out of a header keeps the whole header in memory.
    return JSON.parse(JSON.stringify(inspectHeader(await readHeader(path)))) as FileContent
  } catch (error) {
    if (!(error instanceof ModelFileError)) throw error
    return error.blocked ? { blocked: error.message } : { error: error.message }
  }
}

/** Whether a real path lies in one of the roots (or is one). */
export function isInside (path: string, roots: ReadonlyArray<string | null>): boolean {
  return roots.some(root => root !== null && (path === root || path.startsWith(root.endsWith(sep) ? root : root + sep)))
}

function objectionTo (name: string, relative: string): string | undefined {
  // A name whose bytes are no UTF-8 is among these, and no path with it would lead back to the file.
  if (name.search(unprintable) !== -1) {
    return `The name ${quoted(name)} holds characters that can't be shown. Rename it.`
  }
  if (relative.length > scanLimits.path) return `The path is longer than ${scanLimits.path} characters.`
}

/** Removed between the look into its folder and the look at itself, as the temporary files of a download are. */
function isGone (error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === 'ENOENT'
}

/** Read rights of the owner, the group and all others. */
const readableByAll = 0o444

/**
 * Why this process may not read the file, undefined when it may. Rights change without the time of change, so what is
 * remembered of a file cannot say. The system is asked only where its mode does not say it.
 */
async function refusalToRead (path: string, { mode }: Stats): Promise<unknown> {
  if ((mode & readableByAll) === readableByAll) return undefined
  return await access(path, constants.R_OK).then(() => undefined, error => isForbidden(error) ? error : undefined)
}

function isForbidden (error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException
  return code === 'EACCES' || code === 'EPERM'
}

/** The system's word for it (`EACCES: permission denied`) without the path that follows. @throws any other error. */
function reasonOf (error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException
  if (code === undefined) throw error
  return message.replace(/, \w+(?: '.*)?$/s, '')
}

function compare (a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}
