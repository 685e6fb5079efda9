import { isIP } from 'node:net'
import { CommandError, exitCodes } from '../../errors.ts'

/** Names of networks that Fastify knows. */
const networks = ['loopback', 'linklocal', 'uniquelocal']

/**
 * Checks the entries of --trust-proxy: addresses, networks such as 10.0.0.0/8, or names of well-known networks.
 * @returns what Fastify takes; false when no proxy is trusted
 * @throws {CommandError} (usage)
 */
export function trustedProxies (entries: readonly string[]): string[] | false {
  for (const entry of entries) {
    const [address = '', prefix, ...rest] = entry.split('/')
    const bits = isIP(address) === 6 ? 128 : isIP(address) === 4 ? 32 : 0
    // A prefix of 0 would trust every client, and so let each choose the address that limits and logs go by.
    const isNetwork = prefix === undefined || (/^\d{1,3}$/.test(prefix) && Number(prefix) > 0 && Number(prefix) <= bits)
    if (networks.includes(entry) || (bits > 0 && isNetwork && rest.length === 0)) continue
    throw new CommandError(exitCodes.usage,
      `Expected addresses, networks such as 10.0.0.0/8, or one of ${networks.join(', ')} for --trust-proxy ` +
      `but received ${JSON.stringify(entry)}`)
  }
  return entries.length > 0 && [...entries]
}
