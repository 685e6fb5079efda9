import { readGgufHeader } from './gguf.ts'
import { type Header, ModelFileError } from './header.ts'
import { readSafetensorsHeader } from './safetensors.ts'
import { type Source, withFile } from './source.ts'

const pickleReason = 'This file is a PyTorch pickle, which can run any code when it is opened. ' +
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

/**
 * Reads the header of a model file by what the file holds, not by how it is named.
 * @param path real path: a symbolic link in its last part is refused.
 * @throws {ModelFileError} when the file is no model, damaged, over a limit, or a pickle.
 */
export async function readModelHeader (path: string): Promise<Header> {
  return await withFile(path, async source => await parseModelHeader(source, formatOfName(path)))
}

/** The same for bytes that are open already; `named` is what the file's name promises. */
export async function parseModelHeader (source: Source, named?: FileFormat): Promise<Header> {
  const start = await source.read(0, Math.min(source.size, named === 'pickle' ? magicLength : firstRead))
  if (looksLikePickle(start)) throw new ModelFileError(pickleReason, { blocked: true })
  if (named === 'pickle') {
    throw new ModelFileError('The ending of this file says PyTorch pickle, but its content does not: ' +
      'such files are never loaded. Rename it to .safetensors or .gguf if it is one.', { blocked: true })
  }
  if (start.toString('latin1', 0, 4) === 'GGUF') return await readGgufHeader(source, start)
  return await readSafetensorsHeader(source, start)
}

/** Whether the first bytes of a file (nine or more) can be those of a model that is not blocked. */
export function looksLikeModel (start: Buffer): boolean {
  return start.toString('latin1', 0, 4) === 'GGUF' || start[magicLength - 1] === 0x7b
}

/** A zip archive (PyTorch ≥ 1.6) or a bare pickle (protocol 2…5); a safetensors length has a brace after it. */
function looksLikePickle (start: Buffer): boolean {
  if (start.length >= magicLength && start[8] === 0x7b) return false
  const zip = start.toString('latin1', 0, 4) === 'PK\x03\x04'
  return zip || (start.length > 2 && start[0] === 0x80 && start[1]! >= 2 && start[1]! <= 5)
}
