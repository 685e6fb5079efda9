import cors from '@fastify/cors'
import fp from 'fastify-plugin'
import helmet, { type HelmetOptions } from 'helmet'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { apiError } from '../errors.ts'
import { isSentOnPurpose } from '../lib/accounts/credentials.ts'
import { checkNames, hostMatcher, originMatcher, reasonAgainstPage } from '../lib/http/origins.ts'
import { quoted } from '../lib/util/text.ts'

const year = 365 * 24 * 60 * 60

/** What the SDK of OpenAI sends from pages besides its key. */
const headersOfSdk = [
  'openai-organization', 'openai-project',
  ...['arch', 'helper-method', 'lang', 'os', 'package-version', 'retry-count', 'runtime', 'runtime-version', 'timeout']
    .map(name => `x-stainless-${name}`)
]

/** Response headers, CORS, checks of Host and Origin. Registered before the guard, which must not meet preflights. */
export default fp(async (app) => {
  const { allowedHosts, auth, corsOrigins, host, tlsCert } = app.config
  const isAllowedOrigin = originMatcher(corsOrigins)
  checkNames(allowedHosts)

  const headers = headersOf({
    // An API answer is no page: nothing in it may load or run anything. The documentation sets its own policy.
    contentSecurityPolicy: { useDefaults: false, directives: { defaultSrc: ["'none'"], frameAncestors: ["'none'"] } },
    crossOriginResourcePolicy: { policy: corsOrigins.length > 0 ? 'cross-origin' : 'same-origin' },
    // These are about pages, Flash and browsers of the past, and say nothing about JSON and images.
    crossOriginOpenerPolicy: false,
    originAgentCluster: false,
    xDnsPrefetchControl: false,
    xDownloadOptions: false,
    xPermittedCrossDomainPolicies: false,
    xXssProtection: false,
    strictTransportSecurity: tlsCert === undefined ? false : { maxAge: year }
  })
  // First of all, so that errors have them too; a route that may be kept says so itself.
  app.addHook('onRequest', (request, reply, done) => {
    reply.headers(headers).header('x-request-id', request.id).header('cache-control', 'no-store')
    done()
  })

  if (corsOrigins.length > 0) {
    // Preflights are answered before the guard; what else comes to the plugin's route is answered 404.
    app.addHook('onRoute', route => {
      if (route.method === 'OPTIONS' && route.url === '*') {
        route.config = { ...route.config, anyCaller: true, neverPublic: true }
      }
    })
    await app.register(cors, {
      // A function, because with a list the plugin answers the preflights of strangers too, only without the header.
      origin: (origin, done) => done(null, origin !== undefined && isAllowedOrigin(origin) ? origin : false),
      methods: ['GET', 'HEAD', 'POST', 'PATCH', 'DELETE'],
      allowedHeaders: [
        'authorization', 'content-type', 'x-api-key', 'idempotency-key', 'last-event-id', ...headersOfSdk
      ],
      exposedHeaders: ['location', 'retry-after', 'x-request-id', 'x-should-retry'],
      maxAge: 600
    })
  }

  const isOwnHost = hostMatcher(['localhost', host, ...allowedHosts])
  const checksHost = auth === 'none' || allowedHosts.length > 0

  app.addHook('onRequest', (request, _reply, done) => {
    if (checksHost && !isOwnHost(request.host)) {
      throw apiError('SDR_HOST_NOT_ALLOWED',
        `This server does not answer for the host name ${quoted(request.host)}; --allowed-hosts adds it.`)
    }
    // --auth none reads no credentials.
    const countsCredentials = auth !== 'none' && request.routeOptions.config.carriesCredentials !== true
    const reason = reasonAgainstPage(request, isAllowedOrigin)
    if (reason !== undefined && !(countsCredentials && isSentOnPurpose(request.raw.rawHeaders))) {
      throw apiError('SDR_FORBIDDEN', reason)
    }
    done()
  })
}, { name: 'security', dependencies: ['config', 'errors'] })

/** Helmet sets the same for each answer, so it is asked once: asking takes longer than the rest of a small answer. */
function headersOf (options: HelmetOptions): Record<string, string> {
  const headers: Record<string, string> = {}
  const answer = {
    setHeader: (name: string, value: string) => { headers[name.toLowerCase()] = value },
    removeHeader () {}
  }
  helmet(options)({} as IncomingMessage, answer as unknown as ServerResponse, error => {
    if (error !== undefined) throw error
  })
  return headers
}
