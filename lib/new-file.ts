import { existsSync, writeFileSync } from 'node:fs'
import { join, parse } from 'node:path'
import { CommandError, exitCodes } from '../errors.ts'

/** `fox.png` → `fox-1.png`, `fox-2.png`… where there are several. @param index from 0 */
export function numbered (file: string, index: number, count: number): string {
  const { dir, name, ext } = parse(file)
  return count > 1 ? join(dir, `${name}-${index + 1}${ext}`) : file
}

/** Says so before anything is drawn. @throws {CommandError} when the file is there or its folder is not */
export function refuseExisting (file: string): void {
  const { dir } = parse(file)
  if (dir !== '' && !existsSync(dir)) throw new CommandError(exitCodes.storage, `There is no folder ${dir}`)
  if (existsSync(file)) throw exists(file)
}

/** @throws {CommandError} when the file is there, unless `replaces`, or cannot be written */
export function saveNew (file: string, bytes: Uint8Array, replaces: boolean): void {
  try {
    writeFileSync(file, bytes, { flag: replaces ? 'w' : 'wx' })
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    throw code === 'EEXIST' ? exists(file) : new CommandError(exitCodes.storage, `The image cannot be saved: ${message}`)
  }
}

function exists (file: string): CommandError {
  return new CommandError(exitCodes.storage, `${file} is there already; choose another --output, or --force to replace it`)
}
