import closeWithGrace from 'close-with-grace'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync, rmdirSync } from 'node:fs'
import { createServer, isIP } from 'node:net'
import { join } from 'node:path'
import { createSecureContext } from 'node:tls'
import type { FastifyInstance } from 'fastify'
import type { Logger } from 'pino'
import type { CommandModule } from 'yargs'
import { CommandError, exitCodes } from '../../errors.ts'
import { prepareAuthFolder } from '../../lib/accounts/store/sqlite/database.ts'
import { describeOptions } from '../support/configuration.ts'
import { startEngines } from '../../lib/engine/start.ts'
import { dataFolders, modelFolderOptions, modelRoots, prepareFolder } from '../../lib/options/folders.ts'
import { checkLock } from '../../lib/storage/lock.ts'
import { checkKeptSecret } from '../../lib/accounts/secrets.ts'
import { createLogger } from '../support/logger.ts'
import { environmentName, optionNames, optionTable, type Options } from '../../lib/options/options.ts'
import { readablePattern } from '../../lib/http/public-paths.ts'
import { tellServiceManager } from '../support/service-manager.ts'
import { collectGarbage, compileTicks } from '../support/warm-up.ts'
import { checkDatabases } from '../support/check-databases.ts'
import { tracedOptionsOf, withOptions } from '../support/command-options.ts'
import { say } from '../support/say.ts'
import { withThrowawayApp } from '../support/throwaway-app.ts'
import { askHealth } from './health.ts'

export const serve: CommandModule = {
  builder: yargs => withOptions(yargs).options({
    'check-config': {
      group: 'Output:',
      type: 'boolean',
      conflicts: 'print-config',
      describe: 'Say whether the server could start with these options, and do not start it'
    },
    'print-config': {
      group: 'Output:',
      type: 'boolean',
      describe: 'Print the options in force as a configuration file, and where each comes from'
    }
  }),
  handler: async argv => {
    const traced = tracedOptionsOf(argv)
    if (argv['print-config'] === true) say(describeOptions(traced).trimEnd())
    else if (argv['check-config'] === true) await checkConfig(traced.options)
    else await startServer(traced.options)
  }
}

/**
 * What the start does until it listens, in its order and with its messages, without leaving anything behind. A running
 * server of these options may have their folders and their port.
 */
async function checkConfig (options: Options): Promise<void> {
  refuseOpenDoor(options)
  readTls(options)
  tryFolders(options)
  modelRoots(options) // that they are there; a scan of a large collection would take long
  const withoutModels = Object.fromEntries(modelFolderOptions.map(name => [name, []]))
  let metricsAddress: Address | undefined
  let open = ''
  await withThrowawayApp({ ...options, ...withoutModels }, app => {
    metricsAddress = app.metricsAddress
    open = [...app.publicRoutes].map(readablePattern).sort().join(', ')
  })
  const runs = options.port === 0 ? undefined : await askHealth(options).catch(() => undefined)
  if (runs === undefined) {
    const folders = dataFolders(options)
    checkKeptSecret(options, folders.auth)
    checkDatabases(folders)
    checkLock(join(folders.data, 'jobs.db.lock'))
    if (metricsAddress !== undefined) {
      await tryListening(metricsAddress).catch(listenError(metricsAddress, metricsOptions))
    }
    await tryListening(options).catch(listenError(options, listenOptions))
  }
  const where = `${options.host.includes(':') ? `[${options.host}]` : options.host}:${options.port}`
  say(`The configuration is good. ${where}, --auth ${options.auth}, public: ${open}` +
    `${runs === undefined ? '' : `; a server already runs at ${runs}`}`)
}

/** Makes the data folders that are missing, as the start does, and takes them away again. */
function tryFolders (options: Options): void {
  const { data, auth } = dataFolders(options)
  const made: string[] = []
  try {
    prepareFolder(data, '--data-dir', made)
    prepareAuthFolder(auth, made)
  } finally {
    for (const folder of made.reverse()) rmdirSync(folder)
  }
}

async function tryListening ({ host, port }: Address): Promise<void> {
  const server = createServer().listen({ host, port })
  try {
    await once(server, 'listening')
  } finally {
    server.close()
  }
}

const secretOptions = optionNames.filter(name => 'secret' in optionTable[name])

interface Address {
  host: string
  port: number
}

const listenOptions = ['--host', '--port'] as const
const metricsOptions = ['--metrics-listen', '--metrics-listen'] as const

/** Seconds beyond the end of the running job for closing connections and files before the process ends itself. */
const closingTime = 40
/** Seconds from the end of the running job until connections are cut: callers who wait for it are answered first. */
const connectionTime = 5

async function startServer (options: Options): Promise<void> {
  refuseOpenDoor(options)
  process.umask(0o077) // every file this makes is its owner's alone
  const logger = await createLogger(options)
  hideSecrets(logger)
  await compileTicks()
  const https = readTls(options)
  const engines = startEngines(options, logger)
  engines.catch(() => {}) // the application fails with it
  // Loading the rest takes as long as the engine takes to be ready.
  const { buildApp } = await import('../../app.ts')
  const app = await buildApp(options, { logger, https, engines })
  // Before it listens: who has seen that it does may stop it at once.
  const jobTime = options.shutdownTimeout + options.cancelGrace
  const { uninstall } = closeWithGrace({
    delay: (jobTime + closingTime) * 1000,
    logger: false,
    skip: ['SIGHUP']
  }, async ({ signal, err }) => {
    if (err !== undefined) logger.fatal({ err }, 'A defect of this program')
    else logger.info({ signal }, 'Shutting down')
    const stopping = notify('STOPPING=1', logger)
    // A connection whose answer ends just now is kept for the next request; Fastify looks for such only once.
    setInterval(() => app.server.closeIdleConnections(), 500).unref()
    // And one that says nothing at all counts as busy: no client may keep the server from ending as it should.
    setTimeout(() => app.server.closeAllConnections(), (jobTime + connectionTime) * 1000).unref()
    await app.close()
    await stopping
    if (err === undefined) process.exit(exitCodes.ok)
    process.exit(exitCodes.internal)
  })
  process.on('SIGHUP', () => reload(app, options))
  try {
    if (app.metricsAddress !== undefined) {
      await app.listenForMetrics(app.metricsAddress).catch(listenError(app.metricsAddress, metricsOptions))
    }
    await app.ready()
    collectGarbage()
    await app.listen({ host: options.host, port: options.port }).catch(listenError(options, listenOptions))
  } catch (error) {
    uninstall()
    await app.close()
    throw error
  }
  await greetFirstAdmin(app)
  logger.info(summaryOf(app))
  await notify('READY=1', logger)
}

/** The last line of the start, for a person: what is there, and how to draw the first picture. */
function summaryOf (app: FastifyInstance): string {
  const { auth } = app.config
  const folders = modelRoots(app.config).map(({ path }) => path).join(', ')
  const all = app.models.all()
  const usable = all.filter(({ blocked, error }) => (blocked ?? error) === undefined).length
  const credential = auth === 'none' ? '' : ' --token-file FILE (with an API key; docs/authentication.md)'
  const next = app.models.firstUsable('checkpoint') !== undefined
    ? `Draw: stable-diffusion-rest generate "a red fox"${serverOption(app)}${credential}`
    : folders === ''
      ? 'To draw, name a folder with models by --models-dir (docs/models.md)'
      : 'To draw, put a checkpoint there, it is found at once (docs/models.md says which can be used)'
  const models = all.length === 0 ? 'no models' : `${usable} of ${all.length} models can be used`
  return `Ready at ${app.listeningOrigin}: ${models}${folders === '' ? '' : ` in ${folders}`}, ` +
    `${app.engineInfo.engine} engine on ${app.engineInfo.device}, data in ${app.folders.data}. ${next}`
}

/** What `generate` has to be told to find this server. */
function serverOption ({ config: { port, tlsCert }, listeningOrigin }: FastifyInstance): string {
  return port === 8080 && tlsCert === undefined ? '' : ` --server ${listeningOrigin}`
}

async function notify (state: 'READY=1' | 'STOPPING=1', logger: Logger): Promise<void> {
  const problem = await tellServiceManager(state)
  if (problem !== undefined) {
    logger.error(`systemd could not be told ${state}: ${problem}. Use Type=exec where there is no systemd-notify`)
  }
}

/** Every user of the machine can read command lines in `ps`; this one no longer shows there. */
function hideSecrets (logger: Logger): void {
  for (const name of secretOptions) {
    if (!process.argv.some(word => word === `--${name}` || word.startsWith(`--${name}=`))) continue
    process.title = 'stable-diffusion-rest'
    const file = `${name}-file` in optionTable ? `--${name}-file and ` : ''
    logger.warn(`Other users could read --${name} while the server started; ` +
      `${file}${environmentName(name)} keep${file === '' ? 's' : ''} it to yourself`)
  }
}

/** An open server on a network is a mistake unless the operator confirms it. */
function refuseOpenDoor ({ auth, host, allowInsecureBind }: Options): void {
  const isLoopback = host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'))
  if (auth === 'none' && !isLoopback && !allowInsecureBind) {
    throw new CommandError(exitCodes.usage,
      `With --auth none anyone who can reach ${host} can use this server. Choose another --auth (jwt, for example), ` +
      'listen on 127.0.0.1, or say --allow-insecure-bind if that is what you want.')
  }
}

function readTls ({ tlsCert, tlsKey }: Options): { cert: Buffer, key: Buffer } | null {
  if ((tlsCert === undefined) !== (tlsKey === undefined)) {
    throw new CommandError(exitCodes.usage, 'Expected both --tls-cert and --tls-key but received one of them')
  }
  if (tlsCert === undefined || tlsKey === undefined) return null
  try {
    const pair = { cert: readFileSync(tlsCert), key: readFileSync(tlsKey) }
    createSecureContext(pair) // throws for what is no certificate, or has the key of another
    return pair
  } catch (error) {
    throw new CommandError(exitCodes.storage,
      `The certificate ${tlsCert} cannot be used with the key ${tlsKey}: ${(error as Error).message}`)
  }
}

/**
 * SIGHUP, as from `systemctl reload`. A renewed certificate counts from the next connection on; a broken one leaves the
 * old one in place.
 */
function reload (app: FastifyInstance, options: Options): void {
  if (options.tlsCert === undefined) {
    return app.log.info('SIGHUP reads the certificate of --tls-cert again, and there is none: nothing to do')
  }
  try {
    const server = app.server as unknown as { setSecureContext: (context: object) => void }
    server.setSecureContext(readTls(options)!)
    app.log.info('The certificate was read again')
  } catch (error) {
    app.log.error({ err: error }, 'The new certificate cannot be used; the old one stays')
  }
}

/**
 * @param options the names of the options for host and port.
 * @returns a function that throws an error of listening with what to do about it.
 */
function listenError ({ host, port }: Address, [hostOption, portOption]: readonly [string, string]) {
  const reasons: Record<string, string> = {
    EADDRINUSE: `Port ${port} on ${host} is in use; choose another one with ${portOption}, or stop what listens there`,
    EACCES: `This user may not listen on port ${port}; choose one above 1023 with ${portOption}`,
    EADDRNOTAVAIL: `This machine has no address ${host}; choose one of its own with ${hostOption}`,
    EAI_AGAIN: `The host ${host} cannot be looked up now; choose an address of this machine with ${hostOption}`,
    ENOTFOUND: `The host ${host} is not known; choose an address of this machine with ${hostOption}`
  }
  return function refuse (error: NodeJS.ErrnoException): never {
    const reason = reasons[error.code ?? '']
    throw reason === undefined ? error : new CommandError(exitCodes.listen, reason, { cause: error })
  }
}

/** No default account: an empty store gets an administrator whose password is shown once, to a person only. */
async function greetFirstAdmin (app: FastifyInstance): Promise<void> {
  const { auth } = app.config
  if (!['jwt', 'optional', 'api-key'].includes(auth) || !await app.store.accounts.isEmpty()) return
  if (!process.stdout.isTTY) {
    const key = auth === 'api-key' ? ', and then a key with: stable-diffusion-rest key create --user NAME' : ''
    app.log.warn(`There are no accounts yet; make one with: stable-diffusion-rest user add NAME --role admin${key}`)
    return
  }
  const password = randomBytes(15).toString('base64url')
  const { id: userId } = await app.accounts.create({ username: 'admin', password, role: 'admin' })
  const { key } = await app.keys.create({ userId, name: 'first' })
  process.stdout.write('\n  The first account was made, with an API key. They are shown this once:\n\n' +
    (auth === 'api-key' ? '' : `    username: admin\n    password: ${password}\n`) + `    API key:  ${key}\n\n` +
    '  With a model, this draws the first picture:\n\n' +
    `    SDREST_TOKEN=${key} stable-diffusion-rest generate "a red fox"${serverOption(app)}\n\n`)
}
