import { isIP } from 'node:net'
import { CommandError, exitCodes } from '../../errors.ts'
import { isPublicAddress } from './public-address.ts'

const entryPattern = /^(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]{1,253}))(?::(\d{1,5}))?$/i

/**
 * The hosts that the operator listed: `host` with any port, or `host:port`. The owner of a name decides where it leads,
 * so a listed name opens no private address: such an address must be listed itself.
 */
export class AllowList {
  /** The option that lists them, for messages: `--webhook-hosts`. */
  readonly option: string
  readonly #entries = new Set<string>()

  /** @throws {CommandError} (usage) naming the wrong entry. */
  constructor (entries: readonly string[], option: string) {
    this.option = option
    for (const entry of entries) {
      // An IPv6 address may come without brackets when no port follows.
      const [, address, host, port] = isIP(entry) === 6 ? ['', entry] : entryPattern.exec(entry) ?? []
      const name = (address ?? host)?.toLowerCase()
      if (name === undefined || (address !== undefined && isIP(address) !== 6) || Number(port ?? 0) > 65535) {
        throw new CommandError(exitCodes.usage,
          `Expected a host or host:port for ${option} but received ${JSON.stringify(entry)}`)
      }
      this.#entries.add(port === undefined ? name : `${name} ${Number(port)}`)
    }
  }

  get isEmpty (): boolean {
    return this.#entries.size === 0
  }

  /** @param host a name or an address, without brackets. */
  has (host: string, port: number): boolean {
    const name = host.toLowerCase()
    return this.#entries.has(name) || this.#entries.has(`${name} ${port}`)
  }

  /** Whether a name may lead to this address. */
  allowsAddress (address: string, port: number): boolean {
    return isPublicAddress(address) || this.has(address, port)
  }
}
