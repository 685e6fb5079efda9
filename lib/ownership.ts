import { accessSync, constants, existsSync, statSync } from 'node:fs'
import { userInfo } from 'node:os'
import { dirname } from 'node:path'

/** The path itself, or the nearest folder above it that exists. */
function nearestExisting (path: string): string {
  return existsSync(path) || dirname(path) === path ? path : nearestExisting(dirname(path))
}

/**
 * Lets a command that root runs in the folder of a service user go on as that user, for good: what root made there, the
 * service could not open. Does nothing for other users, and in folders of root.
 */
export function actAsOwnerOf (folder: string): void {
  if (process.getuid?.() !== 0) return
  const { uid, gid } = statSync(nearestExisting(folder))
  if (uid === 0) return
  process.setgroups!([gid])
  process.setgid!(gid)
  process.setuid!(uid)
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
