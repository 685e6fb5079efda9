import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The folder of package.json, the same whether this runs from source or from dist/. */
export const packageRoot = findUp(dirname(fileURLToPath(import.meta.url)))

function findUp (folder: string): string {
  if (existsSync(join(folder, 'package.json'))) return folder
  const parent = dirname(folder)
  if (parent === folder) throw new Error('The package has lost its package.json; install it again.')
  return findUp(parent)
}
