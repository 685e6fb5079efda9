import fp from 'fastify-plugin'
import type { FastifyRequest } from 'fastify'
import { apiError, type ApiError } from '../errors.ts'
import { LoginThrottle } from '../lib/accounts/login-throttle.ts'
import type { RefusedRefresh } from '../lib/accounts/sessions.ts'
import { storageError, whenFree } from '../lib/storage/storage-errors.ts'
import { isLoginName, type CheckedAccount } from '../lib/accounts/users.ts'
import { notAdmitted } from './auth.ts'
import type { Login } from '../lib/accounts/tokens.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** How the running method checks a password; a method with no login leaves it undefined. */
    verifyLogin?: (username: string, password: string, request: FastifyRequest) => Promise<CheckedAccount | undefined>
    logins: {
      /** @throws {ApiError} 401 for a wrong name or password, 429 while backing off */
      login: (username: string, password: string, request: FastifyRequest) => Promise<Login>
      /** @throws {ApiError} 401 */
      refresh: (refreshToken: string, request: FastifyRequest) => Promise<Login>
      /** Changes the password of the caller. @throws {ApiError} 401, 409, 429 */
      changePassword: (request: FastifyRequest, current: string, next: string) => Promise<void>
    }
  }
}

const refreshRefusals: Record<RefusedRefresh['reason'] | 'unknown', () => ApiError> = {
  unknown: () => apiError('SDR_INVALID_TOKEN', 'The refresh token is not valid; log in again.'),
  reused: () => apiError('SDR_INVALID_TOKEN',
    'This refresh token was used before, so its session has been ended; log in again.'),
  'not admitted': notAdmitted
}

/** Login, refresh and password change, the same for every method that has them; `verifyLogin` is what differs. */
export default fp(async (app) => {
  const throttle = new LoginThrottle()

  /** @throws SDR_CONFLICT under a method that has no sessions */
  function verifier (): NonNullable<typeof app.verifyLogin> {
    if (app.verifyLogin !== undefined) return app.verifyLogin
    throw apiError('SDR_CONFLICT', `This server runs with --auth ${app.config.auth}, which has no logins.`)
  }

  /** @throws {ApiError} when the password is wrong, or the account or the address has to wait */
  async function check (
    username: string, password: string, request: FastifyRequest, verify: NonNullable<typeof app.verifyLogin>
  ): Promise<CheckedAccount> {
    if (!isLoginName(username)) throw apiError('SDR_INVALID_CREDENTIALS')
    const address = app.addressOf(request)
    const isKnown = () => app.sessions.addressesOf(username).some(known => app.addressOf({ ip: known }) === address)
    const wait = throttle.attempt(username, address, isKnown)
    if (wait > 0) {
      throw apiError('SDR_RATE_LIMITED', `Too many failed logins; try again in ${wait} s.`, { retryAfter: wait })
    }
    const account = await verify(username, password, request).catch(error => {
      if (error.statusCode === 503 || storageError(error) !== undefined) throttle.takeBack(username, address)
      throw error
    })
    if (account === undefined) throw apiError('SDR_INVALID_CREDENTIALS')
    throttle.succeed(username, address)
    return account
  }

  /** Runs `work`, and records its refusal. */
  async function recorded<T> (
    request: FastifyRequest, event: 'login' | 'user.password', actor: string, work: () => Promise<T>
  ): Promise<T> {
    try {
      return await work()
    } catch (thrown) {
      const error = storageError(thrown) ?? thrown as ApiError
      app.audit(request, { event, outcome: 'failure', actor, reason: error.code })
      throw error
    }
  }

  app.decorate('logins', {
    login: async (username, password, request) => await recorded(request, 'login', username, async () => {
      const account = await check(username, password, request, verifier())
      const session = await whenFree(() => app.sessions.open(account, request.ip, request.headers['user-agent'] ?? ''))
      // An account can be disabled, or get a new password, during the check.
      if (session === undefined) throw apiError('SDR_INVALID_CREDENTIALS')
      app.audit(request, { event: 'login', actor: session.user.username, subject: session.sessionId })
      return app.tokens.issue(session)
    }),

    async refresh (refreshToken, request) {
      verifier()
      const session = await whenFree(() => app.sessions.rotate(refreshToken, app.admits))
      const entry = { event: 'refresh', actor: session?.user.username ?? '', subject: session?.sessionId } as const
      if (session === undefined || session.refreshToken === null) {
        const reason = session?.reason ?? 'unknown'
        app.audit(request, { ...entry, outcome: 'failure', reason })
        throw refreshRefusals[reason]()
      }
      app.audit(request, entry)
      return app.tokens.issue(session)
    },

    changePassword: async (request, current, next) =>
      await recorded(request, 'user.password', request.principal.username, async () => {
        verifier()
        const { username, source } = request.principal
        if (source !== 'local') {
          throw apiError('SDR_CONFLICT',
            'This account belongs to the operating system; change its password there.')
        }
        // Not what the method asks: under --auth unix and pam that is the system, which may have another account of
        // this name.
        const account = await check(username, current, request,
          async (username, password) => await app.users.verify(username, password))
        await app.users.changePassword(account, next, request.principal)
        app.audit(request, { event: 'user.password', subject: username })
      })
  })
}, { name: 'login', dependencies: ['store', 'auth', 'tokens', 'audit', 'rate-limit'] })
