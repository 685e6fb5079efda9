import { apiError, type ApiError } from '../../errors.ts'
import { networksOf, widestNetworkOf } from '../network/addresses.ts'

interface LimitedRequest {
  ip: string
  is404: boolean
  principal: { id: string, via: string }
  credential: unknown
}

/** Counts requests; with `increment: false` it only looks. */
type Bucket<Request> = (request: Request, options: { increment: boolean }) => Promise<
  | { isAllowed: true }
  | { isAllowed: false, isExceeded: boolean, max: number, remaining: number, ttl: number }>

interface BucketOptions<Request> {
  max: number
  timeWindow: string
  keyGenerator: (request: Request) => string
}

export const timeWindow = '1 minute'

/**
 * How much larger the bucket of each wider network of an IPv6 address is. A customer with a whole /48 has sixteen times
 * the share of one address instead of 65,536 times; one with a /56 leaves three quarters of a /48 to its neighbours.
 */
const growth = 4

/** One caller: an IPv4 address, or the narrowest network of an IPv6 address. */
export const addressOf = ({ ip }: { ip: string }): string => networksOf(ip)[0]

const hasNoAccount = ({ principal: { via } }: LimitedRequest) => via === 'none' || via === 'guest'

/** Whose requests count together: the principal's, or those of one address where callers have no account. */
export function limitedCaller (request: LimitedRequest): string {
  return hasNoAccount(request) ? addressOf(request) : request.principal.id
}

/**
 * Whose share of a bounded resource a request takes: its principal's, or its address's where callers have no account.
 * Of IPv6 that is the widest network that one customer may have, or a customer with many networks would have all
 * shares.
 */
export function callerOf (request: LimitedRequest): string {
  return hasNoAccount(request) ? widestNetworkOf(request.ip) : request.principal.id
}

/** The buckets of requests a minute beside those that @fastify/rate-limit fills for the routes. */
export class RateLimits<Request extends LimitedRequest> {
  readonly #requests: Bucket<Request>
  readonly #guesses: Bucket<Request>
  readonly #widerRequests: (request: Request) => Array<Bucket<Request>>
  readonly #widerLogins: (request: Request) => Array<Bucket<Request>>
  readonly #widerGuesses: (request: Request) => Array<Bucket<Request>>

  /**
   * @param max requests a minute, of all kinds and of logins
   * @param createBucket makes the bucket of `limitedCaller` when it gets no options
   */
  constructor (
    { max, loginMax }: { max: number, loginMax: number },
    createBucket: (options?: BucketOptions<Request>) => Bucket<Request>
  ) {
    const wider = (max: number) => {
      const buckets = [1, 2].map(width => createBucket({
        max: max * growth ** width, timeWindow, keyGenerator: ({ ip }) => networksOf(ip)[width]!
      }))
      return ({ ip }: Request) => buckets.slice(0, networksOf(ip).length - 1) // none for IPv4
    }
    this.#requests = createBucket()
    this.#guesses = createBucket({ max: loginMax, timeWindow, keyGenerator: addressOf })
    const widerRequests = wider(max)
    this.#widerRequests = request => hasNoAccount(request) ? widerRequests(request) : []
    this.#widerLogins = wider(loginMax)
    this.#widerGuesses = wider(loginMax)
  }

  /** Counts a request that the guard refuses. @returns `error`, or a 429 in its place after too many */
  async countRefused (request: Request, error: ApiError): Promise<ApiError> {
    const status = error.statusCode ?? 500
    if (status >= 500) return error
    const isStranger = status === 401 || status === 400
    if (!isStranger) return await fill(request, [this.#requests, ...this.#widerRequests(request)]) ?? error
    // The tight bucket is for guesses of credentials and of URLs. A known route asked without any is no guess, but once
    // the bucket is full it is answered like an unknown one, or the answers would tell which routes there are.
    const isGuess = request.credential !== undefined || status === 400 || request.is404
    return await fill(request, [this.#guesses, ...this.#widerGuesses(request)], isGuess) ?? error
  }

  /**
   * Counts a request that the guard lets in, in the buckets of wider networks. The hook of @fastify/rate-limit has
   * counted a known route in the bucket of its caller; an unknown URL, which is no route, it does not see.
   */
  countAllowed (request: Request, { isLogin }: { isLogin: boolean }): Promise<ApiError | undefined> | undefined {
    const wider = isLogin ? this.#widerLogins(request) : this.#widerRequests(request)
    const buckets = request.is404 ? [this.#requests, ...wider] : wider
    return buckets.length === 0 ? undefined : fill(request, buckets)
  }
}

/** Counts a request in one bucket after the other, until one is full. */
async function fill<Request> (
  request: Request, buckets: Array<Bucket<Request>>, increment = true
): Promise<ApiError | undefined> {
  for (const bucket of buckets) {
    const limit = await bucket(request, { increment })
    if (limit.isAllowed) continue
    if (limit.isExceeded || (!increment && limit.remaining === 0)) return tooMany(limit)
  }
}

/** @param ttl milliseconds until the bucket is empty again */
export function tooMany ({ max, ttl }: { max: number, ttl: number }): ApiError {
  const retryAfter = Math.max(1, Math.ceil(ttl / 1000))
  return apiError('SDR_RATE_LIMITED',
    `At most ${max} of these requests a minute; try again in ${retryAfter} s.`, { retryAfter })
}
