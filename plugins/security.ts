import cors from '@fastify/cors'
import helmet from '@fastify/helmet'
import fp from 'fastify-plugin'
import { isIP } from 'node:net'
import { apiError } from '../errors.ts'

const year = 365 * 24 * 60 * 60

/** Response headers, CORS and the check of the Host header. Registered before the guard, which must not meet preflights. */
export default fp(async (app) => {
  const { allowedHosts, auth, corsOrigins, host, tlsCert } = app.config

  await app.register(helmet, {
    // An API answer is no page: nothing in it may load or run anything. The documentation sets its own policy.
    contentSecurityPolicy: { useDefaults: false, directives: { defaultSrc: ["'none'"], frameAncestors: ["'none'"] } },
    crossOriginResourcePolicy: { policy: corsOrigins.length > 0 ? 'cross-origin' : 'same-origin' },
    strictTransportSecurity: tlsCert === undefined ? false : { maxAge: year }
  })

  if (corsOrigins.length > 0) {
    await app.register(cors, {
      origin: [...corsOrigins],
      methods: ['GET', 'HEAD', 'POST', 'PATCH', 'DELETE'],
      allowedHeaders: ['authorization', 'content-type', 'x-api-key', 'idempotency-key', 'last-event-id'],
      exposedHeaders: ['location', 'retry-after', 'x-request-id'],
      maxAge: 600
    })
  }

  // A page that rebinds its own name to 127.0.0.1 reaches an open server from a visitor's browser; its Host gives it away.
  if (auth === 'none' || allowedHosts.length > 0) {
    const names = new Set(['localhost', host, ...allowedHosts].map(name => name.toLowerCase()))
    app.addHook('onRequest', async request => {
      const name = request.hostname.toLowerCase().replace(/\.$/, '')
      if (isIP(name.replace(/^\[|\]$/g, '')) === 0 && !names.has(name)) {
        throw apiError('SDR_HOST_NOT_ALLOWED', `This server does not answer for the host name ${JSON.stringify(name.slice(0, 100))}; --allowed-hosts adds it.`)
      }
    })
  }

  app.addHook('onSend', async (request, reply) => {
    reply.header('x-request-id', request.id)
    if (!reply.hasHeader('cache-control')) reply.header('cache-control', 'no-store')
  })
}, { name: 'security', dependencies: ['config', 'errors'] })
