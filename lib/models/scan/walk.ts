import type { Dirent } from 'node:fs'
import { opendir, realpath, stat } from 'node:fs/promises'
import { basename, sep } from 'node:path'
import { forEachLimited } from '../../util/concurrency.ts'
import { quoted, unprintable } from '../../util/text.ts'
import { type FileFormat, formatOfName } from '../headers/read-header.ts'
import { type ModelRoot, isInside } from '../roots.ts'
import { type ModelType, typeOfFolder } from '../types.ts'
import type { FileContent } from './scan-cache.ts'

export interface ScannedFile {
  /** Index of its root. */
  root: number
  /** Real path. */
  path: string
  /** Path of the link that led to it, if one did. */
  link?: string
  /** From the root to the file or link, with `/` between the names. */
  relative: string
  /** Type of the root or of the nearest folder with a known name, and the depth of that. */
  folderType?: ModelType
  folderDepth: number
  format: FileFormat | 'bundle'
  size: number
  modified: number
  content?: FileContent
  /** The name of a file beside it, which says that it is still being downloaded. */
  unfinished?: string
  /** Known once it was asked for, until the file changes. */
  sha256?: string
}

/** Why a path was skipped or can't be read; `path` is for administrators. */
export interface ScanWarning {
  path: string
  message: string
}

export interface FoundFiles {
  files: ScannedFile[]
  warnings: ScanWarning[]
  /** Real paths of the roots, by index; null for one that can't be read. */
  roots: Array<string | null>
  /** Folders that could be opened, for watching. */
  folders: string[]
}

export const scanLimits = {
  /** Folders below a root. */
  depth: 12,
  /** Directory entries of one scan, over all roots. */
  entries: 500_000,
  files: 100_000,
  /** UTF-16 units of `relative`; ids must fit where clients keep them. */
  path: 400,
  warnings: 1000
} as const

/** Endings of the descriptions of models of several files. */
const bundleEndings = ['.model.yaml', '.model.yml', '.model.json'] as const

/** What programs put beside a file, or in its place, until it is there. */
const unfinishedEnding = /\.(?:aria2|part|crdownload|incomplete|download)$/i

const foldersAtOnce = 8
const linksAtOnce = 8

/**
 * Finds the model files below the roots. What can't be read becomes a warning.
 *
 * Symbolic links are followed when they lead to a place inside the roots. A folder is read once, however many links
 * lead to it, so loops end by themselves.
 */
export async function findFiles (roots: readonly ModelRoot[]): Promise<FoundFiles> {
  return await new Walk(roots).run()
}

interface Folder {
  root: number
  path: string
  relative: string
  depth: number
  folderType?: ModelType
  folderDepth: number
  /** The type comes from the root, whatever its folders are called. */
  isTyped: boolean
}

class Walk {
  readonly #roots: readonly ModelRoot[]
  readonly #found: FoundFiles = { files: [], warnings: [], roots: [], folders: [] }
  readonly #fileLinks: ScannedFile[] = []
  readonly #seenFolders = new Set<string>()
  readonly #exceeded = new Set<string>()
  #pending: Folder[] = []
  #folderLinks: Folder[] = []
  #files = 0
  #entries = 0

  constructor (roots: readonly ModelRoot[]) {
    this.#roots = roots
  }

  async run (): Promise<FoundFiles> {
    await this.#openRoots()
    await this.#walk()
    // Links to folders come last: their targets have usually been read where they lie.
    while (this.#folderLinks.length > 0) {
      const links = this.#folderLinks.sort(byRelative)
      this.#folderLinks = []
      for (const link of links) await this.#openLink(link)
    }
    await forEachLimited(this.#fileLinks, linksAtOnce, file => this.#followFile(file))
    return this.#found
  }

  async #openRoots (): Promise<void> {
    for (const { path } of this.#roots) {
      try {
        const real = await realpath(path)
        const isFolder = (await stat(real)).isDirectory()
        this.#found.roots.push(isFolder ? real : null)
        if (!isFolder) this.#warn(path, 'The models folder is not a folder.')
      } catch (error) {
        this.#found.roots.push(null)
        this.#warn(path, `The models folder can't be read: ${reasonOf(error)}.`)
      }
    }
    for (const [root, path] of this.#found.roots.entries()) {
      // The same folder given twice is one root; so is a folder inside another root, which skips it there.
      if (path === null || this.#found.roots.indexOf(path) !== root) continue
      const { type } = this.#roots[root]!
      const folderType = type ?? typeOfFolder(basename(path))
      const isTyped = type !== undefined
      this.#pending.push({ root, path, relative: '', depth: 0, folderType, folderDepth: 0, isTyped })
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
    if (this.#seenFolders.has(folder.path)) return
    this.#seenFolders.add(folder.path)
    try {
      const entries = await opendir(folder.path, { bufferSize: 256 })
      this.#found.folders.push(folder.path)
      const files = new Map<string, ScannedFile>()
      const unfinished: string[] = []
      for await (const entry of entries) {
        if (++this.#entries > scanLimits.entries) return this.#warnOnce('entries', folder.path)
        if (unfinishedEnding.test(entry.name)) unfinished.push(entry.name)
        if (entry.name.startsWith('.')) continue
        const file = this.#visit(folder, entry)
        if (file !== undefined) files.set(entry.name, file)
      }
      for (const name of unfinished) {
        const file = files.get(name.replace(unfinishedEnding, ''))
        if (file !== undefined) file.unfinished = name
      }
    } catch (error) {
      if (!isGone(error)) this.#warn(folder.path, `The folder can't be read: ${reasonOf(error)}.`)
    }
  }

  /** @returns the model file, if it is one. */
  #visit (folder: Folder, entry: Dirent): ScannedFile | undefined {
    const { name } = entry
    const path = folder.path + sep + name
    const relative = folder.relative === '' ? name : `${folder.relative}/${name}`
    const format = bundleEndings.some(ending => name.toLowerCase().endsWith(ending)) ? 'bundle' : formatOfName(name)
    const link = entry.isSymbolicLink()
    if (!link && !entry.isDirectory() && format === undefined) return
    const reason = nameError(name, relative)
    if (reason !== undefined) {
      this.#warn(path, reason)
      return
    }

    if (format !== undefined && !entry.isDirectory()) {
      const { root, folderType, folderDepth } = folder
      const file: ScannedFile = { root, path, relative, folderType, folderDepth, format, size: 0, modified: 0 }
      const files = link ? this.#fileLinks : this.#found.files
      if (++this.#files <= scanLimits.files) files.push(file)
      else this.#warnOnce('files', path)
      return file
    } else if (folder.depth === scanLimits.depth) {
      this.#warn(path, `The folder lies more than ${scanLimits.depth} levels deep and is not searched.`)
    } else {
      const depth = folder.depth + 1
      const named = folder.isTyped ? undefined : typeOfFolder(name)
      const below = {
        ...folder, path, relative, depth, ...named !== undefined && { folderType: named, folderDepth: depth }
      }
      if (link) this.#folderLinks.push(below)
      else if (!this.#found.roots.includes(path)) this.#pending.push(below)
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
    if (isInside(path, this.#found.roots)) return path
    this.#warn(link, 'The link leads out of the models folders and is not followed. ' +
      'Give the folder that it leads to as a models folder of its own.')
  }

  async #followFile (file: ScannedFile): Promise<void> {
    try {
      const path = await this.#follow(file.path)
      if (path !== undefined) this.#found.files.push({ ...file, path, link: file.path })
    } catch (error) {
      this.#warn(file.path, `The link can't be followed: ${reasonOf(error)}.`)
    }
  }

  #warnOnce (limit: 'entries' | 'files', path: string): void {
    if (this.#exceeded.has(limit)) return
    this.#exceeded.add(limit)
    this.#warn(path, `There are more than ${scanLimits[limit]} ${limit} in the models folders: the rest is not listed.`)
  }

  #warn (path: string, message: string): void {
    addWarning(this.#found.warnings, path, message)
  }
}

export function addWarning (warnings: ScanWarning[], path: string, message: string): void {
  if (warnings.length < scanLimits.warnings) warnings.push({ path, message })
}

function nameError (name: string, relative: string): string | undefined {
  // Among these are names whose bytes are not UTF-8: no path with such a name leads back to its file.
  if (name.search(unprintable) !== -1) {
    return `The name ${quoted(name)} holds characters that can't be shown. Rename it.`
  }
  if (relative.length > scanLimits.path) return `The path is longer than ${scanLimits.path} characters.`
}

/** Temporary files of a download disappear between the reading of their folder and their own. */
export function isGone (error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === 'ENOENT'
}

/** An error of the file system in its own words, without the path: `EACCES: permission denied`. @throws any other. */
export function reasonOf (error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException
  if (code === undefined) throw error
  return message.replace(/, \w+(?: '.*)?$/s, '')
}

export function byRelative ({ relative: a }: { relative: string }, { relative: b }: { relative: string }): number {
  return a < b ? -1 : a > b ? 1 : 0
}
