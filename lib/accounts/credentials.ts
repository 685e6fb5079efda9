import { apiError } from '../../errors.ts'

/** The one credential that a request carries. */
export interface Credential {
  kind: 'token' | 'api-key'
  value: string
  /** Whether it came in the cookie of the sign-in page. */
  isCookie?: boolean
}

export const apiKeyPrefix = 'sdr_'

/** Longest credential that is looked at; a JWT of this server has under 600 characters. */
const maximumLength = 4096

const basicWithoutKey =
  'HTTP Basic carries an API key as the password; a password of an account belongs to POST /api/auth/login.'

/**
 * Reads `Authorization` (Bearer with a token or an API key, Basic with an API key as the password) and `X-API-Key`.
 * The URL carries none, because it ends up in logs; the cookie of the sign-in page has rules of its own.
 * @param rawHeaders name, value, name, value… as they came: Node.js drops a second Authorization header silently.
 * @throws SDR_AMBIGUOUS_CREDENTIALS for two different ones, SDR_INVALID_TOKEN for one that can't be read.
 */
export function readCredential (rawHeaders: readonly string[]): Credential | undefined {
  const found: Credential[] = []
  let unreadable: string | undefined
  for (const { name, value } of credentialHeaders(rawHeaders)) {
    const credential = name === 'x-api-key' ? { kind: 'api-key' as const, value } : readAuthorization(value)
    if (typeof credential === 'string') unreadable ??= credential
    else found.push(credential)
  }
  const [first, ...others] = found
  if (unreadable !== undefined) {
    if (first === undefined) throw apiError('SDR_INVALID_TOKEN', unreadable)
    throw apiError('SDR_AMBIGUOUS_CREDENTIALS',
      'The request carries an API key or a token, and beside it an Authorization header that is neither. ' +
      'If a proxy that asks for a password adds it, let the proxy drop it ' +
      '(nginx: proxy_set_header Authorization "";).')
  }
  if (first === undefined) return undefined
  if (others.some(({ value }) => value !== first.value)) throw apiError('SDR_AMBIGUOUS_CREDENTIALS')
  if (first.value.length > maximumLength) throw apiError('SDR_INVALID_TOKEN', 'The credential is too long.')
  // Generated clients send what they have under every scheme of the document; a token is none in X-API-Key.
  return found.find(({ kind }) => kind === 'token') ?? first
}

/**
 * Whether the request carries credentials that its client put there on purpose, and no others. Browsers add HTTP Basic
 * for pages of other origins too; they never add a Bearer token or X-API-Key, and a page that does needs a preflight.
 */
export function isSentOnPurpose (rawHeaders: readonly string[]): boolean {
  const headers = credentialHeaders(rawHeaders)
  return headers.length > 0 && headers.every(({ name, value }) => name === 'x-api-key' || /^bearer +[^ ]/i.test(value))
}

function credentialHeaders (rawHeaders: readonly string[]): Array<{ name: string, value: string }> {
  const headers = []
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const { length } = rawHeaders[index]!
    // The length first: a browser sends twenty headers, and this is done for each request.
    if (length !== 13 && length !== 9) continue
    const name = rawHeaders[index]!.toLowerCase()
    const value = rawHeaders[index + 1]!.trim()
    // Clients without credentials send an empty header, or the bare word.
    const isSaid = value !== '' && value.toLowerCase() !== 'basic'
    if (name === 'x-api-key' || (name === 'authorization' && isSaid)) headers.push({ name, value })
  }
  return headers
}

/** @returns the credential, or why the header carries none. */
function readAuthorization (header: string): Credential | string {
  const end = header.indexOf(' ')
  const value = header.slice(end).trimStart()
  const scheme = end === -1 || value.includes(' ') ? '' : header.slice(0, end).toLowerCase()
  switch (scheme) {
    case 'bearer':
      return { kind: value.startsWith(apiKeyPrefix) ? 'api-key' : 'token', value }
    case 'basic': {
      const decoded = Buffer.from(value, 'base64').toString()
      const colon = decoded.indexOf(':')
      const password = decoded.slice(colon + 1)
      return colon !== -1 && password.startsWith(apiKeyPrefix) ? { kind: 'api-key', value: password } : basicWithoutKey
    }
    default:
      return 'Expected "Authorization: Bearer <token or API key>" or "Authorization: Basic" ' +
        'with an API key as the password.'
  }
}
