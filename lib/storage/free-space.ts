import { statfs } from 'node:fs/promises'
import { apiError } from '../../errors.ts'

/** Bytes that are left to others who write to the same disk. */
const reserve = 256 * 1024 * 1024

/** Tells how many bytes there are for this user on the disk of a folder. */
export type FreeSpace = (folder: string) => Promise<number>

const freeSpace: FreeSpace = async folder => {
  const { bavail, bsize } = await statfs(folder)
  return bavail * bsize
}

/**
 * @param bytes that are still to be written.
 * @throws {ApiError} SDR_STORAGE_FULL
 */
export async function requireSpace (folder: string, bytes: number, ask: FreeSpace = freeSpace): Promise<void> {
  const free = await ask(folder)
  if (free >= bytes + reserve) return
  throw apiError('SDR_STORAGE_FULL', `The disk of the models folder has ${mebibytes(free)} MiB free; ` +
    `this needs ${mebibytes(bytes)} MiB more, and ${mebibytes(reserve)} MiB stay free.`)
}

/** Whole mebibytes; the unit in which work on files is counted. */
export function mebibytes (bytes: number): number {
  return Math.ceil(bytes / (1024 * 1024))
}
