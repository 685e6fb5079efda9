import fastifyAuth from '@fastify/auth'
import fp from 'fastify-plugin'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Credential } from '../lib/accounts/credentials.ts'
import { Guard } from '../lib/accounts/guard.ts'
import type { Principal } from '../lib/accounts/principals.ts'
import { routeOf } from '../lib/http/access-log.ts'
import { guarded } from '../lib/util/rarely.ts'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Gives power that may last, an account or a password: not for API keys that expire. */
    isLasting?: boolean
  }
  interface FastifyRequest {
    principal: Principal
    credential: Credential | undefined
  }
  interface FastifyInstance {
    guard: Guard<FastifyRequest, FastifyReply>
  }
}

/** Milliseconds between two looks at whether the caller of a long request (events, ?wait=) may still go on. */
const reviewInterval = 5000

/** The guard; the plugin of the running method adds its hook. */
export default fp(async (app) => {
  await app.register(fastifyAuth)
  app.decorateRequest('principal')
  app.decorateRequest('credential')
  const { config: options, publicRoutes, store: { sessions }, keys } = app
  const guard = new Guard<FastifyRequest, FastifyReply>({
    anyOf (verifiers) {
      const authenticate = app.auth(verifiers, { relation: 'or' })
      return (request, reply, done) => authenticate.call(app, request, reply as FastifyReply, done)
    },
    options,
    publicRoutes,
    sessions,
    keys,
    decided (request, error) {
      app.accessLog(request, error)
      app.metrics.decided(request.credential?.kind ?? 'none', error === undefined ? 'allowed' : error.code)
    },
    async refused (request, error) {
      const answer = await app.rateLimits.countRefused(request, error)
      // A refused credential is worth a record; a caller without any is not.
      if (answer === error && (request.credential !== undefined || error.code === 'SDR_AMBIGUOUS_CREDENTIALS')) {
        const subject = `${request.method} ${routeOf(request) ?? 'unknown URL'}`
        await app.audit(request, { event: 'access', outcome: 'failure', subject, reason: error.code })
      }
      return answer
    }
  })
  app.decorate('guard', guard)

  // A body may take minutes to come, and what its caller may do can have changed since the guard saw the headers.
  app.addHook('preHandler', (request, _reply, done) => {
    try {
      const decided = request.principal !== undefined && request.body != null ? guard.decideAgain(request) : undefined
      if (decided instanceof Promise) decided.then(() => done(), done)
      else done()
    } catch (error) {
      done(error as Error)
    }
  })

  const timer = setInterval(guarded(app.log, 'Whether callers of long requests may go on cannot be asked',
    () => guard.openAnswers.review()), reviewInterval).unref()
  app.addHook('onClose', async () => clearInterval(timer))
}, {
  name: 'guard',
  dependencies: ['access-log', 'audit', 'config', 'errors', 'metrics', 'public-routes', 'rate-limit', 'accounts']
})
