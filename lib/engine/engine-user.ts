import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { CommandError, exitCodes } from '../../errors.ts'
import { dataFolders, modelRoots } from '../options/folders.ts'
import type { Options } from '../options/options.ts'
import { enginePriority, type EngineCommand } from './child.ts'
import { engineEnvironment } from '../util/environment.ts'

/** Milliseconds for one program; a user directory may be on the network. */
const longestLook = 10_000

/** Capability bits (linux/capability.h) to become another user and to end its processes. */
const needed = { CAP_KILL: 5, CAP_SETGID: 6, CAP_SETUID: 7 }

/**
 * Runs the rest as the user `$1` with the group `$2`. Folder and umask are reset, because the user may not be able to
 * use those of the server. Priority and memory score come first: the server can't set them later. setpriv drops every
 * capability, those of the ambient set too, which a mere change of the user keeps.
 */
const becomeUser = `cd / && umask 022
{ echo ${enginePriority.outOfMemoryScore} >/proc/self/oom_score_adj; } 2>/dev/null
user=$1 group=$2; shift 2
exec nice -n ${enginePriority.niceness} setpriv --reuid="$user" --regid="$group" --init-groups \
--inh-caps=-all --ambient-caps=-all --no-new-privs -- "$@"`

/** Prints the first path that cannot be read. */
const findUnreadable = `for path; do
  if [ -d "$path" ]; then [ -r "$path" ] && [ -x "$path" ]; else [ -r "$path" ]; fi || { printf %s "$path"; exit 1; }
done`

/** Prints the first path that can be read, entered or changed. */
const findOpen = `for path; do
  if [ -r "$path" ] || [ -w "$path" ] || [ -x "$path" ]; then printf %s "$path"; exit 1; fi
done`

/**
 * Makes a command run as the user of `--engine-user`. Checks that the user exists, that the server may switch to it,
 * and that it can read the engine and the models but nothing of the accounts.
 * @throws {CommandError} (usage, storage, engine) saying what is missing.
 */
export async function withEngineUser (command: EngineCommand, options: Options): Promise<EngineCommand> {
  const { engineUser: name } = options
  if (name === undefined) return command
  if (process.platform !== 'linux') throw usage('--engine-user needs Linux')
  const user = await findUser(name)
  checkRights()
  await checkSetpriv(user)
  await checkFiles(user, command, options)
  return asUser(user, command)
}

interface User { name: string, uid: string, gid: string }

async function findUser (name: string): Promise<User> {
  const ids = await Promise.all(['-u', '-g'].map(async what => await look('id', [what, '--', name])))
  const [uid, gid] = ids.map(({ output }) => output.trim())
  if (ids.some(({ isOk }) => !isOk)) {
    throw usage(`Expected a user of this system for --engine-user but received ${JSON.stringify(name)}`)
  }
  if (uid === '0' || uid === String(process.getuid!()) || uid === String(process.geteuid!())) {
    throw usage('Expected another user than root and that of the server for --engine-user ' +
      `but received ${JSON.stringify(name)}`)
  }
  return { name, uid: uid!, gid: gid! }
}

function checkRights (): void {
  const [, effective] = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))!
  const missing = Object.entries(needed).filter(([, bit]) => (BigInt(`0x${effective}`) >> BigInt(bit) & 1n) === 0n)
  if (missing.length === 0) return
  throw usage('The server may not run its engine as another user (--engine-user): ' +
    `it lacks ${missing.map(([name]) => name).join(', ')}. ` +
    'Start it as docs/operations.md says under "A user for the engine", or without the option')
}

async function checkSetpriv (user: User): Promise<void> {
  const { isOk, output } = await lookAs(user, 'exit 0', [])
  if (isOk) return
  throw new CommandError(exitCodes.engine,
    `The engine cannot run as ${user.name} (--engine-user); ` +
    `it needs setpriv of util-linux, nice and sh: ${output.trim()}`)
}

async function checkFiles (user: User, { file, args }: EngineCommand, options: Options): Promise<void> {
  const own = await lookAs(user, findUnreadable, [file, ...args])
  if (!own.isOk) {
    throw new CommandError(exitCodes.engine,
      `The user ${user.name} (--engine-user) cannot read ${own.output}, which belongs to the engine`)
  }
  const models = await lookAs(user, findUnreadable, modelRoots(options).map(({ path }) => path))
  if (!models.isOk) {
    throw new CommandError(exitCodes.storage,
      `The user ${user.name} (--engine-user) cannot read the models folder ${models.output}. ` +
      'Give it the right to read it, and to enter the folders above')
  }
  const { data, auth } = dataFolders(options)
  const secrets = [auth, options.jwtSecretFile, options.tlsKey, join(data, 'jobs.db'), join(data, 'outputs')]
  const open = await lookAs(user, findOpen, secrets.filter(path => path !== undefined).map(path => resolve(path)))
  if (open.isOk) return
  throw new CommandError(exitCodes.storage,
    `The user ${user.name} (--engine-user) may read or change ${open.output}, which the option is to prevent. ` +
    `Type \`chmod go-rwx ${open.output}\`, or choose another user`)
}

function asUser ({ uid, gid, name }: User, { engine, file, args }: EngineCommand): EngineCommand {
  return { engine, user: name, file: '/bin/sh', args: ['-c', becomeUser, 'engine', uid, gid, file, ...args] }
}

/** Runs a shell script as the user, with paths as its arguments. */
async function lookAs (user: User, script: string, paths: string[]): Promise<Look> {
  const { file, args } = asUser(user, { engine: 'portable', file: '/bin/sh', args: ['-c', script, 'look', ...paths] })
  // Without the secrets in this environment: a user can read the environment of its processes.
  return await look(file, args, engineEnvironment(process.env, user.name))
}

interface Look { isOk: boolean, output: string }

async function look (file: string, args: string[], env = process.env): Promise<Look> {
  try {
    const { stdout } = await promisify(execFile)(file, args, { timeout: longestLook, env })
    return { isOk: true, output: stdout }
  } catch (error) {
    const { stdout = '', stderr = '', message } = error as Error & { stdout?: string, stderr?: string }
    return { isOk: false, output: stdout || stderr || message }
  }
}

function usage (message: string): CommandError {
  return new CommandError(exitCodes.usage, message)
}
