import { accessSync, constants, existsSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join, parse } from 'node:path'
import { CommandError, exitCodes } from '../../errors.ts'
import { systemReason } from '../../lib/util/text.ts'

/** `fox.png` → `fox-1.png`, `fox-2.png`… where there are several. @param index from 0 */
export function numbered (file: string, index: number, count: number): string {
  const { dir, name, ext } = parse(file)
  return count > 1 ? join(dir, `${name}-${index + 1}${ext}`) : file
}

/**
 * Says before anything is drawn whether the file can be saved.
 * @throws {CommandError} when it is there, unless `replaces`, or when it or its folder cannot be written
 */
export function refuseUnwritable (file: string, replaces: boolean): void {
  const dir = dirname(file)
  if (!existsSync(dir)) throw new CommandError(exitCodes.storage, `There is no folder ${dir}`)
  if (existsSync(file) && !replaces) throw exists(file)
  try {
    if (statSync(file, { throwIfNoEntry: false })?.isDirectory() === true) throw new Error(`${file} is a folder`)
    accessSync(existsSync(file) ? file : dir, constants.W_OK)
  } catch (error) {
    throw unsaved(error)
  }
}

/** @throws {CommandError} when the file is there, unless `replaces`, or cannot be written */
export function saveNew (file: string, bytes: Uint8Array, replaces: boolean): void {
  try {
    writeFileSync(file, bytes, { flag: replaces ? 'w' : 'wx' })
  } catch (error) {
    throw (error as NodeJS.ErrnoException).code === 'EEXIST' ? exists(file) : unsaved(error)
  }
}

function unsaved (error: unknown): CommandError {
  return new CommandError(exitCodes.storage, `The image cannot be saved: ${systemReason(error)}`)
}

function exists (file: string): CommandError {
  return new CommandError(exitCodes.storage,
    `${file} is there already; choose another --output, or --force to replace it`)
}
