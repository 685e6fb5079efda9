import { dirname, join } from 'node:path'
import { quoted } from '../../util/text.ts'
import { type Header, ModelFileError, beyondLimit } from './header.ts'
import { limits } from './limits.ts'
import { withFile } from './source.ts'

const indexEnding = '.safetensors.index.json'
/** Bytes of an index, and the files that it may name. */
const largestIndex = 4 * 1024 * 1024
const mostParts = 256

/** Whether a file is the index of a model whose tensors lie in several files. */
export function isIndex (path: string): boolean {
  return path.toLowerCase().endsWith(indexEnding)
}

/**
 * Reads the headers of all files that an index names, as one header. The engine follows any path in an index, so names
 * of files beside it are the only ones that are accepted.
 * @param readPart reads the header of one file, and its size.
 * @throws {ModelFileError}
 */
export async function readShardedHeader (
  index: string, readPart: (path: string) => Promise<{ header: Header, size: number }>
): Promise<{ header: Header, size: number }> {
  const tensors: Header['tensors'] = new Map()
  let metadata: Header['metadata'] | undefined
  let size = 0
  for (const name of await partsOf(index)) {
    const part = await readPart(join(dirname(index), name)).catch((error: NodeJS.ErrnoException) => {
      if (error instanceof ModelFileError) throw new ModelFileError(`Its part ${quoted(name)}: ${error.message}`)
      if (error.code !== 'ENOENT' && error.code !== 'ELOOP') throw error
      throw new ModelFileError(`Its part ${quoted(name)} is not a file beside it.`, { cause: error })
    })
    size += part.size
    metadata ??= part.header.metadata
    for (const [tensor, info] of part.header.tensors) {
      if (tensors.has(tensor)) throw new ModelFileError(`Two of its parts hold the tensor ${quoted(tensor)}.`)
      if (tensors.size === limits.tensors) throw beyondLimit(limits.tensors, 'tensors')
      tensors.set(tensor, info)
    }
  }
  return { header: { format: 'safetensors', tensors, metadata: metadata ?? new Map() }, size }
}

async function partsOf (index: string): Promise<Set<string>> {
  const text = await withFile(index, async source => {
    if (source.size > largestIndex) throw beyondLimit(largestIndex, `bytes (${source.size})`)
    return (await source.read(0, source.size)).toString('utf8')
  })
  // Of two equal keys the engine may read another one. Without these characters none can lead elsewhere.
  if (/[/\\]/.test(text)) throw new ModelFileError('The index names files in other folders.')
  const names = new Set(Object.values(weightMap(text)))
  if (names.size === 0) throw new ModelFileError('The index names no files.')
  if (names.size > mostParts) throw beyondLimit(mostParts, `parts (${names.size})`)
  for (const name of names) {
    if (typeof name === 'string' && /^[^.].{0,240}\.safetensors$/i.test(name)) continue
    throw new ModelFileError(`The index names ${quoted(name)}, which is no safetensors file.`)
  }
  return names as Set<string>
}

function weightMap (text: string): object {
  try {
    const { weight_map: map } = JSON.parse(text) as { weight_map?: unknown }
    if (typeof map === 'object' && map !== null && !Array.isArray(map)) return map
  } catch (cause) {
    throw new ModelFileError('The index is not valid JSON.', { cause })
  }
  throw new ModelFileError('The index has no weight_map.')
}
