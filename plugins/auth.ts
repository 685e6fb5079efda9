import fastifyAuth from '@fastify/auth'
import fp from 'fastify-plugin'
import type { FastifyReply, FastifyRequest, FastifySchema, onRequestHookHandler } from 'fastify'
import { apiError, CommandError, exitCodes, type ApiError } from '../errors.ts'
import { readCredential, type Credential } from '../lib/accounts/credentials.ts'
import { guestPrincipal, isNarrowKey, isPassing, type Principal } from '../lib/accounts/principals.ts'
import { rolePermissions, type Permission } from '../lib/options/permissions.ts'
import { readablePattern, resolvePublicRoutes, routeKey } from '../lib/http/public-paths.ts'
import { guarded } from '../lib/util/rarely.ts'
import { permissionsOf } from '../lib/http/route-needs.ts'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Gives power that may last, an account or a password: not for API keys that expire. */
    isLasting?: boolean
  }
  interface FastifyRequest {
    principal: Principal
    credential: Credential | undefined
    /** Why the request was refused first, so that the caller reads this and not what the last method in line said. */
    refusal: ApiError | undefined
    /** The decision is in the log. */
    isLogged: boolean
  }
  interface FastifyInstance {
    /** Makes a method's onRequest hook out of its ways to identify a caller. */
    guard: (identify: Identify[], options?: { admitsGuests?: boolean }) => onRequestHookHandler
    /** Writes the one line of a request that --verbose asks for. */
    logDecision: (request: FastifyRequest, refusal?: Error) => void
    /** Whether the system still lets one of its accounts in; a method that asks no system leaves it undefined. */
    vouchesFor?: (account: Pick<Principal, 'id' | 'source'>) => boolean
    /** Whether an account counts at present: one of the system only while the system lets it in. */
    admits: (account: Pick<Principal, 'id' | 'source'>) => boolean
    /** Decides again about a request that has waited since the guard let it in. @throws {ApiError} 401 or 403 */
    decideAgain: (request: FastifyRequest) => void
    /** Keys (`GET /api/health`) of the routes that are public; known when the application is ready. */
    publicRoutes: ReadonlySet<string>
  }
}

/**
 * Finds out who sent a credential.
 * @returns undefined when it is not a credential of this kind.
 * @throws {ApiError} (401) when it is one and is not valid.
 */
export type Identify = (credential: Credential) => Principal | undefined

/** Tells @fastify/auth to ask the next one; no client ever sees it. */
const notOfThisKind = new Error('not a credential of this kind')

/** For a credential that is valid, of an account that `admits` says no to. */
export function notAdmitted (): ApiError {
  return apiError('SDR_INVALID_TOKEN', 'The system account of this credential is not let in, or not any more.')
}

/** What holds until a verifier has answered. */
const undecided = apiError('SDR_INTERNAL', 'No method decided about this request.')

/** Milliseconds between two looks at whether the caller of a long request (events, ?wait=) may still go on. */
const recheckInterval = 5000

/**
 * The guard. It decides for each request, in an onRequest hook that a method plugin builds from it: valid credentials
 * with the permission that the route declares, or a public route, or a guest. Whether a route is public is worked out
 * once, at boot, from the route's own pattern; unknown URLs belong to no route and are never public.
 */
export default fp(async (app) => {
  await app.register(fastifyAuth)
  const open = new Set<string>()
  if (app.config.guestPermissions.includes('users:manage')) {
    throw new CommandError(exitCodes.usage,
      'With users:manage in --guest-permissions any guest could make an administrator; leave it out')
  }
  const guest = guestPrincipal(app.config.guestPermissions as Permission[])

  app.decorate('publicRoutes', open)
  app.decorateRequest('principal')
  app.decorateRequest('credential')
  app.decorateRequest('refusal')
  app.decorateRequest('isLogged', false)

  app.addHook('onReady', async () => {
    const resolved = resolvePublicRoutes([...app.routeFacts.values()], app.config.publicPaths)
    for (const key of resolved.open) open.add(key)
    for (const warning of resolved.warnings) app.log.warn(warning)
    app.log.info({ public: [...open].map(readablePattern).sort() }, 'Routes that need no credentials')
  })

  function isPublic ({ method, routeOptions }: FastifyRequest): boolean {
    return routeOptions.url !== undefined && open.has(routeKey({ method, pattern: routeOptions.url }))
  }

  function routeOf ({ routeOptions: { url } }: FastifyRequest): string | null {
    return url === undefined ? null : readablePattern(url)
  }

  app.decorate('admits', account => account.source === 'local' || app.vouchesFor?.(account) === true)

  app.decorate('logDecision', (request, refusal) => {
    if (!app.config.verbose || request.isLogged) return
    request.isLogged = true
    app.log.info({
      request_id: request.id,
      method: request.method,
      route: routeOf(request),
      public: isPublic(request),
      auth: app.config.auth,
      credential: request.credential?.kind ?? null,
      principal: request.principal?.username ?? null,
      decision: refusal === undefined ? 'allow' : 'refuse',
      reason: refusal?.message ?? reasonToAllow(request)
    }, 'access')
  })

  function reasonToAllow (request: FastifyRequest): string {
    if (request.principal === undefined) return 'preflight of a configured origin'
    const { via, keyId } = request.principal
    if (via === 'none') return 'every caller is the operator'
    if (via === 'guest') return isPublic(request) ? 'public route' : 'guests are let in'
    return via === 'jwt' ? 'valid token' : `valid API key ${keyId}`
  }

  if (app.config.verbose) {
    // What is refused or answered before the guard sees it (a foreign host, a preflight) gets its line here.
    app.addHook('onError', async (request, _reply, error) => {
      request.refusal ??= error
    })
    app.addHook('onResponse', async request => app.logDecision(request, request.refusal))
  }

  /** A refused credential is worth a record; a caller without any is not. */
  function auditRefusal (request: FastifyRequest, { code }: ApiError): void {
    if (request.credential === undefined && code !== 'SDR_AMBIGUOUS_CREDENTIALS') return
    app.audit(request, {
      event: 'access',
      outcome: 'failure',
      subject: `${request.method} ${routeOf(request) ?? 'unknown URL'}`,
      reason: code
    })
  }

  function asVerifier (identify: Identify) {
    return function verify (request: FastifyRequest, _reply: FastifyReply, done: (error?: Error) => void): void {
      if (request.credential === undefined) return done(notOfThisKind)
      try {
        const principal = identify(request.credential)
        if (principal === undefined) return done(notOfThisKind)
        if (!app.admits(principal)) throw notAdmitted()
        request.principal = principal
      } catch (error) {
        request.refusal = error as ApiError
        return done(request.refusal)
      }
      done()
    }
  }

  function admitAnonymous (admitsGuests: boolean) {
    return function admit (request: FastifyRequest, _reply: FastifyReply, done: (error?: Error) => void): void {
      if (request.credential !== undefined) {
        return done(request.refusal ?? apiError('SDR_INVALID_TOKEN',
          `With --auth ${app.config.auth} this server takes no ${request.credential.kind}.`))
      }
      if (!isPublic(request) && !(admitsGuests && !request.is404)) return done(apiError('SDR_UNAUTHENTICATED'))
      request.principal = guest
      done()
    }
  }

  /** Denies what no declaration allows. */
  function authorize (request: FastifyRequest, principal = request.principal): ApiError | undefined {
    const { is404, routeOptions: { config, schema } } = request
    if (config.isLasting === true && isPassing(principal)) {
      return apiError('SDR_FORBIDDEN',
        'This API key expires, so it changes neither accounts nor passwords: that would outlast it.')
    }
    if (is404 || isPublic(request)) return undefined
    const needed = permissionsOf(config)
    const isPermitted = needed.some(permission => principal.permissions.includes(permission))
    if (config.needsAccount === true) {
      if (principal.via === 'guest') {
        return apiError('SDR_UNAUTHENTICATED', 'This works on an account, and guests have none.')
      }
      if (needed.length === 0) {
        return isNarrowKey(principal)
          ? apiError('SDR_FORBIDDEN',
            'This API key may do less than its owner, so it does not reach the account itself.')
          : undefined
      }
    }
    if (
      isPermitted || config.anyCaller === true || (schema as FastifySchema | undefined)?.public === true
    ) return undefined
    if (needed.length === 0) return undecided
    return apiError('SDR_FORBIDDEN',
      `This needs the permission ${needed.join(' or ')}, ` +
      `which ${principal.username} (${principal.role}) does not have.`,
      { scope: needed.join(' ') })
  }

  /** Requests of this turn of the event loop, and those that had no whole answer when theirs was over. */
  let latest: FastifyReply[] = []
  const unanswered = new Set<FastifyReply>()

  /** Most are answered within the turn: those cost nothing but their place in a list. */
  function watch (reply: FastifyReply): void {
    if (latest.push(reply) > 1) return
    setImmediate(() => {
      for (const reply of latest) if (!reply.raw.closed) unanswered.add(reply)
      latest = []
    })
  }

  /** Who the credential of a request stands for now; undefined when it has ended, or the account is not admitted. */
  function principalNow ({ principal }: FastifyRequest): Principal | undefined {
    const { id, sessionId, keyId } = principal
    if (sessionId === undefined && keyId === undefined) return principal
    const user = sessionId === undefined ? undefined : app.sessions.activeUser(sessionId, id)
    const now = keyId === undefined
      ? user && { ...principal, username: user.username, role: user.role, permissions: rolePermissions[user.role] }
      : app.keys.principalOf(keyId)
    return now !== undefined && app.admits(now) ? now : undefined
  }

  const ended = () => apiError('SDR_INVALID_TOKEN', 'The session or key of this request has ended.')

  app.decorate('decideAgain', request => {
    const principal = principalNow(request)
    if (principal === undefined) throw ended()
    const refusal = authorize(request, principal)
    if (refusal !== undefined) throw refusal
    request.principal = principal
  })

  // A body may take minutes to come, and what its caller may do can have changed since the guard saw the headers.
  app.addHook('preHandler', (request, _reply, done) => {
    try {
      if (request.principal !== undefined && request.body != null) app.decideAgain(request)
      done()
    } catch (error) {
      done(error as ApiError)
    }
  })

  /**
   * Whether the caller of an open answer may not have it any more. It may also have lost a permission that the route
   * does not ask for but that lets it see the jobs of others. A caller who still may comes back.
   */
  function hasEnded (request: FastifyRequest): boolean {
    const now = principalNow(request)
    return now === undefined || authorize(request, now) !== undefined ||
      request.principal.permissions.some(permission => !now.permissions.includes(permission))
  }

  // A session, a key or a right that ends takes its open streams with it. A request that is not answered yet ends its
  // wait, if it has one, and is decided by its route.
  const timer = setInterval(guarded(app.log, 'Whether callers of long requests may go on cannot be asked', () => {
    for (const reply of unanswered) {
      if (reply.raw.closed) unanswered.delete(reply)
      else if (hasEnded(reply.request)) {
        if (reply.raw.headersSent) reply.raw.destroy()
        else reply.endWait(ended())
      }
    }
  }), recheckInterval).unref()
  app.addHook('onClose', async () => clearInterval(timer))

  app.decorate('guard', (identify: Identify[], { admitsGuests = app.config.enableGuestAccess } = {}) => {
    const authenticate = app.auth([...identify.map(asVerifier), admitAnonymous(admitsGuests)], { relation: 'or' })

    // All of it happens at once: nothing waits, so that a request that is let in costs no turn of the event loop.
    function decide (request: FastifyRequest, reply: FastifyReply): ApiError | undefined {
      try {
        if (request.routeOptions.config.carriesCredentials !== true) {
          request.credential = readCredential(request.raw.rawHeaders)
        }
      } catch (error) {
        return error as ApiError
      }
      let refusal: ApiError | undefined = undecided
      authenticate.call(app, request, reply, error => { refusal = error as ApiError | undefined })
      return refusal ?? authorize(request)
    }

    async function refuse (request: FastifyRequest, refusal: ApiError): Promise<ApiError> {
      const answer = await app.countRefusal(request, refusal)
      if (answer === refusal) auditRefusal(request, refusal)
      return answer
    }

    return function onRequest (request, reply, done) {
      const refusal = decide(request, reply)
      app.logDecision(request, refusal)
      app.metrics.decided(request.credential?.kind ?? 'none', refusal === undefined ? 'allowed' : refusal.code)
      if (refusal === undefined) {
        watch(reply)
        done()
      } else {
        refuse(request, refusal).then(done, done)
      }
    }
  })
}, { name: 'auth', dependencies: ['config', 'errors', 'metrics', 'rate-limit', 'audit', 'route-needs'] })
