import fastifyJwt from '@fastify/jwt'
import fp from 'fastify-plugin'
import { uuidv7 } from 'uuidv7'
import { apiError } from '../errors.ts'
import { rolePermissions, type AccountRole, type Permission } from '../lib/principals.ts'
import { tokenSecret } from '../lib/secrets.ts'
import type { OpenedSession } from '../lib/sessions.ts'
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
  exp: number
}

/** Issuer and audience of every token; a token of another server fails on its signature. */
const name = 'stable-diffusion-rest'

/** Milliseconds that an access token lives on after its end, for clocks that differ a little. */
const clockTolerance = 5000

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
      clockTolerance
    }
  })

  function verified (token: string): Claims {
    let claims: Claims
    try {
      claims = app.jwt.verify<Claims>(token)
    } catch (error) {
      const isExpired = (error as { code?: string }).code === 'FAST_JWT_EXPIRED'
      throw apiError(isExpired ? 'SDR_TOKEN_EXPIRED' : 'SDR_INVALID_TOKEN', undefined, { cause: error })
    }
    // What the library leaves open: a token made for another purpose, and times that are no whole seconds.
    const texts = [claims.sub, claims.sid, claims.jti]
    const isWellFormed = claims.typ === 'access' && texts.every(text => typeof text === 'string') && Number.isSafeInteger(claims.exp)
    if (!isWellFormed) throw apiError('SDR_INVALID_TOKEN')
    return claims
  }

  app.decorate('tokens', {
    async identify (credential) {
      if (credential.kind !== 'token') return undefined
      const { sub, sid } = verified(credential.value)
      const user = app.sessions.activeUser(sid, sub)
      if (user === undefined) throw apiError('SDR_INVALID_TOKEN', 'The session of this token has ended.')
      return { ...user, permissions: rolePermissions[user.role], via: 'jwt', sessionId: sid }
    },
    issue ({ sessionId, userId, refreshToken }) {
      const { id, username, role } = app.users.get(userId)
      const token = app.jwt.sign({ sub: userId, sid: sessionId, jti: uuidv7(), typ: 'access' })
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
