import { isOwnPage } from '../http/origins.ts'
import { apiKeyPrefix, type Credential } from './credentials.ts'

/** A request as far as its cookie goes. */
export interface CookieRequest {
  protocol: string
  host: string
  headers: { cookie?: string, origin?: string, 'sec-fetch-site'?: string | string[] }
}

/** Characters of a Cookie header that is looked at: a page of the same host may have set others. */
const longestHeader = 16 * 1024

/**
 * With HTTPS a name that no other host of the domain can set (RFC 6265bis, 4.1.3.2). That name allows no Path but `/`:
 * below a path, beside other programs which the cookie is not for, it is one that only HTTPS can set.
 */
function nameFor ({ protocol }: Pick<CookieRequest, 'protocol'>, basePath: string | undefined): string {
  if (protocol !== 'https') return 'sdrest'
  return basePath === undefined ? '__Host-sdrest' : '__Secure-sdrest'
}

/**
 * The token or API key in the cookie that the sign-in page sets. Browsers send cookies unasked, so it counts for pages
 * of this server only, whatever --cors-origins allows.
 */
export function readSessionCookie (request: CookieRequest, basePath: string | undefined): Credential | undefined {
  const { cookie } = request.headers
  if (cookie === undefined || cookie.length > longestHeader || !isOwnPage(request)) return undefined
  const prefix = `${nameFor(request, basePath)}=`
  const pair = cookie.split(';').map(part => part.trim()).find(part => part.startsWith(prefix))
  const value = pair?.slice(prefix.length) ?? ''
  if (value === '') return undefined
  return { kind: value.startsWith(apiKeyPrefix) ? 'api-key' : 'token', value, isCookie: true }
}

/**
 * The Set-Cookie header that signs a browser in.
 * @param seconds that it lasts; until the browser ends when absent. 0 signs out.
 */
export function sessionCookie (
  request: Pick<CookieRequest, 'protocol'>, basePath: string | undefined, value: string, seconds?: number
): string {
  return [
    `${nameFor(request, basePath)}=${value}`, `Path=${basePath ?? '/'}`, 'HttpOnly', 'SameSite=Strict',
    ...(request.protocol === 'https' ? ['Secure'] : []),
    ...(seconds === undefined ? [] : [`Max-Age=${seconds}`])
  ].join('; ')
}
