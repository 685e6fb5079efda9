import { normalizeIP } from '@fastify/rate-limit'

/**
 * Lengths of the IPv6 prefixes that one customer gets: mostly a /64 in a mobile network, a /56 at home, a /48 at work.
 */
const prefixes = [64, 56, 48] as const

/** The networks of an IPv6 address that one customer may have, narrowest first; of IPv4 only the address. */
export function networksOf (address: string): [narrowest: string, ...wider: string[]] {
  const narrowest = normalizeIP(address, prefixes[0])
  if (!narrowest.includes(':')) return [narrowest]
  return [narrowest, ...prefixes.slice(1).map(length => `${normalizeIP(address, length)}/${length}`)]
}

/** The widest network of an address that one customer may have. */
export function widestNetworkOf (address: string): string {
  return networksOf(address).at(-1)!
}
