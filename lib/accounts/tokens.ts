import { uuidv7 } from 'uuidv7'
import { apiError } from '../../errors.ts'
import { rolePermissions, type AccountRole, type Permission } from '../options/permissions.ts'
import { chain, type Maybe } from '../util/maybe.ts'
import type { Credential } from './credentials.ts'
import type { Principal } from './principals.ts'
import type { OpenedSession, SessionRecords } from './store/store.ts'

/** What login and refresh answer. */
export interface Login {
  token: string
  token_type: 'Bearer'
  expires_at: string
  refresh_token: string
  user: { id: string, username: string, role: AccountRole, permissions: readonly Permission[] }
}

/** What OAuth 2.0 (RFC 6749, 5.1) calls a login. @param now milliseconds since 1970 */
export function toToken (
  { token, token_type: type, expires_at: end, refresh_token: refreshToken }: Login, now: number
) {
  const seconds = Math.max(0, Math.floor((Date.parse(end) - now) / 1000))
  return { access_token: token, token_type: type, expires_in: seconds, refresh_token: refreshToken }
}

/** What signs tokens and reads them: @fastify/jwt, as the application decorates itself with it. */
interface Jwt {
  sign: (claims: Omit<Claims, 'iat' | 'exp'>) => string
  verify: (token: string) => unknown
  decode: (token: string) => unknown
}

interface Claims {
  sub: string
  sid: string
  jti: string
  typ: string
  iat: number
  exp: number
}

/** Seconds that an access token lives on after its end, or may come from the future: clocks differ a little. */
export const clockTolerance = 5

/** Characters of an HS256 signature. */
const signatureLength = 43

/** Good tokens that are remembered, in under a megabyte: to compute the signature takes half the time of a request. */
const mostVerified = 2000

/** Access tokens: short-lived JWTs that count only while their session lives. Each request reads the role anew. */
export class AccessTokens {
  readonly #jwt: Jwt
  readonly #sessions: SessionRecords
  readonly #lifetime: number
  /**
   * Says only that a token was made here and when it expires; whether its session lives is asked at each request. By
   * signature, because a key is hashed at each look, and that is a tenth of a token.
   */
  readonly #verified = new Map<string, { token: string, claims: Claims }>()

  /** @param lifetime of a token, in seconds. */
  constructor (jwt: Jwt, sessions: SessionRecords, lifetime: number) {
    this.#jwt = jwt
    this.#sessions = sessions
    this.#lifetime = lifetime
  }

  /**
   * @returns undefined for another kind of credential.
   * @throws {ApiError} SDR_INVALID_TOKEN, SDR_TOKEN_EXPIRED
   */
  readonly identify = ({ kind, value }: Credential): Maybe<Principal> | undefined => {
    if (kind !== 'token') return undefined
    const { sub, sid } = this.#verify(value)
    return chain(this.#sessions.activeUser(sid, sub), user => {
      if (user === undefined) throw apiError('SDR_INVALID_TOKEN', 'The session of this token has ended.')
      // Name by name: spreading takes as long as all the rest of this.
      const { id, username, role, source } = user
      return { id, username, role, source, permissions: rolePermissions[role], via: 'jwt', sessionId: sid }
    })
  }

  issue ({ sessionId, user: { id, username, role }, refreshToken }: OpenedSession): Login {
    const token = this.#jwt.sign({ sub: id, sid: sessionId, jti: uuidv7(), typ: 'access' })
    const { exp } = this.#jwt.decode(token) as Claims
    return {
      token,
      token_type: 'Bearer',
      expires_at: new Date(exp * 1000).toISOString(),
      refresh_token: refreshToken,
      user: { id, username, role, permissions: rolePermissions[role] }
    }
  }

  #verify (token: string): Claims {
    const signature = token.slice(-signatureLength)
    const known = this.#verified.get(signature)
    if (known?.token === token && Date.now() < known.claims.exp * 1000) return known.claims
    this.#verified.delete(signature)
    const claims = this.#verifyAnew(token)
    if (this.#verified.size >= mostVerified) this.#verified.delete(this.#verified.keys().next().value!) // the oldest
    this.#verified.set(signature, { token, claims })
    return claims
  }

  #verifyAnew (token: string): Claims {
    let claims: Claims
    try {
      claims = this.#jwt.verify(token) as Claims
    } catch (error) {
      const isExpired = (error as { code?: string }).code === 'FAST_JWT_EXPIRED'
      throw apiError(isExpired ? 'SDR_TOKEN_EXPIRED' : 'SDR_INVALID_TOKEN', undefined, { cause: error })
    }
    // What the library leaves open: a token made for another purpose, times that are no whole seconds, and a life
    // longer than any that is given here.
    const { sub, sid, jti, typ, iat, exp } = claims
    const isWellFormed = typ === 'access' &&
      [sub, sid, jti].every(text => typeof text === 'string' && text !== '') && [iat, exp].every(Number.isSafeInteger)
    const isOfThisServer = exp - iat <= this.#lifetime && iat <= Date.now() / 1000 + clockTolerance
    if (!isWellFormed || !isOfThisServer) throw apiError('SDR_INVALID_TOKEN')
    return claims
  }
}
