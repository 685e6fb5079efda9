import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { request as httpsRequest } from 'node:https'
import type { CommandModule } from 'yargs'
import { CommandError, exitCodes } from '../../errors.ts'
import type { Options } from '../../lib/options/options.ts'
import { optionsOf, withOptions } from '../support/command-options.ts'
import { say } from '../support/say.ts'

/** Milliseconds. Docker gives the whole command five seconds. */
const timeout = 3000

/** `health`: for HEALTHCHECK of a container; asks the server that the same options start. */
export const health: CommandModule = {
  builder: yargs => withOptions(yargs),
  handler: async argv => {
    try {
      say(`${await askHealth(optionsOf(argv))} is up`)
    } catch (error) {
      // Docker knows 0 and 1.
      throw error instanceof CommandError ? new CommandError(exitCodes.failure, error.message, { cause: error }) : error
    }
  }
}

/**
 * Asks for /api/health where a server with these options on this machine listens.
 * @returns its address.
 * @throws {CommandError} when it isn't there, or drains.
 */
export async function askHealth ({ host, port, tlsCert }: Pick<Options, 'host' | 'port' | 'tlsCert'>): Promise<string> {
  if (port === 0) {
    throw new CommandError(exitCodes.usage,
      'With --port 0 the server takes any free port, where it cannot be asked; give it one')
  }
  // A server that listens on every address is asked on loopback.
  const hostname = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host
  const scheme = tlsCert === undefined ? 'http' : 'https'
  const url = `${scheme}://${hostname.includes(':') ? `[${hostname}]` : hostname}:${port}`
  // The certificate is not verified: it names the host that clients see, not this address, and nothing secret is sent.
  const begin = tlsCert === undefined ? httpRequest : httpsRequest
  const request = begin({
    hostname,
    port,
    path: '/api/health',
    agent: false,
    rejectUnauthorized: false,
    signal: AbortSignal.timeout(timeout),
    headers: { host: 'localhost' }
  }).end()
  let status: number | undefined
  try {
    const [response] = await once(request, 'response') as [IncomingMessage]
    response.on('error', () => {}).destroy()
    status = response.statusCode
  } catch (error) {
    const { code, name, message } = error as NodeJS.ErrnoException
    const reason = name === 'AbortError' ? `no answer within ${timeout / 1000} s` : code ?? message
    throw new CommandError(exitCodes.failure, `${url} is not up: ${reason}`, { cause: error })
  }
  if (status !== 200) throw new CommandError(exitCodes.failure, `${url} is not up: it answers ${status}`)
  return url
}
