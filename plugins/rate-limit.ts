import rateLimit from '@fastify/rate-limit'
import fp from 'fastify-plugin'
import type { FastifyRequest } from 'fastify'
import { apiError, type ApiError } from '../errors.ts'
import { networksOf, widestNetworkOf } from '../lib/network/addresses.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** Who counts as one caller: an IPv4 address, or the narrowest network of an IPv6 address. */
    addressOf: (request: { ip: string }) => string
    /**
     * Whose share of a bounded resource a request takes: its principal's, or its address's where callers have no
     * account. Of IPv6 that is the widest network that one customer may have, or a customer with many networks would
     * have all shares.
     */
    callerOf: (request: FastifyRequest) => string
    /** Counts a request that the guard refuses. @returns the refusal, or a 429 in its place when there were too many */
    countRefusal: (request: FastifyRequest, refusal: ApiError) => Promise<ApiError>
    /** The route configuration of what checks a password or a refresh token: a tight bucket for each address. */
    loginRateLimit: { max: number, timeWindow: string, keyGenerator: (request: FastifyRequest) => string }
  }
}

const timeWindow = '1 minute'

/**
 * How much larger the bucket of each wider network of an IPv6 address is. A customer with a whole /48 has sixteen times
 * the share of one address instead of 65,536 times; one with a /56 leaves three quarters of a /48 to its neighbours.
 */
const growth = 4

/**
 * Requests a minute: for each principal, or for each address where callers have no account. The plugin's hooks are
 * added to the routes, so they run after the guard and know who is asking.
 */
export default fp(async (app) => {
  const { loginRateLimit, rateLimit: max } = app.config
  const addressOf = ({ ip }: { ip: string }) => networksOf(ip)[0]
  const hasNoAccount = ({ principal: { via } }: FastifyRequest) => via === 'none' || via === 'guest'
  const callerOf = (request: FastifyRequest) => hasNoAccount(request)
    ? widestNetworkOf(request.ip)
    : request.principal.id
  app.decorate('addressOf', addressOf)
  app.decorate('callerOf', callerOf)
  await app.register(rateLimit, {
    max,
    timeWindow,
    keyGenerator: (request: FastifyRequest) => hasNoAccount(request) ? addressOf(request) : request.principal.id,
    addHeadersOnExceeding: { 'x-ratelimit-limit': false, 'x-ratelimit-remaining': false, 'x-ratelimit-reset': false },
    errorResponseBuilder: (_request, { max, ttl }) => tooMany(max, ttl)
  })
  app.decorate('loginRateLimit', { max: loginRateLimit, timeWindow, keyGenerator: addressOf })

  type Bucket = ReturnType<typeof app.createRateLimit>

  /** @returns the buckets of a request beside that of its address: none for IPv4 */
  function widerBuckets (max: number): (request: FastifyRequest) => Bucket[] {
    const buckets = [1, 2].map(width => app.createRateLimit({
      max: max * growth ** width, timeWindow, keyGenerator: ({ ip }) => networksOf(ip)[width]!
    }))
    return ({ ip }) => buckets.slice(0, networksOf(ip).length - 1)
  }

  /**
   * Counts a request in one bucket after the other, until one is full.
   * @param increment whether to count, or to look only
   */
  async function fill (request: FastifyRequest, buckets: Bucket[], increment = true): Promise<ApiError | undefined> {
    for (const bucket of buckets) {
      const limit = await bucket(request, { increment })
      if (limit.isAllowed) continue
      if (limit.isExceeded || (!increment && limit.remaining === 0)) return tooMany(limit.max, limit.ttl)
    }
  }

  const requests = app.createRateLimit()
  const guesses = app.createRateLimit({ max: loginRateLimit, timeWindow, keyGenerator: addressOf })
  const [widerRequests, widerLogins, widerGuesses] = [
    widerBuckets(max), widerBuckets(loginRateLimit), widerBuckets(loginRateLimit)
  ]
  const sharedRequests = (request: FastifyRequest) => hasNoAccount(request) ? widerRequests(request) : []

  app.decorate('countRefusal', async (request, refusal) => {
    if ((refusal.statusCode ?? 500) >= 500) return refusal
    const isStranger = refusal.statusCode === 401 || refusal.statusCode === 400
    if (!isStranger) return await fill(request, [requests, ...sharedRequests(request)]) ?? refusal
    // The tight bucket is for guesses of credentials and of URLs. A known route asked without any is no guess, but once
    // the bucket is full it is answered like an unknown one, or the answers would tell which routes there are.
    const isGuess = request.credential !== undefined || refusal.statusCode === 400 || request.is404
    return await fill(request, [guesses, ...widerGuesses(request)], isGuess) ?? refusal
  })

  // The plugin's hook has counted a known route in the bucket of its caller. It does not see an unknown URL, which is
  // no route.
  app.addHook('preParsing', (request, _reply, _payload, done) => {
    const isLogin = request.routeOptions.config.rateLimit === app.loginRateLimit
    const wider = isLogin ? widerLogins(request) : sharedRequests(request)
    const buckets = request.is404 ? [requests, ...wider] : wider
    if (buckets.length === 0) return done()
    fill(request, buckets).then(refusal => done(refusal ?? null), done)
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

function tooMany (max: number, ttl: number): ApiError {
  const retryAfter = Math.max(1, Math.ceil(ttl / 1000))
  return apiError('SDR_RATE_LIMITED',
    `At most ${max} of these requests a minute; try again in ${retryAfter} s.`, { retryAfter })
}
