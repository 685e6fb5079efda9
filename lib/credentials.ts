import { apiError } from '../errors.ts'

/** The one credential that a request carries. */
export type Credential =
  | { kind: 'token', value: string }
  | { kind: 'api-key', value: string }

export const apiKeyPrefix = 'sdr_'

/** Longest credential that is looked at; a JWT of this server has under 600 characters. */
const maximumLength = 4096

/**
 * Reads `Authorization` (Bearer with a token or an API key, Basic with an API key as the password) and `X-API-Key`.
 * Nothing else can carry a credential: not the URL, which ends up in logs, and not a cookie, which browsers send unasked.
 * @param rawHeaders name, value, name, value… as they came, because Node.js drops a second Authorization header silently.
 * @throws SDR_AMBIGUOUS_CREDENTIALS for two different ones, SDR_INVALID_TOKEN for one that can't be read.
 */
export function readCredential (rawHeaders: readonly string[]): Credential | undefined {
  const found: Credential[] = []
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index]!
    // The length first: a browser sends twenty headers, and this is done for each request.
    const isAuthorization = name.length === 13 && name.toLowerCase() === 'authorization'
    const isKey = name.length === 9 && name.toLowerCase() === 'x-api-key'
    if (isAuthorization) found.push(readAuthorization(rawHeaders[index + 1]!.trim()))
    if (isKey) found.push({ kind: 'api-key', value: rawHeaders[index + 1]!.trim() })
  }
  const [first, ...others] = found
  if (first === undefined) return undefined
  if (others.some(({ value }) => value !== first.value)) throw apiError('SDR_AMBIGUOUS_CREDENTIALS')
  if (first.value.length > maximumLength) throw apiError('SDR_INVALID_TOKEN', 'The credential is too long.')
  // Generated clients send what they have under every scheme of the document; a token is none in X-API-Key.
  return found.find(({ kind }) => kind === 'token') ?? first
}

function readAuthorization (header: string): Credential {
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
      if (colon !== -1 && password.startsWith(apiKeyPrefix)) return { kind: 'api-key', value: password }
      throw apiError('SDR_INVALID_TOKEN', 'HTTP Basic carries an API key as the password; a password of an account belongs to POST /api/auth/login.')
    }
    default:
      throw apiError('SDR_INVALID_TOKEN', 'Expected "Authorization: Bearer <token or API key>" or "Authorization: Basic" with an API key as the password.')
  }
}
