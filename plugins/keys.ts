import fp from 'fastify-plugin'
import { apiError } from '../errors.ts'
import type { Identify } from './auth.ts'

declare module 'fastify' {
  interface FastifyInstance {
    identifyKey: Identify
  }
}

/** Recognises callers by their API key. */
export default fp(async (app) => {
  app.decorate('identifyKey', credential => {
    if (credential.kind !== 'api-key') return undefined
    const principal = app.keys.principal(credential.value)
    if (principal === undefined) {
      throw apiError('SDR_INVALID_TOKEN', 'The API key is not valid, has expired or was revoked.')
    }
    return principal
  })
}, { name: 'keys', dependencies: ['store', 'auth'] })
