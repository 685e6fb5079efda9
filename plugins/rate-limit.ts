import rateLimit, { normalizeIP } from '@fastify/rate-limit'
import fp from 'fastify-plugin'
import type { FastifyRequest } from 'fastify'
import { apiError, type ApiError } from '../errors.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** Who counts as one caller: an IPv4 address, or the network of an IPv6 address. */
    addressOf: (request: { ip: string }) => string
    /** Whose share of a bounded resource a request takes: its principal's, or its address's where callers have no account. */
    callerOf: (request: FastifyRequest) => string
    /** Counts a request that the guard refuses. @returns the refusal, or a 429 in its place when there were too many */
    countRefusal: (request: FastifyRequest, refusal: ApiError) => Promise<ApiError>
    /** The route configuration of what checks a password or a refresh token: a tight bucket for each address. */
    loginRateLimit: { max: number, timeWindow: string, keyGenerator: (request: FastifyRequest) => string }
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
  const { loginRateLimit, rateLimit: max } = app.config
  const addressOf = ({ ip }: { ip: string }) => normalizeIP(ip, ipv6Subnet)
  function callerOf (request: FastifyRequest): string {
    const { via, id } = request.principal
    return via === 'none' || via === 'guest' ? addressOf(request) : id
  }
  app.decorate('addressOf', addressOf)
  app.decorate('callerOf', callerOf)
  await app.register(rateLimit, {
    max,
    timeWindow,
    keyGenerator: callerOf,
    addHeadersOnExceeding: { 'x-ratelimit-limit': false, 'x-ratelimit-remaining': false, 'x-ratelimit-reset': false },
    errorResponseBuilder: (_request, { max, ttl }) => tooMany(max, ttl)
  })
  app.decorate('loginRateLimit', { max: loginRateLimit, timeWindow, keyGenerator: addressOf })

  const requests = app.createRateLimit()
  const guesses = app.createRateLimit({ max: loginRateLimit, timeWindow, keyGenerator: addressOf })

  app.decorate('countRefusal', async (request, refusal) => {
    if ((refusal.statusCode ?? 500) >= 500) return refusal
    const isStranger = refusal.statusCode === 401 || refusal.statusCode === 400
    // Guessing at credentials and at URLs is what the tight bucket is for. A known route asked without any is no guess, but
    // once the bucket is full it is answered like an unknown one, or the answers would tell which routes there are.
    const isGuess = request.credential !== undefined || refusal.statusCode === 400 || request.is404
    const limit = isStranger ? await guesses(request, { increment: isGuess }) : await requests(request)
    if (limit.isAllowed) return refusal
    return limit.isExceeded || (!isGuess && limit.remaining === 0) ? tooMany(limit.max, limit.ttl) : refusal
  })

  // An unknown URL is no route, so the plugin's hooks do not see it.
  app.addHook('preParsing', (request, _reply, _payload, done) => {
    if (!request.is404) return done()
    requests(request).then(limit => done(!limit.isAllowed && limit.isExceeded ? tooMany(limit.max, limit.ttl) : null), done)
  })

  let isWarned = false
  app.addHook('onRequest', (request, _reply, done) => {
    const isUntrusted = !isWarned && request.headers['x-forwarded-for'] !== undefined && (request.ips?.length ?? 1) <= 1
    if (isUntrusted) {
      isWarned = true
      app.log.warn({ address: request.ip },
        'X-Forwarded-For came from an address that is not in --trust-proxy. If that is your proxy, name it there: until then all who come through it count as one')
    }
    done()
  })
}, { name: 'rate-limit', dependencies: ['config'] })

function tooMany (max: number, ttl: number): ApiError {
  const retryAfter = Math.max(1, Math.ceil(ttl / 1000))
  return apiError('SDR_RATE_LIMITED', `At most ${max} of these requests a minute; try again in ${retryAfter} s.`, { retryAfter })
}
