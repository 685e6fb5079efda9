import { BlockList, isIP } from 'node:net'

/** Addresses that no public network leads to, or that are not assigned. IANA special-purpose registries, 2026. */
const specialIpv4 = new BlockList()
for (const [network, prefix] of [
  ['0.0.0.0', 8], ['10.0.0.0', 8], ['100.64.0.0', 10], ['127.0.0.0', 8], ['169.254.0.0', 16], ['172.16.0.0', 12],
  ['192.0.0.0', 24], ['192.0.2.0', 24], ['192.88.99.0', 24], ['192.168.0.0', 16], ['198.18.0.0', 15],
  ['198.51.100.0', 24], ['203.0.113.0', 24], ['224.0.0.0', 4], ['240.0.0.0', 4]
] as const) specialIpv4.addSubnet(network, prefix)
/**
 * Public addresses at which Azure and Equinix Metal answer their own machines, about the machine and its secrets. Other
 * clouds use addresses of the ranges above (169.254.169.254, Alibaba 100.100.100.200, Oracle 192.0.0.192), or unique
 * local ones in IPv6 (fd00:ec2::254, fd20:ce::254), which are not public.
 */
for (const address of ['168.63.129.16', '192.80.8.124']) specialIpv4.addAddress(address)

/** Public IPv6 addresses begin with 001; these parts of them are special, or embed an IPv4 address. */
const globalIpv6 = new BlockList()
globalIpv6.addSubnet('2000::', 3, 'ipv6')
const specialIpv6 = new BlockList()
for (const [network, prefix] of [['2001::', 23], ['2001:db8::', 32], ['2002::', 16], ['3fff::', 20]] as const) {
  specialIpv6.addSubnet(network, prefix, 'ipv6')
}

export function isPublicAddress (address: string): boolean {
  switch (isIP(address)) {
    case 4: return !specialIpv4.check(address)
    case 6: return globalIpv6.check(address, 'ipv6') && !specialIpv6.check(address, 'ipv6')
    default: return false
  }
}
