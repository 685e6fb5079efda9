import fp from 'fastify-plugin'
import type { FastifyRequest } from 'fastify'
import { apiError, type ApiError } from '../errors.ts'
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
      refresh: (refreshToken: string, request: FastifyRequest) => Login
      /** Changes the password of the caller. @throws {ApiError} 401, 429 */
      changePassword: (request: FastifyRequest, current: string, next: string) => Promise<void>
    }
  }
}

/** Login, refresh and password change, the same for every method that has them; `verifyLogin` is what differs. */
export default fp(async (app) => {
  const throttle = new LoginThrottle()

  /** @throws {ApiError} when the password is wrong, or the account or the address has to wait */
  async function check (username: string, password: string, request: FastifyRequest): Promise<User> {
    if (app.verifyLogin === undefined) {
      throw apiError('SDR_CONFLICT', `This server runs with --auth ${app.config.auth}, which has no passwords.`)
    }
    const wait = throttle.wait(username, request.ip)
    if (wait > 0) throw apiError('SDR_RATE_LIMITED', `Too many failed logins; try again in ${wait} s.`, { retryAfter: wait })
    const user = await app.verifyLogin(username, password, request)
    if (user === undefined) {
      throttle.fail(username, request.ip)
      throw apiError('SDR_INVALID_CREDENTIALS')
    }
    throttle.succeed(username)
    return user
  }

  app.decorate('logins', {
    async login (username, password, request) {
      try {
        const user = await check(username, password, request)
        app.users.recordLogin(user.id)
        const session = app.sessions.open(user.id, request.ip, request.headers['user-agent'] ?? '')
        app.audit(request, { event: 'login', actor: user.username, subject: session.sessionId })
        return app.tokens.issue(session)
      } catch (error) {
        app.audit(request, { event: 'login', outcome: 'failure', actor: username, reason: (error as ApiError).code })
        throw error
      }
    },

    refresh (refreshToken, request) {
      const rotated = app.sessions.rotate(refreshToken)
      if (!('reused' in rotated)) return app.tokens.issue(rotated)
      const { username } = app.users.get(rotated.reused.userId)
      app.audit(request, { event: 'refresh', outcome: 'failure', actor: username, subject: rotated.reused.sessionId, reason: 'reused' })
      throw apiError('SDR_INVALID_TOKEN', 'This refresh token was used before, so its session has been ended; log in again.')
    },

    async changePassword (request, current, next) {
      const { id, username, sessionId } = request.principal
      const user = await check(username, current, request)
      if (user.id !== id) throw apiError('SDR_FORBIDDEN')
      await app.users.setPassword(id, next, sessionId ?? null)
      app.audit(request, { event: 'user.password', subject: username })
    }
  })
}, { name: 'login', dependencies: ['store', 'tokens', 'audit'] })
