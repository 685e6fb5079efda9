import fastifyJwt from '@fastify/jwt'
import fp from 'fastify-plugin'
import { tokenSecret } from '../lib/accounts/secrets.ts'
import { AccessTokens, clockTolerance } from '../lib/accounts/tokens.ts'

declare module 'fastify' {
  interface FastifyInstance {
    tokens: AccessTokens
  }
}

/** Issuer and audience of every token; a token of another server fails on its signature. */
const name = 'stable-diffusion-rest'

/** Signs and checks access tokens: HS256 only, every claim required. */
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
  app.decorate('tokens', new AccessTokens(app.jwt, app.store.sessions, app.config.jwtExpiration * 60))
}, { name: 'tokens', dependencies: ['store'] })
