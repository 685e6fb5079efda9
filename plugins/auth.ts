import fastifyAuth from '@fastify/auth'
import fp from 'fastify-plugin'
import type { FastifyReply, FastifyRequest, onRequestHookHandler } from 'fastify'
import { apiError, type ApiError } from '../errors.ts'
import { readCredential, type Credential } from '../lib/credentials.ts'
import { guestPrincipal, type Permission, type Principal } from '../lib/principals.ts'
import { readablePattern, resolvePublicRoutes, routeKey, type RouteFacts } from '../lib/public-paths.ts'

declare module 'fastify' {
  interface FastifySchema {
    /** Needs no credentials unless `--public-paths "!…"` closes it. */
    public?: boolean
  }
  interface FastifyContextConfig {
    /** What a caller must be allowed to do; without it any valid credentials will do. */
    permission?: Permission
    /** The request proves itself by its body, so that a stale Authorization header must not stop it. */
    carriesCredentials?: boolean
    /** Works on the caller's own account or on accounts at large, so it can't be made public. */
    needsAccount?: boolean
  }
  interface FastifyRequest {
    principal: Principal
    credential: Credential | undefined
    /** Why the credential was refused, so that the caller reads this and not what the last method in line said. */
    refusal: ApiError | undefined
  }
  interface FastifyInstance {
    /** Makes a method's onRequest hook out of its ways to identify a caller. */
    guard: (identify: Identify[], options?: { admitsGuests?: boolean }) => onRequestHookHandler
    /** Keys (`GET /api/health`) of the routes that are public; known when the application is ready. */
    publicRoutes: ReadonlySet<string>
  }
}

/**
 * Finds out who sent a credential.
 * @returns undefined when it is not a credential of this kind.
 * @throws {ApiError} (401) when it is one and is not valid.
 */
export type Identify = (credential: Credential, request: FastifyRequest) => Promise<Principal | undefined>

/** Tells @fastify/auth to ask the next one; nobody ever sees it. */
const notOfThisKind = new Error('not a credential of this kind')

/**
 * The guard. It decides for each request, in an onRequest hook that a method plugin builds from it: valid credentials with
 * the permission that the route declares, or a public route, or a guest. Whether a route is public is worked out once, at
 * boot, from the route's own pattern; unknown URLs belong to no route and are never public.
 */
export default fp(async (app) => {
  await app.register(fastifyAuth)
  const routes: RouteFacts[] = []
  const open = new Set<string>()
  const guest = guestPrincipal(app.config.guestPermissions as Permission[])

  app.decorate('publicRoutes', open)
  app.decorateRequest('principal')
  app.decorateRequest('credential')
  app.decorateRequest('refusal')

  app.addHook('onRoute', ({ method, url, schema, config }) => {
    for (const one of [method].flat()) {
      routes.push({ method: one, pattern: url, isFlagged: schema?.public === true, needsAccount: config?.needsAccount === true })
    }
  })

  app.addHook('onReady', async () => {
    const resolved = resolvePublicRoutes(routes, app.config.publicPaths)
    for (const key of resolved.open) open.add(key)
    for (const warning of resolved.warnings) app.log.warn(warning)
    app.log.info({ public: [...open].map(readablePattern).sort() }, 'Routes that need no credentials')
  })

  function isPublic ({ method, routeOptions }: FastifyRequest): boolean {
    return routeOptions.url !== undefined && open.has(routeKey({ method, pattern: routeOptions.url }))
  }

  function authorize (request: FastifyRequest): ApiError | undefined {
    const { permission } = request.routeOptions.config
    const { principal } = request
    if (permission === undefined || principal.permissions.includes(permission) || isPublic(request)) return undefined
    return apiError('SDR_FORBIDDEN', `This needs the permission ${permission}, which ${principal.username} (${principal.role}) does not have.`)
  }

  function logDecision (request: FastifyRequest, error: ApiError | undefined): void {
    app.log.info({
      request_id: request.id,
      method: request.method,
      route: request.routeOptions.url === undefined ? null : readablePattern(request.routeOptions.url),
      public: isPublic(request),
      auth: app.config.auth,
      credential: request.credential?.kind ?? null,
      principal: error?.statusCode === 401 ? null : request.principal?.username ?? null,
      decision: error === undefined ? 'allow' : 'refuse',
      reason: error?.message ?? (request.credential === undefined && isPublic(request) ? 'public route' : `identified by ${request.principal.via}`)
    }, 'access')
  }

  /** Somebody who shows a credential and is refused is worth a record; a caller without any is not. */
  function auditRefusal (request: FastifyRequest, { code }: ApiError): void {
    const route = request.routeOptions.url
    app.audit(request, {
      event: 'access', outcome: 'failure', subject: `${request.method} ${route === undefined ? 'unknown URL' : readablePattern(route)}`, reason: code
    })
  }

  function asVerifier (identify: Identify) {
    return async function verify (request: FastifyRequest): Promise<void> {
      if (request.credential === undefined) throw notOfThisKind
      try {
        const principal = await identify(request.credential, request)
        if (principal === undefined) throw notOfThisKind
        request.principal = principal
      } catch (error) {
        if (error !== notOfThisKind) request.refusal = error as ApiError
        throw error
      }
    }
  }

  function admitAnonymous (admitsGuests: boolean) {
    return async function admit (request: FastifyRequest): Promise<void> {
      if (request.credential !== undefined) {
        throw request.refusal ?? apiError('SDR_INVALID_TOKEN', `With --auth ${app.config.auth} this server takes no ${request.credential.kind}.`)
      }
      const isKnownRoute = request.routeOptions.url !== undefined
      if (!isPublic(request) && !(admitsGuests && isKnownRoute)) throw apiError('SDR_UNAUTHENTICATED')
      request.principal = guest
    }
  }

  app.decorate('guard', (identify: Identify[], { admitsGuests = app.config.enableGuestAccess } = {}) => {
    const authenticate = app.auth([...identify.map(asVerifier), admitAnonymous(admitsGuests)], { relation: 'or' })

    return function onRequest (request: FastifyRequest, reply: FastifyReply, done: (error?: Error) => void) {
      const decide = (thrown?: Error) => {
        const error = (thrown ?? authorize(request)) as ApiError | undefined
        if (app.config.verbose) logDecision(request, error)
        if (error !== undefined && (request.credential !== undefined || error.statusCode === 403)) auditRefusal(request, error)
        // Guessing at credentials and at URLs is what the tight bucket is for; a known route asked without any is no guess.
        const isGuess = error?.statusCode === 401 && (request.credential !== undefined || request.routeOptions.url === undefined)
        if (isGuess) app.countRefusal(request).then(() => done(error), done)
        else done(error)
      }
      try {
        if (request.routeOptions.config.carriesCredentials !== true) request.credential = readCredential(request.raw.rawHeaders)
      } catch (error) {
        return decide(error as Error)
      }
      authenticate.call(app, request, reply, decide)
    }
  })
}, { name: 'auth', dependencies: ['config', 'errors', 'rate-limit', 'audit'] })
