import { accessSync, constants, existsSync, statSync } from 'node:fs'
import { userInfo } from 'node:os'
import { dirname } from 'node:path'
import { CommandError, exitCodes } from '../../errors.ts'
import { packageRoot } from '../util/package-root.ts'

/** Missing in the types of Node.js. */
const { initgroups } = process as unknown as { initgroups: (uid: number, gid: number) => void }

/** The path itself, or the nearest folder above it that exists. */
function nearestExisting (path: string): string {
  return existsSync(path) || dirname(path) === path ? path : nearestExisting(dirname(path))
}

/** Whose a folder is, or will be when it is missing. */
function ownerOf (folder: string): { uid: number, gid: number } {
  return statSync(nearestExisting(folder))
}

const isRoot = (): boolean => process.getuid?.() === 0

/** Whether root would leave files in this folder that its owner cannot open. */
export function isForeignToRoot (folder: string): boolean {
  return isRoot() && ownerOf(folder).uid !== 0
}

export function haveOneOwner (folders: readonly string[]): boolean {
  return new Set(folders.map(folder => ownerOf(folder).uid)).size <= 1
}

/**
 * Lets a command that root runs in the folder of a service user go on as that user, for good: what root made there, the
 * service could not open. Does nothing for other users, and in folders of root.
 * @throws {CommandError} (storage) when that user cannot read this program, which is not all in memory yet
 */
export function actAsOwnerOf (folder: string): void {
  if (!isForeignToRoot(folder)) return
  const { uid, gid } = ownerOf(folder)
  try {
    initgroups(uid, gid)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_UNKNOWN_CREDENTIAL') throw error
    process.setgroups!([gid]) // of a user that has no name here, as in containers
  }
  process.setgid!(gid)
  process.setuid!(uid)
  try {
    accessSync(packageRoot, constants.R_OK | constants.X_OK)
  } catch {
    throw new CommandError(exitCodes.storage,
      `${nearestExisting(folder)} belongs to the user with the id ${uid}, ` +
      `who cannot read this program in ${packageRoot}. ` +
      'Install it where that user can, or choose a folder of root.')
  }
}

/** Gives what root has made in a folder of another user to that user, as far as the file system knows owners. */
export async function leaveToOwner (
  chown: (uid: number, gid: number) => Promise<void>, { uid, gid }: { uid: number, gid: number }
): Promise<void> {
  if (!isRoot() || uid === 0) return
  await chown(uid, gid).catch((error: NodeJS.ErrnoException) => {
    // FAT, a share that makes root a guest, a container without that right: then owners are chosen elsewhere.
    if (!['EPERM', 'EINVAL', 'ENOTSUP', 'ENOSYS'].includes(error.code ?? '')) throw error
  })
}

/** What to type when a file or folder may not be used because it is another user's; empty when that is not so. */
export function ownershipHint (path: string): string {
  const found = nearestExisting(path)
  const { uid } = statSync(found)
  try {
    accessSync(found, constants.R_OK | constants.W_OK)
    return ''
  } catch {
    if (process.getuid?.() === uid) return ''
  }
  const { username } = userInfo()
  const owner = uid === 0 ? 'root' : `the user with the id ${uid}`
  return ` ${found} belongs to ${owner}, and this is ${username}; as root type: chown -R ${username} ${found}`
}
