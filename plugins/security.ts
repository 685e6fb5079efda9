import cors from '@fastify/cors'
import fp from 'fastify-plugin'
import type { FastifyRequest } from 'fastify'
import helmet, { type HelmetOptions } from 'helmet'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { isIP } from 'node:net'
import { apiError, CommandError, exitCodes } from '../errors.ts'

const year = 365 * 24 * 60 * 60

const safeMethods = ['GET', 'HEAD', 'OPTIONS']

/** Response headers, CORS and the checks of Host and Origin. Registered before the guard, which must not meet preflights. */
export default fp(async (app) => {
  const { allowedHosts, auth, corsOrigins, host, tlsCert } = app.config
  checkNames(corsOrigins, allowedHosts)

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
  // First of all, so that refusals have them too; a route that may be kept says so itself.
  app.addHook('onRequest', (request, reply, done) => {
    reply.headers(headers).header('x-request-id', request.id).header('cache-control', 'no-store')
    done()
  })

  if (corsOrigins.length > 0) {
    await app.register(cors, {
      // A function, because with a list the plugin answers the preflights of strangers too, only without the header.
      origin: (origin, done) => done(null, origin !== undefined && corsOrigins.includes(origin) ? origin : false),
      methods: ['GET', 'HEAD', 'POST', 'PATCH', 'DELETE'],
      allowedHeaders: ['authorization', 'content-type', 'x-api-key', 'idempotency-key', 'last-event-id'],
      exposedHeaders: ['location', 'retry-after', 'x-request-id'],
      maxAge: 600
    })
  }

  // A page that rebinds its own name to 127.0.0.1 reaches an open server from a visitor's browser; its Host gives it away.
  const names = new Set(['localhost', host, ...allowedHosts].map(name => name.toLowerCase()))
  const checksHost = auth === 'none' || allowedHosts.length > 0

  app.addHook('onRequest', (request, _reply, done) => {
    if (checksHost) {
      const [, name = ''] = /^([^:[\]]*?|\[[\da-f:.]+\])\.?(?::\d{1,5})?$/.exec(request.host.toLowerCase()) ?? []
      if (isIP(name.replace(/^\[|\]$/g, '')) === 0 && !names.has(name)) {
        throw apiError('SDR_HOST_NOT_ALLOWED', `This server does not answer for the host name ${JSON.stringify(request.host.slice(0, 100))}; --allowed-hosts adds it.`)
      }
    }
    if (isFromForeignPage(request, corsOrigins)) {
      throw apiError('SDR_FORBIDDEN', `Pages of ${JSON.stringify(String(request.headers.origin).slice(0, 100))} may not send this; --cors-origins adds an origin.`)
    }
    done()
  })
}, { name: 'security', dependencies: ['config', 'errors'] })

/** What Helmet sets is the same for each answer, so it is asked once: asking takes longer than all the rest of a small answer. */
function headersOf (options: HelmetOptions): Record<string, string> {
  const headers: Record<string, string> = {}
  const answer = { setHeader: (name: string, value: string) => { headers[name.toLowerCase()] = value }, removeHeader () {} }
  helmet(options)({} as IncomingMessage, answer as unknown as ServerResponse, error => { if (error !== undefined) throw error })
  return headers
}

/**
 * Whether a browser sends this for a page of another origin. What browsers send unasked (a form, a POST without a body)
 * needs no preflight, and carries the rights of an open server, of the guest, or of the API key that HTTP Basic remembers.
 */
function isFromForeignPage ({ method, headers, host }: FastifyRequest, corsOrigins: readonly string[]): boolean {
  const { origin, 'sec-fetch-site': site } = headers
  if (safeMethods.includes(method) || (origin !== undefined && corsOrigins.includes(origin))) return false
  if (site !== undefined) return site !== 'same-origin' && site !== 'none'
  return origin !== undefined && origin.replace(/^https?:\/\//, '') !== host
}

/** @throws {CommandError} for an entry that could never match */
function checkNames (corsOrigins: readonly string[], allowedHosts: readonly string[]): void {
  for (const origin of corsOrigins) {
    // An extension of a browser has an origin, too, which URL does not know.
    const isOrigin = /^[a-z][a-z\d+.-]*:\/\/[^\s/*?#@]+$/.test(origin)
    if (isOrigin && (!origin.startsWith('http') || (URL.canParse(origin) && new URL(origin).origin === origin))) continue
    throw new CommandError(exitCodes.usage, `Expected origins such as https://ui.example for --cors-origins but received ${JSON.stringify(origin)}`)
  }
  for (const name of allowedHosts) {
    if (/^[\w.-]+$/.test(name)) continue
    throw new CommandError(exitCodes.usage, `Expected host names without a port for --allowed-hosts but received ${JSON.stringify(name)}`)
  }
}
