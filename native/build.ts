import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { appendFile, mkdir, readFile, realpath, rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { delimiter, join } from 'node:path'
import { packageRoot } from '../lib/util/package-root.ts'
import { addonNames, findAddon, lastBuild, loadAuthAddon, statusFile } from './index.ts'
import type { AddonName, BuildStatus } from './index.ts'

/**
 * Builds the addons: `node dist/native/build.js [--quiet] [-DNAME=VALUE…] [auth] [engine]`.
 *
 * `npm run build:native` shows everything, and fails when something that was wanted could not be built: auth.node, and
 * engine.node when it is named or SD_CPP_DIR says where its library is. The installation runs it with `--quiet`
 * (install.js): one line for each, and no failure, because the server works without addons. Both leave
 * build/native-build.log and build/native-status.json, from which the loader tells why an addon is missing.
 */

const usage = 'Usage: npm run build:native [-- [-DNAME=VALUE…] [auth] [engine]]'
const buildFolder = join(packageRoot, 'build')
const logFile = join(buildFolder, 'native-build.log')
const again = `\`npm run build:native\` in ${packageRoot}`
/** Milliseconds for one step; the slowest one seen took half a minute. */
const stepTimeout = 15 * 60_000
/** Characters of the output of a step that are kept. */
const longestOutput = 1 << 20

const install = process.platform === 'darwin'
  ? '`xcode-select --install` and `brew install cmake`'
  : '`sudo apt install cmake g++ make libpam0g-dev` (Debian, Ubuntu) or ' +
    '`sudo dnf install cmake gcc-c++ make pam-devel libxcrypt-devel` (Fedora)'

const purposes = { auth: '`--auth unix` or `--auth pam`', engine: '`--engine native`' }

interface BuildSystem {
  getConfigureCommand (): Promise<string[]>
  getBuildCommand (): Promise<string[]>
}

/** cmake-js has no type declarations. Its own build command tries again after a failure and says everything twice. */
const cmakeJs = createRequire(import.meta.url)('cmake-js') as {
  BuildSystem: new (options: Record<string, unknown>) => BuildSystem
}

/** What can't be built, and what to do: the text that `doctor` shows. */
class BuildFailure extends Error {}

const args = process.argv.slice(2)
const quiet = args.includes('--quiet')
const definitions = args.filter(arg => /^-D\w+=/.test(arg))
const named = addonNames.filter(name => args.includes(name))
const unknown = args.find(arg => arg !== '--quiet' && ![...definitions, ...named].includes(arg))

if (unknown !== undefined) {
  console.error(`Expected -DNAME=VALUE, ${addonNames.join(' or ')} but received ${unknown}.\n${usage}`)
  process.exitCode = 2
} else {
  await mkdir(buildFolder, { recursive: true })
  await writeFile(logFile, '')
  const status = await buildAll(named.length > 0 ? named : addonNames)
  const known = { ...await lastBuild(packageRoot), ...status }
  await writeFile(statusFile(packageRoot), `${JSON.stringify(known, null, 2)}\n`)
  if (quiet) await mention(status)
  else await summarize(status)
}

async function buildAll (names: readonly AddonName[]): Promise<BuildStatus> {
  const status: BuildStatus = {}
  let configured: Promise<void> | undefined
  for (const name of names) {
    try {
      await (configured ??= configure())
      await compile(name)
      status[name] = { built: true }
    } catch (error) {
      if (!(error instanceof BuildFailure)) throw error
      status[name] = { built: false, reason: error.message }
    }
  }
  return status
}

async function configure (): Promise<void> {
  if (process.platform === 'win32') throw new BuildFailure('the addons need Linux or macOS.')
  const missing = [['cmake'], ['g++', 'clang++'], ['ninja', 'make']].find(tools => !tools.some(isInPath))
  if (missing) throw new BuildFailure(`${missing.join(' or ')} is not installed. Type ${install}, then ${again}.`)
  await forgetOtherBuild()
  const command = await new cmakeJs.BuildSystem({ directory: packageRoot, noLog: true }).getConfigureCommand()
  await run([...command, ...definitions], 'cmake cannot configure the build')
}

async function compile (name: AddonName): Promise<void> {
  // What a failed build leaves must not be taken for its result.
  await rm(join(buildFolder, 'Release', `${name}.node`), { force: true })
  const skipped = await readIfThere(join(buildFolder, `${name}.skipped`))
  if (skipped !== undefined) throw new BuildFailure(skipped.trim())
  const command = await new cmakeJs.BuildSystem({
    directory: packageRoot, noLog: true, target: name, parallel: availableParallelism()
  }).getBuildCommand()
  await run(command, `${name}.node does not compile`)
}

/** CMake refuses a cache of another folder (a copied tree) or of another generator (ninja was installed since). */
async function forgetOtherBuild (): Promise<void> {
  const file = join(buildFolder, 'CMakeCache.txt')
  const cache = await readIfThere(file)
  if (cache === undefined) return
  const entry = (name: string) => new RegExp(`^${name}:INTERNAL=(.*)$`, 'm').exec(cache)?.[1]
  if (entry('CMAKE_HOME_DIRECTORY') === await realpath(packageRoot) &&
    (entry('CMAKE_GENERATOR') === 'Ninja') === isInPath('ninja')) return
  await rm(file)
  await rm(join(buildFolder, 'CMakeFiles'), { recursive: true, force: true })
}

/** Runs a step to its end; what it prints goes to the log, and to the terminal unless the build is quiet. */
async function run (command: string[], failure: string): Promise<void> {
  let output = ''
  const ending = await new Promise<string>((resolve) => {
    const child = spawn(command[0]!, command.slice(1), {
      cwd: buildFolder, stdio: ['ignore', 'pipe', 'pipe'], timeout: stepTimeout
    })
    for (const [stream, terminal] of [[child.stdout, process.stdout], [child.stderr, process.stderr]] as const) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        if (!quiet) terminal.write(text)
        if (output.length < longestOutput) output += text
      })
    }
    child.once('error', error => resolve(error.message))
    child.once('close', (code, signal) => resolve(code === 0 ? '' : `ended with ${signal ?? `exit code ${code}`}`))
  })
  await appendFile(logFile, `$ ${command.join(' ')}\n${output}`)
  if (ending === '') return
  const firstError = /^.*\berror\b[: ].*(?:\n .*)?/im.exec(output)?.[0].replace(/\s+/g, ' ').slice(0, 300) ?? ending
  throw new BuildFailure(`${failure}: ${firstError} (${logFile} has everything). When that is solved, type ${again}.`)
}

/** For people who called it. What was not wanted is no failure. */
async function summarize (status: BuildStatus): Promise<void> {
  for (const name of addonNames) {
    if (status[name] === undefined) continue
    const { built, reason } = status[name]
    if (!built && isWanted(name)) process.exitCode = 1
    console.log(`${name}.node`.padEnd(12), built ? await describe(name) : `not built: ${reason}`)
  }
}

async function describe (name: AddonName): Promise<string> {
  const found = await findAddon(name)
  // Not a failure of the build: an image for another machine is built where the driver of its graphics card is missing.
  if (!found.ok) return `built, but it does not load on this machine. ${found.reason}`
  if (name !== 'auth') return `built: ${found.path}`
  const addon = await loadAuthAddon()
  const lines = [`built: ${found.path}`]
  if (!addon.pamSupport) lines.push(`  Without PAM: ${addon.pamProblem()}.`)
  if (!addon.unixSupport) lines.push(`  Without Unix accounts: ${addon.unixProblem()}.`)
  return lines.join('\n')
}

/** For an installation: a line for what was wanted and is not there. */
async function mention (status: BuildStatus): Promise<void> {
  for (const name of addonNames) {
    if (status[name]?.built !== false || !isWanted(name) || (await findAddon(name)).ok) continue
    console.log(`${name}.node, which ${purposes[name]} needs, was not built: ${status[name].reason}`)
  }
}

/** The engine needs a library that few have, so it is wanted only by those who say where that is. */
function isWanted (name: AddonName): boolean {
  return name === 'auth' || named.includes('engine') || Boolean(process.env.SD_CPP_DIR) ||
    definitions.some(definition => definition.startsWith('-DSD_CPP_DIR='))
}

function isInPath (program: string): boolean {
  return (process.env.PATH ?? '').split(delimiter).some(folder => folder !== '' && existsSync(join(folder, program)))
}

async function readIfThere (file: string): Promise<string | undefined> {
  return existsSync(file) ? await readFile(file, 'utf8') : undefined
}
