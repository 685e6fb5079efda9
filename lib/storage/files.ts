import { mkdir, open, readdir, rename, rm, type FileHandle } from 'node:fs/promises'
import { dirname, join, resolve, sep } from 'node:path'

/** Files that must be whole or absent, also after a power failure. Folders have mode 0700, files 0600. */

/**
 * Makes a folder with its parents. `folder` is absolute.
 * @returns the folders that have a new entry now, none when it was there: the caller syncs them.
 */
export async function makeFolder (folder: string): Promise<string[]> {
  const first = await mkdir(folder, { recursive: true, mode: 0o700 })
  if (first === undefined) return []
  const changed = [dirname(folder)]
  while (changed.at(-1) !== dirname(first)) changed.push(dirname(changed.at(-1)!))
  return changed
}

/** Waits for the end of all of them, also when one fails: after that, nothing is written behind the caller's back. */
export async function allEnded (works: Array<Promise<void>>): Promise<void> {
  for (const result of await Promise.allSettled(works)) if (result.status === 'rejected') throw result.reason
}

/** Writes beside the final name and renames, so that half a file is never visible. The caller syncs the folder. */
export async function writeWhole (file: string, bytes: Uint8Array): Promise<void> {
  const temporary = `${file}.tmp`
  const handle = await open(temporary, 'wx', 0o600)
  try {
    await handle.writeFile(bytes)
    await handle.sync()
  } finally {
    await handle.close()
  }
  await rename(temporary, file)
}

/**
 * Puts files into a new folder that nothing refers to yet. They are durable when the promise is fulfilled; before that
 * a power failure may leave them at any length, but half of one never has its name.
 */
export async function fillFolder (
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

/** Makes the names in a folder durable. Windows cannot open folders and needs no such thing. */
export async function syncFolder (folder: string): Promise<void> {
  if (process.platform === 'win32') return
  const handle = await open(folder, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

export async function removeFolder (folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true })
}

/**
 * The absolute path of a name below `root`.
 * @throws {RangeError} when the name leads outside of it.
 */
export function inside (root: string, ...names: string[]): string {
  const path = resolve(root, join(...names))
  if (!path.startsWith(resolve(root) + sep)) throw new RangeError(`${join(...names)} lies outside of ${root}`)
  return path
}

/** Whether a name can be that of a job: those of UUIDs. */
export function isJobId (name: string): boolean {
  return /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(name)
}

/** The names in a folder; none when there is no folder. */
export async function names (folder: string): Promise<string[]> {
  try {
    return await readdir(folder)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}
