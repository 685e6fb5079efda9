import { constants } from 'node:fs'
import { mkdir, open, rename, rm, rmdir, type FileHandle } from 'node:fs/promises'
import { dirname, join, resolve, sep } from 'node:path'
import type { Readable } from 'node:stream'
import { names, syncFolder } from './files.ts'

/** A stored blob, open for reading. Exactly one of `bytes` and `stream` must be called, which closes it. */
export interface StoredBlob {
  /** Bytes. */
  size: number
  bytes (): Promise<Buffer>
  stream (): Readable
}

/**
 * Storage of bytes that are written once, under keys: names with `/` between them. A prefix is the beginning of a key
 * up to a `/`, without it. A blob may not be a file of this machine, so engines are given its bytes.
 */
export interface Blobs {
  /**
   * Stores blobs below a prefix. They are whole and durable when the promise is fulfilled; when it is rejected some may
   * be there. Several at once need a `clear` before.
   */
  put (prefix: string, blobs: ReadonlyArray<readonly [name: string, bytes: Uint8Array]>): Promise<void>
  /** Deletes what is below a prefix, and prepares it, so that later ones are stored sooner. */
  clear (prefix: string): Promise<void>
  /** @returns undefined when the blob does not exist. */
  get (key: string): Promise<StoredBlob | undefined>
  /** Deletes all blobs below a prefix. */
  delete (prefix: string): Promise<void>
  /** The names that come next below a prefix, of blobs and of longer prefixes. */
  list (prefix?: string): Promise<string[]>
}

/**
 * Blobs as files below a folder, which is made for the first one. Folders have mode 0700, files 0600; links are not
 * followed. A file has its name when it is whole, also after a power failure.
 */
export class FolderBlobs implements Blobs {
  readonly #root: string

  /** @param root absolute path */
  constructor (root: string) {
    this.#root = root
  }

  async put (prefix: string, blobs: ReadonlyArray<readonly [name: string, bytes: Uint8Array]>): Promise<void> {
    const folder = inside(this.#root, prefix)
    const parents = await makeFolder(folder)
    await allEnded([...parents.map(syncFolder), fillFolder(folder, blobs)])
  }

  async clear (prefix: string): Promise<void> {
    const folder = inside(this.#root, prefix)
    let parents = await makeFolder(folder)
    if (parents.length === 0) {
      await rm(folder, { recursive: true, force: true })
      parents = await makeFolder(folder)
    }
    await allEnded(parents.map(syncFolder))
  }

  async get (key: string): Promise<StoredBlob | undefined> {
    const handle = await open(inside(this.#root, key), constants.O_RDONLY | constants.O_NOFOLLOW)
      .catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOENT') throw error
      })
    if (handle === undefined) return undefined
    try {
      const { size } = await handle.stat()
      return {
        size,
        bytes: () => handle.readFile().finally(async () => handle.close()),
        stream: () => handle.createReadStream()
      }
    } catch (error) {
      await handle.close()
      throw error
    }
  }

  async delete (prefix: string): Promise<void> {
    const folder = inside(this.#root, prefix)
    await rm(folder, { recursive: true, force: true })
    try {
      for (let parent = dirname(folder); parent !== resolve(this.#root); parent = dirname(parent)) await rmdir(parent)
    } catch (error) {
      if (!['ENOTEMPTY', 'EEXIST', 'ENOENT'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
    }
  }

  async list (prefix = ''): Promise<string[]> {
    return await names(prefix === '' ? this.#root : inside(this.#root, prefix))
  }
}

/** @returns the folders that have a new entry now, none when it was there: the caller syncs them. */
async function makeFolder (folder: string): Promise<string[]> {
  const first = await mkdir(folder, { recursive: true, mode: 0o700 })
  if (first === undefined) return []
  const changed = [dirname(folder)]
  while (changed.at(-1) !== dirname(first)) changed.push(dirname(changed.at(-1)!))
  return changed
}

/** Writes new files that nothing refers to. Before they are durable a power failure may leave them at any length. */
async function fillFolder (
  folder: string, files: ReadonlyArray<readonly [name: string, bytes: Uint8Array]>
): Promise<void> {
  const handles: FileHandle[] = []
  try {
    await allEnded(files.map(async ([name, bytes]) => {
      const file = inside(folder, name)
      const handle = await open(`${file}.tmp`, 'wx', 0o600)
      handles.push(handle)
      await handle.writeFile(bytes)
      await rename(`${file}.tmp`, file)
    }))
    // Together: the file system has all of it in one commit of its journal.
    await allEnded([...handles.map(async handle => handle.sync()), syncFolder(folder)])
  } finally {
    await allEnded(handles.map(async handle => handle.close()))
  }
}

/** Waits for the end of all of them, also when one fails: after that, nothing is written behind the caller's back. */
async function allEnded (works: Array<Promise<void>>): Promise<void> {
  for (const result of await Promise.allSettled(works)) if (result.status === 'rejected') throw result.reason
}

/**
 * The absolute path of a name below `root`.
 * @throws {RangeError} when the name leads outside.
 */
function inside (root: string, name: string): string {
  const path = resolve(root, join(name))
  if (!path.startsWith(resolve(root) + sep)) throw new RangeError(`${join(name)} lies outside of ${root}`)
  return path
}
