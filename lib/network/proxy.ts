import { BlockList, isIP } from 'node:net'
import { CommandError, exitCodes } from '../../errors.ts'
import { hostOf, portOf } from './checked-lookup.ts'

type Environment = Readonly<Record<string, string | undefined>>

export interface Proxy {
  /** Without user name and password. */
  url: URL
  /** `Proxy-Authorization`, when the address has a user name. */
  authorization: string | undefined
  /** Its name in messages: `The proxy http://proxy.example:3128 (HTTPS_PROXY)`. */
  name: string
}

const proxyVariables = {
  'https:': ['https_proxy', 'HTTPS_PROXY', 'all_proxy', 'ALL_PROXY'],
  'http:': ['http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY']
} as const

/** Entries of NO_PROXY that are read. */
const mostExemptions = 1000

/**
 * The proxy for a URL, from the environment as for curl: HTTPS_PROXY, HTTP_PROXY and ALL_PROXY, unless NO_PROXY lists
 * the host. Lower-case names come first.
 * @throws {CommandError} (usage) when the variable holds no address of a proxy.
 */
export function proxyFor (url: URL, environment: Environment = process.env): Proxy | undefined {
  const variable = proxyVariables[url.protocol as keyof typeof proxyVariables]
    .find(name => (environment[name] ?? '') !== '')
  if (variable === undefined || isExempt(url, environment.no_proxy ?? environment.NO_PROXY ?? '')) return undefined
  return readProxy(variable, environment[variable]!)
}

/** @throws {CommandError} (usage) when one of the variables holds no address of a proxy. */
export function checkProxies (environment: Environment = process.env): void {
  for (const protocol of ['http:', 'https:']) {
    proxyFor(new URL(`${protocol}//host.invalid`), { ...environment, no_proxy: '' })
  }
}

function readProxy (variable: string, text: string): Proxy {
  const address = text.includes('://') ? text : `http://${text}`
  const url = text.length <= 4096 && URL.canParse(address) ? new URL(address) : undefined
  const isPlain = url !== undefined && ['', '/'].includes(url.pathname) && url.search === '' && url.hash === ''
  const credentials = isPlain ? credentialsOf(url) : undefined
  if (!isPlain || credentials === undefined || !['http:', 'https:'].includes(url.protocol)) {
    // The value is not shown: it may hold a password.
    const scheme = url === undefined || ['http:', 'https:'].includes(url.protocol)
      ? ''
      : `; ${url.protocol}// is not supported`
    throw new CommandError(exitCodes.usage,
      `Expected http://host:port or https://host:port for the environment variable ${variable}, ` +
      `with user:password@ before the host where the proxy asks for it (in percent encoding)${scheme}`)
  }
  url.username = url.password = ''
  return {
    url,
    authorization: credentials === ':' ? undefined : `Basic ${Buffer.from(credentials).toString('base64')}`,
    name: `The proxy ${url.origin} (${variable})`
  }
}

function credentialsOf ({ username, password }: URL): string | undefined {
  try {
    return `${decodeURIComponent(username)}:${decodeURIComponent(password)}`
  } catch {
    return undefined // a percent sign that encodes nothing
  }
}

/**
 * Whether NO_PROXY lists the host: `*`, a domain with all below it, an address, a network (10.0.0.0/8), each with or
 * without a port.
 */
function isExempt (url: URL, list: string): boolean {
  const host = hostOf(url).replace(/\.$/, '')
  const port = String(portOf(url))
  return list.toLowerCase().split(/[\s,]+/, mostExemptions).some(entry => {
    // An IPv6 address needs brackets only where a port follows.
    const [, bracketed, plain, entryPort = port] =
      /^(?:\[([^\]]*)\]|([^:]*))(?::(\d{1,5}))?$/.exec(entry) ?? ['', undefined, entry]
    if (entryPort !== port) return false
    const name = (bracketed ?? plain!).replace(/^\*?\.(?=.)/, '').replace(/\.$/, '')
    if (isIP(host) !== 0) return name === '*' || isInNetwork(host, name)
    return name === '*' || host === name || (name !== '' && host.endsWith(`.${name}`))
  })
}

function isInNetwork (address: string, network: string): boolean {
  const family = isIP(address) === 6 ? 'ipv6' : 'ipv4'
  const [base = '', prefix = family === 'ipv6' ? '128' : '32'] = network.split('/')
  if (
    isIP(base) !== isIP(address) || !/^\d{1,3}$/.test(prefix) || Number(prefix) > (family === 'ipv6' ? 128 : 32)
  ) return false
  const list = new BlockList()
  list.addSubnet(base, Number(prefix), family)
  return list.check(address, family)
}
