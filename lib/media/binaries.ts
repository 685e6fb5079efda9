import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { CommandError, exitCodes } from '../../errors.ts'
import { packageRoot } from '../util/package-root.ts'

interface Package {
  version: string
  optionalDependencies?: Record<string, string>
}

/** sharp's own package.json, which it does not export. */
function findSharp (): { folder: string, require: NodeJS.Require, sharp: Package } {
  const entry = createRequire(import.meta.url).resolve('sharp')
  const folder = dirname(dirname(entry))
  const sharp = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Package
  return { folder, require: createRequire(entry), sharp }
}

let version: string | undefined

/** Does not load it, which only image processes do. */
export function sharpVersion (): string {
  version ??= findSharp().sharp.version
  return version
}

/**
 * sharp has a package for each platform, which npm may leave out, or choose for another platform.
 * @throws {CommandError} when no package for this platform is installed.
 */
export function requireSharp (): void {
  try {
    const { folder, require, sharp } = findSharp()
    const isThere = (name: string) => {
      try {
        return require.resolve(`${name}/sharp.node`) !== ''
      } catch {
        return false // the answer, not a failure
      }
    }
    // Or it was built here.
    if (
      existsSync(join(folder, 'src', 'build', 'Release')) ||
      Object.keys(sharp.optionalDependencies ?? {}).some(isThere)
    ) return
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'MODULE_NOT_FOUND') throw error
  }
  throw new CommandError(exitCodes.storage, 'The package sharp, which decodes images, is not installed for ' +
    `${process.platform}-${process.arch}. Type \`npm install --include=optional\` in ${packageRoot}.`)
}
