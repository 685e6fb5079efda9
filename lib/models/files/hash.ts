import { createHash } from 'node:crypto'
import { withFile } from '../headers/source.ts'

export interface HashOptions {
  signal?: AbortSignal
  /** Called after each megabyte. */
  progress?: (done: { bytes: number, total: number }) => void
}

const chunkBytes = 1024 * 1024

/**
 * SHA-256 of a file in hexadecimal, by which model sites name files.
 * @param path real path.
 * @throws the signal's reason when aborted; {ModelFileError} when the file becomes shorter; errors of the file system.
 */
export async function hashFile (path: string, { signal, progress }: HashOptions = {}): Promise<string> {
  return await withFile(path, async source => {
    const hash = createHash('sha256')
    for (let bytes = 0; bytes < source.size;) {
      signal?.throwIfAborted()
      const chunk = await source.read(bytes, Math.min(chunkBytes, source.size - bytes))
      hash.update(chunk)
      bytes += chunk.length
      progress?.({ bytes, total: source.size })
    }
    return hash.digest('hex')
  })
}
