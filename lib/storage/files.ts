import { open, readdir, rename } from 'node:fs/promises'

/** Files that must be whole or absent, also after a power failure. */

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

/** The names in a folder; none when there is no folder. */
export async function names (folder: string): Promise<string[]> {
  try {
    return await readdir(folder)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}
