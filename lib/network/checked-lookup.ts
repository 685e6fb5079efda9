import { lookup, type LookupAddress } from 'node:dns'
import { isIP, type LookupFunction } from 'node:net'
import type { AllowList } from './allow-list.ts'

/**
 * The `lookup` of a request to `url`. It fails when any address of the name is neither public nor listed, and passes
 * the checked addresses to the connection, so that the name can't lead elsewhere in between.
 * @throws {PrivateAddressError} at once when the host of the URL is such an address, for which no lookup happens.
 */
export function checkedLookup (url: URL, hosts: AllowList): LookupFunction {
  const [host, port] = [hostOf(url), portOf(url)]
  if (isIP(host) !== 0 && !hosts.allowsAddress(host, port)) throw new PrivateAddressError(host, host, hosts)
  return (name, options, callback) => {
    lookup(name, { ...options, all: true }, (error, addresses: LookupAddress[]) => {
      const wrong = error === null ? addresses.find(({ address }) => !hosts.allowsAddress(address, port)) : undefined
      if (error !== null) callback(error, [])
      else if (wrong !== undefined) callback(new PrivateAddressError(name, wrong.address, hosts), [])
      else if (options.all === true) callback(null, addresses)
      else callback(null, addresses[0]!.address, addresses[0]!.family)
    })
  }
}

/** A host leads to an address that is neither public nor listed. */
export class PrivateAddressError extends Error {
  constructor (host: string, address: string, { option }: AllowList) {
    super(`${host} leads to ${address}, which is not public; list that address in ${option} if it is meant`)
    this.name = 'PrivateAddressError'
  }
}

/** A name or an address, without brackets. */
export function hostOf ({ hostname }: URL): string {
  return hostname.replace(/^\[|\]$/g, '')
}

export function portOf ({ port, protocol }: URL): number {
  return port !== '' ? Number(port) : protocol === 'https:' ? 443 : 80
}
