import { lookup, type LookupAddress } from 'node:dns'
import { isIP, type LookupFunction } from 'node:net'
import type { AllowList } from './allow-list.ts'

/**
 * The `lookup` of a request to `url`: resolves the name, refuses it when any of its addresses is neither public nor
 * listed, and gives the checked addresses to the connection, so that the name cannot lead elsewhere in between.
 * @throws {RefusedAddress} at once when the host of the URL is such an address: no name is looked up for one.
 */
export function checkedLookup (url: URL, hosts: AllowList): LookupFunction {
  const [host, port] = [hostOf(url), portOf(url)]
  if (isIP(host) !== 0 && !hosts.allowsAddress(host, port)) throw new RefusedAddress(host, host, hosts)
  return (name, options, callback) => {
    lookup(name, { ...options, all: true }, (error, addresses: LookupAddress[]) => {
      const refused = error === null ? addresses.find(({ address }) => !hosts.allowsAddress(address, port)) : undefined
      const problem = error ?? (refused === undefined ? null : new RefusedAddress(name, refused.address, hosts))
      if (problem !== null) callback(problem, [])
      else if (options.all === true) callback(null, addresses)
      else callback(null, addresses[0]!.address, addresses[0]!.family)
    })
  }
}

/** A host leads to an address that this server must not be made to talk to. */
export class RefusedAddress extends Error {
  constructor (host: string, address: string, { option }: AllowList) {
    super(`${host} leads to ${address}, which is not public; list that address in ${option} if it is meant`)
    this.name = 'RefusedAddress'
  }
}

/** A name or an address, without brackets. */
export function hostOf ({ hostname }: URL): string {
  return hostname.replace(/^\[|\]$/g, '')
}

export function portOf ({ port, protocol }: URL): number {
  return port !== '' ? Number(port) : protocol === 'https:' ? 443 : 80
}
