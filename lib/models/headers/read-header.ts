import { readGgufHeader } from './gguf.ts'
import { type Header, ModelFileError } from './header.ts'
import { readSafetensorsHeader } from './safetensors.ts'
import { isIndex, readShardedHeader } from './sharded.ts'
import { type Source, withFile } from './source.ts'

const pickleReason = 'This file is a PyTorch pickle, which can run any code when it is opened. ' +
  'Convert it to safetensors on a machine that you can lose, or download the safetensors version.'

const endings = {
  safetensors: ['.safetensors', '.sft'],
  gguf: ['.gguf'],
  /** Listed, but never read beyond their first bytes. */
  pickle: ['.ckpt', '.pt', '.pth', '.bin']
} as const
export type FileFormat = keyof typeof endings

/** Format by the ending of a file name; undefined for other files. */
export function formatOfName (name: string): FileFormat | undefined {
  if (isIndex(name)) return 'safetensors'
  const lower = name.toLowerCase()
  return (Object.keys(endings) as FileFormat[]).find(format => endings[format].some(ending => lower.endsWith(ending)))
}

const magicLength = 9
/** Bytes of the first read, which holds the whole header of most LoRAs. */
const firstRead = 64 * 1024

/**
 * Reads the header of a model file. The content decides about the format, not the name.
 * @param path real path: its last part must not be a symbolic link.
 * @throws {ModelFileError} for a pickle, another format, a damaged file, or one over a limit.
 */
export async function readModelHeader (path: string): Promise<Header> {
  return (await readModel(path)).header
}

/** The same with the bytes of the file, or of all files that an index names. */
export async function readModel (path: string): Promise<{ header: Header, size: number }> {
  if (isIndex(path)) return await readShardedHeader(path, readFile)
  return await readFile(path)
}

async function readFile (path: string): Promise<{ header: Header, size: number }> {
  return await withFile(path, async source => ({
    header: await parseModelHeader(source, formatOfName(path)), size: source.size
  }))
}

/** The same for an open file; `named` is the format by its name. */
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

/** Whether a file with these first bytes, nine or more, may be a model that is not blocked. */
export function looksLikeModel (start: Buffer): boolean {
  return start.toString('latin1', 0, 4) === 'GGUF' || start[magicLength - 1] === 0x7b
}

/** A zip archive (PyTorch ≥ 1.6) or a bare pickle (protocol 2…5); a safetensors length has a brace after it. */
function looksLikePickle (start: Buffer): boolean {
  if (start.length >= magicLength && start[8] === 0x7b) return false
  const zip = start.toString('latin1', 0, 4) === 'PK\x03\x04'
  return zip || (start.length > 2 && start[0] === 0x80 && start[1]! >= 2 && start[1]! <= 5)
}
