import rateLimit, { normalizeIP } from '@fastify/rate-limit'
import fp from 'fastify-plugin'
import type { FastifyRequest } from 'fastify'
import { apiError } from '../errors.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** Counts a refused request of an address. @throws {ApiError} 429 when there were too many. */
    countRefusal: (request: FastifyRequest) => Promise<void>
    /** The route configuration of login and refresh: a tight bucket for each address. */
    loginRateLimit: { max: number, timeWindow: string, keyGenerator: (request: FastifyRequest) => string, groupId: string }
  }
}

const timeWindow = '1 minute'

/** Longest prefix of an IPv6 address that one customer usually gets. */
const ipv6Subnet = 64

/**
 * Requests a minute: for each principal, or for each address where nobody in particular asks. The plugin's hooks are
 * added to the routes, so they run after the guard and know who is asking.
 */
export default fp(async (app) => {
  const addressOf = (request: FastifyRequest) => normalizeIP(request.ip, ipv6Subnet)
  await app.register(rateLimit, {
    max: app.config.rateLimit,
    timeWindow,
    keyGenerator (request: FastifyRequest) {
      const { via, id } = request.principal
      return via === 'none' || via === 'guest' ? addressOf(request) : id
    },
    errorResponseBuilder: (_request, { max, ttl }) => tooMany(max, ttl)
  })

  const refusals = app.createRateLimit({ max: app.config.loginRateLimit, timeWindow, keyGenerator: addressOf })
  app.decorate('countRefusal', async request => {
    const limit = await refusals(request)
    if (!limit.isAllowed && limit.isExceeded) throw tooMany(limit.max, limit.ttl)
  })
  app.decorate('loginRateLimit', { max: app.config.loginRateLimit, timeWindow, keyGenerator: addressOf, groupId: 'login' })
}, { name: 'rate-limit', dependencies: ['config'] })

function tooMany (max: number, ttl: number) {
  const retryAfter = Math.max(1, Math.ceil(ttl / 1000))
  return apiError('SDR_RATE_LIMITED', `At most ${max} of these requests a minute; try again in ${retryAfter} s.`, { retryAfter })
}
