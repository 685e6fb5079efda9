import fp from 'fastify-plugin'
import { apiError } from '../errors.ts'
import { LoginThrottle } from '../lib/login-throttle.ts'
import type { User } from '../lib/users.ts'
import type { Login } from './tokens.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** How the running method checks a password; a method with no login leaves it undefined. */
    verifyLogin?: (username: string, password: string, request: FastifyRequest) => Promise<User | undefined>
    logins: {
      /** @throws {ApiError} 401 for a wrong name or password, 429 while backing off */
      login: (username: string, password: string, request: FastifyRequest) => Promise<Login>
      /** @throws {ApiError} 401 */
      refresh: (refreshToken: string) => Login
    }
  }
}

/** Login and refresh, the same for every method that has them; `verifyLogin` is what differs. */
export default fp(async (app) => {
  const throttle = new LoginThrottle()

  app.decorate('logins', {
    async login (username, password, request) {
      if (app.verifyLogin === undefined) {
        throw apiError('SDR_CONFLICT', `This server runs with --auth ${app.config.auth}, which has no login.`)
      }
      const wait = throttle.wait(username, request.ip)
      if (wait > 0) throw apiError('SDR_RATE_LIMITED', `Too many failed logins; try again in ${wait} s.`, { retryAfter: wait })
      const user = await app.verifyLogin(username, password, request)
      if (user === undefined) {
        throttle.fail(username, request.ip)
        throw apiError('SDR_INVALID_CREDENTIALS')
      }
      throttle.succeed(username)
      app.users.recordLogin(user.id)
      return app.tokens.issue(app.sessions.open(user.id, request.ip, request.headers['user-agent'] ?? ''))
    },
    refresh (refreshToken) {
      const rotated = app.sessions.rotate(refreshToken)
      if (!('reused' in rotated)) return app.tokens.issue(rotated)
      throw apiError('SDR_INVALID_TOKEN', 'This refresh token was used before, so its session has been ended; log in again.')
    }
  })
}, { name: 'login', dependencies: ['store', 'tokens'] })
