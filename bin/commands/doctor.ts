import { accessSync, constants, existsSync, mkdtempSync, rmdirSync, statSync } from 'node:fs'
import { createServer } from 'node:net'
import { once } from 'node:events'
import { dirname, join } from 'node:path'
import type { CommandModule } from 'yargs'
import { exitCodes } from '../../errors.ts'
import { openDatabase } from '../../lib/storage/database.ts'
import { deviceNames, findDevice } from '../../lib/engine/devices.ts'
import { withEngineUser } from '../../lib/engine/engine-user.ts'
import { EngineProcess } from '../../lib/engine/process.ts'
import { selectEngine } from '../../lib/engine/select.ts'
import { danglingTarget, dataFolders, modelRoots } from '../../lib/options/folders.ts'
import { requireSharp, sharpVersion } from '../../lib/media/binaries.ts'
import { cleanImage } from '../../lib/media/container.ts'
import { ImageProcesses } from '../../lib/media/image-processes.ts'
import { encodePng } from '../../lib/media/png-encode.ts'
import { ModelCatalog } from '../../lib/models/catalog.ts'
import { totalsByType } from '../../lib/models/listing.ts'
import type { Options } from '../../lib/options/options.ts'
import { SystemAccounts } from '../../lib/accounts/system-accounts.ts'
import { visibleRow } from '../../lib/util/text.ts'
import { findEngineAddon } from '../../native/index.ts'
import { checkDatabases } from '../support/check-databases.ts'
import { optionsOf, withOptions } from '../support/command-options.ts'
import { say } from '../support/say.ts'

interface Finding {
  /** `FAIL` keeps the server from working with these options; `warn` is worth knowing. */
  level: 'ok' | 'warn' | 'FAIL'
  text: string
}

const ok = (text: string): Finding => ({ level: 'ok', text })
const warn = (text: string): Finding => ({ level: 'warn', text })
const fail = (text: string): Finding => ({ level: 'FAIL', text })

const oldestNode = '20.20.2'

const checks: Array<[part: string, check: (options: Options) => Finding | Promise<Finding>]> = [
  ['node', checkNode],
  ['images', checkImages],
  ['database', checkSqlite],
  ['engine', checkEngine],
  ['native engine', checkNativeEngine],
  ['models', checkModels],
  ['data folder', options => checkFolder(dataFolders(options).data, '--data-dir')],
  ['accounts', options => checkFolder(dataFolders(options).auth, '--auth-data-dir')],
  ['system logins', checkSystemLogins],
  ['port', checkPort]
]

/** `doctor`: one line for each part, what to do about each problem, exit code 1 when something needed is broken. */
export const doctor: CommandModule = {
  builder: yargs => withOptions(yargs),
  handler: async argv => {
    const options = optionsOf(argv)
    const findings = new Map<string, Finding>()
    for (const [part, check] of checks) {
      const finding = await Promise.resolve()
        .then(() => check(options))
        .catch((error: Error) => fail(error.message))
      findings.set(part, finding)
      say(`${finding.level.padEnd(5)} ${part.padEnd(14)} ${finding.text}`)
    }
    const [broken] = [...findings].find(([, { level }]) => level === 'FAIL') ?? []
    if (broken !== undefined) process.exitCode = exitCodes.failure
    say(`\nNext: ${nextStep(broken, findings.get('models')!)}`)
  }
}

/** The one thing to do, for a reader who has no time for the rest. */
function nextStep (broken: string | undefined, models: Finding): string {
  if (broken !== undefined) return `mend what "${broken}" says, then type doctor with the same options again`
  if (models.level === 'ok') return 'start the server, with the same options: stable-diffusion-rest serve'
  return 'put a model into a folder and name it with --models-dir (docs/models.md says which files can be used); ' +
    'stable-diffusion-rest demo draws without one'
}

function checkNode (): Finding {
  const isEnough = process.versions.node.localeCompare(oldestNode, 'en', { numeric: true }) >= 0
  return isEnough ? ok(process.version) : fail(`${process.version}; install Node.js ${oldestNode} or newer`)
}

/** As the server does it: with a process, which loads what it needs. */
async function checkImages (): Promise<Finding> {
  requireSharp()
  const failures: string[] = []
  const processes = new ImageProcesses(reason => failures.push(reason))
  try {
    const pixel = cleanImage(await encodePng({ width: 1, height: 1, channels: 3, data: new Uint8Array(3) }))
    await processes.make(pixel, { format: 'webp' })
    return ok(`sharp ${sharpVersion()}`)
  } catch (error) {
    return fail(failures[0] ?? (error as Error).message)
  } finally {
    await processes.close()
  }
}

function checkSqlite (options: Options): Finding {
  checkDatabases(dataFolders(options))
  const database = openDatabase(':memory:', [])
  try {
    const { version } = database.prepare('SELECT sqlite_version() AS version').get() as { version: string }
    return ok(`SQLite ${version}`)
  } finally {
    database.close()
  }
}

async function checkEngine (options: Options): Promise<Finding> {
  const selected = await selectEngine({ engine: options.engine })
  const engine = new EngineProcess(await withEngineUser(selected, options))
  try {
    const info = await engine.start()
    for (const name of deviceNames(options)) findDevice(name, info)
    const { version, device, devices, capabilities } = info
    const names = devices === undefined
      ? ''
      : `; devices: ${devices.map(({ name, description }) => `${name} (${description})`).join(', ')}`
    const why = options.engine === 'auto' && selected.engine === 'portable'
      ? 'no native one, see below'
      : selected.reason
    return ok(`${selected.engine} (${why}): ${version} on ${device}${names}; can do ${capabilities.join(', ')}`)
  } finally {
    await engine.stop()
  }
}

async function checkNativeEngine ({ engine }: Options): Promise<Finding> {
  const found = await findEngineAddon()
  if (found.ok) return ok(found.path)
  return engine === 'native' ? fail(found.reason) : warn(found.reason)
}

async function checkModels (options: Options): Promise<Finding> {
  const roots = modelRoots(options)
  if (roots.length === 0) return warn('no models folder; name one with --models-dir')
  const catalog = new ModelCatalog({ roots })
  const { warnings } = await catalog.refresh()
  const all = catalog.all()
  const unusable = all.map(({ id, blocked, error }) => ({ id, reason: blocked ?? error }))
    .filter(({ reason }) => reason !== undefined).map(({ id, reason }) => `${id}: ${reason}`)
  const usable = totalsByType(all).map(({ type, count, unusable }) => ({ type, count: count - unusable }))
    .filter(({ count }) => count > 0).map(({ type, count }) => `${count} ${type}`).join(', ')
  const text = `${all.length === 0 ? 'nothing' : `${all.length - unusable.length} of ${all.length} can be used`}` +
    `${usable === '' ? '' : ` (${usable})`}, in ${roots.map(({ path }) => path).join(', ')}` +
    some('not', unusable) + some('skipped', warnings.map(({ path, message }) => `${path}: ${message}`))
  return catalog.firstUsable('checkpoint') === undefined ? warn(`no checkpoint to draw with; ${text}`) : ok(text)
}

/** The first lines of a list that may be long. */
function some (title: string, lines: string[]): string {
  if (lines.length === 0) return ''
  const more = lines.length > 3 ? `; and ${lines.length - 3} more (models list shows all)` : ''
  return `; ${title}: ${lines.slice(0, 3).map(line => visibleRow([line])).join('; ')}${more}`
}

function checkFolder (folder: string, option: string): Finding {
  if (!existsSync(folder)) {
    const obstacle = obstacleToMaking(folder)
    return obstacle === undefined
      ? ok(`${folder} will be made at the first start`)
      : fail(`${folder} cannot be made: ${obstacle}; choose another one with ${option}`)
  }
  if (!isWritable(folder)) return fail(`${folder} is not writable for this user; choose another one with ${option}`)
  const mode = statSync(folder).mode & 0o777
  const text = `${folder}, mode ${mode.toString(8).padStart(4, '0')}`
  return (mode & 0o077) === 0 ? ok(text) : warn(`${text}: others can look inside; chmod 700 ${folder}`)
}

/** Why the folder can't be made, tried in the nearest one above it that exists: rights alone don't tell it of /proc. */
function obstacleToMaking (folder: string): string | undefined {
  const target = danglingTarget(folder)
  if (target !== undefined) return `${folder} is a symbolic link to ${target}, which is missing`
  const parent = dirname(folder)
  if (!existsSync(parent)) return obstacleToMaking(parent)
  try {
    rmdirSync(mkdtempSync(join(parent, '.stable-diffusion-rest-doctor-')))
  } catch (error) {
    return `none can be made in ${parent} (${(error as NodeJS.ErrnoException).code})`
  }
}

function isWritable (folder: string): boolean {
  try {
    accessSync(folder, constants.W_OK | constants.X_OK)
    return true
  } catch {
    return false // the answer, not a failure
  }
}

async function checkSystemLogins ({ auth, pamServiceName }: Options): Promise<Finding> {
  const { unix, pam } = await new SystemAccounts().support(auth === 'pam' ? pamServiceName : undefined)
  const needed = auth === 'unix' ? unix : auth === 'pam' ? pam : true
  if (needed !== true) return fail(needed)
  const problems = [...new Set([unix, pam])].filter(problem => problem !== true)
  return problems.length === 0
    ? ok('--auth unix and pam can be used')
    : warn(`not everything of --auth unix and pam can be used: ${problems.join('; ')}`)
}

async function checkPort ({ host, port }: Options): Promise<Finding> {
  const server = createServer()
  try {
    server.listen(port, host)
    await once(server, 'listening')
    return ok(`${host}:${port} is free`)
  } catch (error) {
    return fail(`${host}:${port} cannot be used (${(error as NodeJS.ErrnoException).code}); ` +
      'choose another one with --port or --host')
  } finally {
    server.close()
  }
}
