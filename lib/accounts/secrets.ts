import { createHash, randomBytes } from 'node:crypto'
import { lstatSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { CommandError, exitCodes } from '../../errors.ts'
import { systemReason } from '../util/text.ts'

/** Bytes of an HS256 key below which guessing becomes thinkable (RFC 7518, section 3.2). */
const minimumBytes = 32

/**
 * The secret that signs access tokens: given, read from a file, or made once and kept in `folder` with mode 0600, so
 * that sessions survive a restart.
 * @throws {CommandError} when it is too short, or its file can't be read or is readable by others.
 */
export function tokenSecret (
  { jwtSecret, jwtSecretFile }: { jwtSecret?: string, jwtSecretFile?: string }, folder: string
): string {
  if (jwtSecret !== undefined && jwtSecretFile !== undefined) {
    throw new CommandError(exitCodes.usage, 'Expected one of --jwt-secret and --jwt-secret-file but received both')
  }
  if (jwtSecret !== undefined) return longEnough(jwtSecret, '--jwt-secret')
  // The mode of a file that was named is the business of its owner.
  if (jwtSecretFile !== undefined) return longEnough(readSecret(jwtSecretFile), jwtSecretFile)

  return keptOrMade(join(folder, 'jwt-secret'), 'token secret')
}

/**
 * The secret that signs links to images, made once and kept beside that of the tokens.
 * @throws {CommandError} when its file can't be read or written, or is readable by others.
 */
export function linkSecret (folder: string): string {
  return keptOrMade(join(folder, 'link-secret'), 'link secret')
}

function keptOrMade (kept: string, what: string): string {
  try {
    // `wx` lets only one of two starting processes make it; the other reads what the first one wrote.
    writeFileSync(kept, randomBytes(48).toString('base64url'), { flag: 'wx', mode: 0o600 })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') {
      throw new CommandError(exitCodes.storage,
        `The ${what} ${kept} cannot be written: ${(error as Error).message}`)
    }
  }
  return keptSecret(kept, what)
}

/**
 * Says what `tokenSecret` would of a secret that was kept, and makes none.
 * @throws {CommandError} as `tokenSecret`
 */
export function checkKeptSecret (
  { jwtSecret, jwtSecretFile }: { jwtSecret?: string, jwtSecretFile?: string }, folder: string
): void {
  const kept = join(folder, 'jwt-secret')
  const isThere = lstatSync(kept, { throwIfNoEntry: false }) !== undefined
  if (jwtSecret === undefined && jwtSecretFile === undefined && isThere) keptSecret(kept, 'token secret')
}

function keptSecret (kept: string, what: string): string {
  const secret = readSecret(kept)
  if ((statSync(kept).mode & 0o077) === 0) return longEnough(secret, kept)
  throw new CommandError(exitCodes.storage, `The ${what} ${kept} can be read by others: chmod 600 ${kept}`)
}

/** Longest secret in bytes; the same as of --jwt-secret. */
const maximumBytes = 1024

function readSecret (file: string): string {
  try {
    return readFileSync(file, 'utf8').trim()
  } catch (error) {
    throw new CommandError(exitCodes.storage, `The secret ${file} cannot be read: ${systemReason(error)}`)
  }
}

function longEnough (secret: string, source: string): string {
  const bytes = Buffer.byteLength(secret)
  if (bytes < minimumBytes) {
    throw new CommandError(exitCodes.usage,
      `Expected at least ${minimumBytes} bytes for ${source} but received ${bytes}; ` +
      '"openssl rand -base64 48" makes a good one')
  }
  // A key pair or certificate is half public, and the library would not take it for the bytes of a secret.
  if (bytes > maximumBytes || secret.includes('-----BEGIN') || /^[[{]/.test(secret)) {
    throw new CommandError(exitCodes.usage,
      `Expected at most ${maximumBytes} random bytes for ${source} ` +
      `but received ${bytes > maximumBytes ? bytes : 'a key pair, certificate or JSON'}; ` +
      '"openssl rand -base64 48" makes a good one')
  }
  return secret
}

/** Enough for a text of 256 random bits, which a password is not. */
export function sha256 (text: string): Buffer {
  return createHash('sha256').update(text).digest()
}
