import rateLimit from '@fastify/rate-limit'
import fp from 'fastify-plugin'
import type { FastifyRequest } from 'fastify'
import { addressOf, limitedCaller, RateLimits, timeWindow, tooMany } from '../lib/http/rate-limits.ts'

declare module 'fastify' {
  interface FastifyInstance {
    rateLimits: RateLimits<FastifyRequest>
    /** The route configuration of what checks a password or a refresh token: a tight bucket for each address. */
    loginRateLimit: { max: number, timeWindow: string, keyGenerator: (request: FastifyRequest) => string }
  }
}

/**
 * Requests a minute: for each principal, or for each address where callers have no account. The plugin's hooks are
 * added to the routes, so they run after the guard and know who is asking.
 */
export default fp(async (app) => {
  const { loginRateLimit: loginMax, rateLimit: max } = app.config
  await app.register(rateLimit, {
    max,
    timeWindow,
    keyGenerator: limitedCaller,
    addHeadersOnExceeding: { 'x-ratelimit-limit': false, 'x-ratelimit-remaining': false, 'x-ratelimit-reset': false },
    errorResponseBuilder: (_request, context) => tooMany(context)
  })
  app.decorate('loginRateLimit', { max: loginMax, timeWindow, keyGenerator: addressOf })
  const limits = new RateLimits<FastifyRequest>({ max, loginMax }, options => app.createRateLimit(options))
  app.decorate('rateLimits', limits)

  app.addHook('preParsing', (request, _reply, _payload, done) => {
    const isLogin = request.routeOptions.config.rateLimit === app.loginRateLimit
    const counted = limits.countAllowed(request, { isLogin })
    if (counted === undefined) done()
    else counted.then(error => done(error ?? null), done)
  })

  let isWarned = false
  app.addHook('onRequest', (request, _reply, done) => {
    const isUntrusted = !isWarned && request.headers['x-forwarded-for'] !== undefined && (request.ips?.length ?? 1) <= 1
    if (isUntrusted) {
      isWarned = true
      app.log.warn({ address: request.ip },
        'X-Forwarded-For came from an address that is not in --trust-proxy. If that is your proxy, name it there: ' +
        'until then all who come through it count as one')
    }
    done()
  })
}, { name: 'rate-limit', dependencies: ['config'] })
