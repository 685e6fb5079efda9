import fastifyJwt from '@fastify/jwt'
import fp from 'fastify-plugin'
import { uuidv7 } from 'uuidv7'
import { apiError } from '../errors.ts'
import { rolePermissions, type AccountRole, type Permission } from '../lib/options/permissions.ts'
import { tokenSecret } from '../lib/accounts/secrets.ts'
import type { OpenedSession } from '../lib/accounts/sessions.ts'
import type { Identify } from './auth.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** Access tokens: short-lived JWTs that count only while their session lives. */
    tokens: {
      identify: Identify
      issue: (session: OpenedSession) => Login
    }
  }
}

/** What login and refresh answer. */
export interface Login {
  token: string
  token_type: 'Bearer'
  expires_at: string
  refresh_token: string
  user: { id: string, username: string, role: AccountRole, permissions: readonly Permission[] }
}

interface Claims {
  sub: string
  sid: string
  jti: string
  typ: string
  iat: number
  exp: number
}

/** Issuer and audience of every token; a token of another server fails on its signature. */
const name = 'stable-diffusion-rest'

/** Seconds that an access token lives on after its end, or may come from the future, for clocks that differ a little. */
const clockTolerance = 5

/** Characters of an HS256 signature. */
const signatureLength = 43

/** Tokens found good that are remembered, under a megabyte of them: computing a signature at each request costs half of its time. */
const mostVerified = 2000

/** Signs and checks access tokens (HS256 only, every claim required). The role is read from the store at each request. */
export default fp(async (app) => {
  await app.register(fastifyJwt, {
    secret: tokenSecret(app.config, app.folders.auth),
    sign: { algorithm: 'HS256', iss: name, aud: name, expiresIn: `${app.config.jwtExpiration}m` },
    verify: {
      algorithms: ['HS256'],
      allowedIss: name,
      allowedAud: name,
      requiredClaims: ['iss', 'aud', 'sub', 'jti', 'sid', 'iat', 'exp', 'typ'],
      clockTolerance: clockTolerance * 1000
    }
  })

  /**
   * Says only that a token was made here and when it expires; whether its session lives is asked at each request. By
   * signature, because a key is hashed at each look, and that is a tenth of a token.
   */
  const verified = new Map<string, { token: string, claims: Claims }>()

  function verify (token: string): Claims {
    const signature = token.slice(-signatureLength)
    const known = verified.get(signature)
    if (known?.token === token && Date.now() < known.claims.exp * 1000) return known.claims
    verified.delete(signature)
    const claims = verifyAnew(token)
    if (verified.size >= mostVerified) verified.delete(verified.keys().next().value!) // the oldest
    verified.set(signature, { token, claims })
    return claims
  }

  function verifyAnew (token: string): Claims {
    let claims: Claims
    try {
      claims = app.jwt.verify<Claims>(token)
    } catch (error) {
      const isExpired = (error as { code?: string }).code === 'FAST_JWT_EXPIRED'
      throw apiError(isExpired ? 'SDR_TOKEN_EXPIRED' : 'SDR_INVALID_TOKEN', undefined, { cause: error })
    }
    // What the library leaves open: a token made for another purpose, times that are no whole seconds, and a life that is
    // longer than any that is given here.
    const { sub, sid, jti, typ, iat, exp } = claims
    const isWellFormed = typ === 'access' && [sub, sid, jti].every(text => typeof text === 'string' && text !== '') && [iat, exp].every(Number.isSafeInteger)
    const isOfThisServer = exp - iat <= app.config.jwtExpiration * 60 && iat <= Date.now() / 1000 + clockTolerance
    if (!isWellFormed || !isOfThisServer) throw apiError('SDR_INVALID_TOKEN')
    return claims
  }

  app.decorate('tokens', {
    identify (credential) {
      if (credential.kind !== 'token') return undefined
      const { sub, sid } = verify(credential.value)
      const user = app.sessions.activeUser(sid, sub)
      if (user === undefined) throw apiError('SDR_INVALID_TOKEN', 'The session of this token has ended.')
      // Name by name: spreading takes as long as all the rest of this.
      const { id, username, role, source } = user
      return { id, username, role, source, permissions: rolePermissions[role], via: 'jwt', sessionId: sid }
    },
    issue ({ sessionId, user: { id, username, role }, refreshToken }) {
      const token = app.jwt.sign({ sub: id, sid: sessionId, jti: uuidv7(), typ: 'access' })
      const { exp } = app.jwt.decode<Claims>(token)!
      return {
        token,
        token_type: 'Bearer',
        expires_at: new Date(exp * 1000).toISOString(),
        refresh_token: refreshToken,
        user: { id, username, role, permissions: rolePermissions[role] }
      }
    }
  })
}, { name: 'tokens', dependencies: ['store', 'auth'] })
