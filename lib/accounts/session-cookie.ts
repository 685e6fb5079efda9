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

/** With HTTPS a name that no other host of the domain can set (RFC 6265bis, 4.1.3.2). */
function nameFor ({ protocol }: Pick<CookieRequest, 'protocol'>): string {
  return protocol === 'https' ? '__Host-sdrest' : 'sdrest'
}

/**
 * The token or API key in the cookie that the sign-in page sets. Browsers send cookies unasked, so it counts for pages
 * of this server only, whatever --cors-origins allows.
 */
export function readSessionCookie (request: CookieRequest): Credential | undefined {
  const { cookie } = request.headers
  if (cookie === undefined || cookie.length > longestHeader || !isOwnPage(request)) return undefined
  const prefix = `${nameFor(request)}=`
  const pair = cookie.split(';').map(part => part.trim()).find(part => part.startsWith(prefix))
  const value = pair?.slice(prefix.length) ?? ''
  if (value === '') return undefined
  return { kind: value.startsWith(apiKeyPrefix) ? 'api-key' : 'token', value }
}

/**
 * The Set-Cookie header that signs a browser in.
 * @param seconds that it lasts; until the browser ends when absent. 0 signs out.
 */
export function sessionCookie (request: Pick<CookieRequest, 'protocol'>, value: string, seconds?: number): string {
  return [
    `${nameFor(request)}=${value}`, 'Path=/', 'HttpOnly', 'SameSite=Strict',
    ...(request.protocol === 'https' ? ['Secure'] : []),
    ...(seconds === undefined ? [] : [`Max-Age=${seconds}`])
  ].join('; ')
}
