import { isIP } from 'node:net'
import { CommandError, exitCodes } from '../../errors.ts'
import { quoted } from '../util/text.ts'

/** Schemes whose host is made up by each browser, so that one entry must stand for all. */
const extensionSchemes = ['chrome-extension', 'moz-extension', 'safari-web-extension']

const webOrigin = /^https?:\/\/[^\s/?#@\\*]+$/i
const otherOrigin = /^[a-z][a-z\d+.-]*:\/\/[^\s/?#@\\*]+$/

/**
 * @param entries of --cors-origins: origins, or an extension scheme with `*` (`moz-extension://*`)
 * @returns whether a page of an origin may use this server
 * @throws {CommandError} (usage) for an entry that could never match
 */
export function originMatcher (entries: readonly string[]): (origin: string) => boolean {
  const exact = new Set<string>()
  const schemes: string[] = []
  for (const entry of entries) {
    const scheme = extensionSchemes.find(scheme => entry === `${scheme}://*`)
    const isWeb = webOrigin.test(entry)
    if (scheme !== undefined) schemes.push(`${scheme}://`)
    else if (isWeb
      ? URL.canParse(entry) && new URL(entry).origin === entry
      : otherOrigin.test(entry) && !entry.startsWith('http')) exact.add(entry)
    else {
      throw new CommandError(exitCodes.usage, `Expected origins such as https://ui.example, app://name or ${extensionSchemes[1]}://* for --cors-origins ` +
        `but received ${JSON.stringify(entry)}; only ${extensionSchemes.join(', ')} may have a *`)
    }
  }
  return origin => exact.has(origin) || schemes.some(scheme => origin.startsWith(scheme) && otherOrigin.test(origin))
}

const safeMethods = ['GET', 'HEAD', 'OPTIONS']

/**
 * Why a request that a browser may have sent for a page of another origin is refused. A form or a POST without a body
 * needs no preflight, and carries the rights of an open server, of the guest, or of the API key that HTTP Basic
 * remembers. A token or a key that the client itself put into a header outweighs the reason.
 */
export function reasonAgainstPage (
  { method, headers, host }: {
    method: string, host: string, headers: { origin?: string, 'sec-fetch-site'?: string | string[] }
  },
  isAllowedOrigin: (origin: string) => boolean
): string | undefined {
  const { origin, 'sec-fetch-site': site } = headers
  if (safeMethods.includes(method) || (origin !== undefined && isAllowedOrigin(origin))) return undefined
  if (isOwnPage({ host, headers })) return undefined
  const page = origin === undefined ? 'Pages of other origins' : `Pages of ${quoted(origin)}`
  return `${page} may not send this: the server sees Host ${quoted(host)}` +
    `${site === undefined ? '' : `, and the browser says ${quoted(`Sec-Fetch-Site: ${String(site)}`)}`}. ` +
    'If the page is of this server, let the proxy pass Host on (nginx: proxy_set_header Host $http_host;); ' +
    'for another page, --cors-origins adds its origin.'
}

/**
 * Whether a request was sent by a page of this server, or typed into the address bar. Sec-Fetch-Site goes before
 * Origin, because it is right also behind a proxy that does not pass Host on. Without both headers the request is no
 * browser's, or of one that sends them with whatever could change something.
 */
export function isOwnPage (
  { host, headers }: { host: string, headers: { origin?: string, 'sec-fetch-site'?: string | string[] } }
): boolean {
  const { origin, 'sec-fetch-site': site } = headers
  return site === undefined
    ? origin === undefined || isOriginOfHost(origin, host)
    : site === 'same-origin' || site === 'none'
}

/** Whether this host, as the Host header names it, served the page of this origin; case and default port aside. */
function isOriginOfHost (origin: string, host: string): boolean {
  if (!webOrigin.test(origin) || !/^[^\s/?#@\\]+$/.test(host)) return false
  const own = `${origin.slice(0, origin.indexOf(':'))}://${host}`
  return URL.canParse(origin) && URL.canParse(own) && new URL(origin).host === new URL(own).host
}

/**
 * @param names under which a server may be asked, besides every address
 * @returns whether a Host header is one of them. A page that rebinds its own name to 127.0.0.1 reaches an open server
 * from a visitor's browser; its Host gives it away.
 */
export function hostMatcher (names: readonly string[]): (host: string) => boolean {
  const known = new Set(names.map(name => name.toLowerCase()))
  return host => {
    const [, name = ''] = /^([^:[\]]*?|\[[\da-f:.]+\])\.?(?::\d{1,5})?$/.exec(host.toLowerCase()) ?? []
    return isIP(name.replace(/^\[|\]$/g, '')) !== 0 || known.has(name)
  }
}

/** @throws {CommandError} (usage) for an entry of --allowed-hosts that could never match */
export function checkNames (allowedHosts: readonly string[]): void {
  for (const name of allowedHosts) {
    if (/^[\w.-]+$/.test(name)) continue
    throw new CommandError(exitCodes.usage,
      `Expected host names without a port for --allowed-hosts but received ${JSON.stringify(name)}`)
  }
}
