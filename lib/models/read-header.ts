import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import { readGgufHeader } from './gguf.ts'
import { type Header, ModelFileError, readExactly } from './header.ts'
import { readSafetensorsHeader } from './safetensors.ts'

const pickleReason = 'is a PyTorch pickle, which can run any code when it is opened. ' +
  'Convert it to safetensors on a machine that you can lose, or download the safetensors version.'

const endings = {
  safetensors: ['.safetensors', '.sft'],
  gguf: ['.gguf'],
  /** Listed, and never opened beyond their first bytes. */
  pickle: ['.ckpt', '.pt', '.pth', '.bin']
} as const
export type FileFormat = keyof typeof endings

/** What the ending of a file name promises; undefined for files that are no models. */
export function formatOfName (name: string): FileFormat | undefined {
  const lower = name.toLowerCase()
  return (Object.keys(endings) as FileFormat[]).find(format => endings[format].some(ending => lower.endsWith(ending)))
}

const magicLength = 9
/** Bytes of the first read: the whole header of most LoRAs. */
const firstRead = 64 * 1024
// Never wait for a writer of a named pipe, and never follow a link that was put there since the path was checked.
const openFlags = constants.O_RDONLY | (constants.O_NONBLOCK ?? 0) | (constants.O_NOFOLLOW ?? 0)

/**
 * Reads the header of a model file by what the file holds, not by how it is named.
 * @param path real path: a symbolic link in its last part is refused.
 * @throws {ModelFileError} when the file is no model, damaged, over a limit, or a pickle.
 */
export async function readHeader (path: string): Promise<Header> {
  const handle = await open(path, openFlags)
  try {
    const stat = await handle.stat()
    if (!stat.isFile()) throw new ModelFileError('This is not a regular file.')
    const named = formatOfName(path) === 'pickle'
    const start = await readExactly(handle, Buffer.allocUnsafe(Math.min(stat.size, named ? magicLength : firstRead)), 0)
    if (looksLikePickle(start)) throw new ModelFileError(`This file ${pickleReason}`, { blocked: true })
    if (named) {
      throw new ModelFileError('The ending of this file says PyTorch pickle, but its content does not: ' +
        'such files are never loaded. Rename it to .safetensors or .gguf if it is one.', { blocked: true })
    }
    if (start.toString('latin1', 0, 4) === 'GGUF') return await readGgufHeader(handle, start, stat.size)
    return await readSafetensorsHeader(handle, start, stat.size)
  } finally {
    await handle.close()
  }
}

/** A zip archive (PyTorch ≥ 1.6) or a bare pickle (protocol 2…5), told from a safetensors length by the brace after it. */
function looksLikePickle (start: Buffer): boolean {
  if (start.length >= magicLength && start[8] === 0x7b) return false
  const zip = start.toString('latin1', 0, 4) === 'PK\x03\x04'
  return zip || (start.length > 2 && start[0] === 0x80 && start[1]! >= 2 && start[1]! <= 5)
}
