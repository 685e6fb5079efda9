import { accessSync, chmodSync, constants, existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { CommandError, exitCodes } from '../../errors.ts'
import { findAddon } from '../../native/index.ts'
import { packageRoot } from '../util/package-root.ts'
import type { EngineCommand } from './child.ts'
import type { EngineName } from './engine.ts'

interface SelectedEngine extends EngineCommand {
  /** Why this one, in one line for users. */
  reason: string
}

type Candidate = { ok: true, command: EngineCommand } | { ok: false, reason: string, isBuilt?: boolean }

/** The packages of the portable engine, which are optional dependencies. */
const portablePackages = ['@qvac/diffusion-cpp', 'bare-runtime']

/**
 * Chooses the engine: the wanted one, or the native one if it loads, else the portable one.
 * @param root folder of the package.
 * @throws {CommandError} with exit code 5 when it can't be used; the message says what to type.
 */
export async function selectEngine (
  { engine, root = packageRoot }: { engine: 'auto' | EngineName, root?: string }
): Promise<SelectedEngine> {
  if (engine !== 'auto') {
    const candidate = engine === 'native' ? await findNative(root) : findPortable(root)
    if (candidate.ok) return { ...candidate.command, reason: `${engine}, as --engine says` }
    throw new CommandError(exitCodes.engine, `The ${engine} engine cannot be used: ${candidate.reason}`)
  }
  const native = await findNative(root)
  if (native.ok) return { ...native.command, reason: 'native, because it is built and loads' }
  const portable = findPortable(root)
  if (portable.ok) {
    return {
      ...portable.command,
      reason: native.isBuilt === true
        ? `portable, because the native one cannot be used: ${native.reason}`
        : 'portable; the native one is not built (doctor says what it needs)'
    }
  }
  throw new CommandError(exitCodes.engine, `There is no engine. Native: ${native.reason} Portable: ${portable.reason}`)
}

async function findNative (root: string): Promise<Candidate> {
  const addon = await findAddon('engine', { root })
  if (!addon.ok) return addon
  return withHost(root, { engine: 'native', file: process.execPath }, addon.path)
}

/** The portable engine of the package in `root`, or the reason why it can't be used on this machine. */
export function findPortable (root = packageRoot): Candidate {
  const require = createRequire(join(root, 'package.json'))
  try {
    for (const name of portablePackages) require.resolve(`${name}/package`)
  } catch {
    return { ok: false, reason: `its packages are not installed. Type \`npm install --include=optional\` in ${root}.` }
  }
  try {
    const runtime = (require('bare-runtime') as () => string)()
    makeExecutable(runtime)
    return withHost(root, { engine: 'portable', file: runtime })
  } catch (error) {
    return { ok: false, reason: `${(error as Error).message}.` }
  }
}

/** npm does not set the bit, because no command of this package links to the runtime. */
function makeExecutable (file: string): void {
  try {
    accessSync(file, constants.X_OK)
  } catch {
    try {
      chmodSync(file, 0o755)
    } catch (error) {
      const message = `${file} is not executable and this user may not change that. Type \`sudo chmod +x ${file}\``
      throw new Error(message, { cause: error })
    }
  }
}

/** Engine processes run the compiled host, even when the server runs from its TypeScript sources. */
function withHost (root: string, { engine, file }: Omit<EngineCommand, 'args'>, ...args: string[]): Candidate {
  const host = join(root, 'dist', 'lib', 'engine', 'hosts', engine, `${engine}.js`)
  if (existsSync(host)) return { ok: true, command: { engine, file, args: [host, ...args] } }
  return { ok: false, reason: `${host} is missing. Type \`npm run build\` in ${root}.` }
}
