import { close, constants, fstat, open, read } from 'node:fs'
import { promisify } from 'node:util'
import { Gate } from '../../util/gate.ts'
import { ModelFileError } from './header.ts'

/** An open file, or a buffer in a test. */
export interface Source {
  /** Bytes. */
  readonly size: number
  /** @throws {ModelFileError} when the bytes are not there. */
  read (position: number, length: number): Promise<Buffer>
}

// The callback functions take half the time of node:fs/promises, and a collection has ten thousand files.
const openFile = promisify(open)
const statFile = promisify(fstat)
const readFile = promisify(read)
const closeFile = promisify(close)

// Neither wait for the writer of a named pipe, nor follow a link that was made since the path was checked.
const flags = constants.O_RDONLY | (constants.O_NONBLOCK ?? 0) | (constants.O_NOFOLLOW ?? 0)

/** Bytes; longer reads wait for each other, or a folder of huge headers would fill the memory. */
const largeRead = 1024 * 1024
const largeReads = new Gate({ running: 2, waiting: Infinity, what: 'large model headers' })

/**
 * Opens a regular file for `work` and closes it afterwards.
 * @param path real path: its last part must not be a symbolic link.
 * @throws {ModelFileError} when it is not a regular file; errors of the file system; what `work` throws.
 */
export async function withFile<Result> (path: string, work: (source: Source) => Promise<Result>): Promise<Result> {
  const descriptor = await openFile(path, flags)
  let leave: (() => void) | undefined
  async function read (position: number, length: number): Promise<Buffer> {
    if (length > largeRead) leave ??= await largeReads.enter('')
    return await readExactly(descriptor, position, length)
  }
  try {
    const stats = await statFile(descriptor)
    if (!stats.isFile()) throw new ModelFileError('This is not a regular file.')
    return await work({ size: stats.size, read })
  } finally {
    leave?.()
    await closeFile(descriptor)
  }
}

async function readExactly (descriptor: number, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(length)
  let filled = 0
  while (filled < length) {
    const { bytesRead } = await readFile(descriptor, buffer, filled, length - filled, position + filled)
    if (bytesRead === 0) throw new ModelFileError('The file became shorter while it was read.')
    filled += bytesRead
  }
  return buffer
}
