import fp from 'fastify-plugin'
import { decisionLine } from '../lib/http/access-log.ts'
import { isPublic } from '../lib/http/public-paths.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** The first error of the request: the one that decided it. */
    firstError: Error | undefined
    /** The decision is in the log. */
    isLogged: boolean
  }
  interface FastifyInstance {
    /** Writes the one line of a request that --verbose asks for. */
    accessLog: (request: FastifyRequest, error?: Error) => void
  }
}

/** With --verbose, a line in the log for each request. */
export default fp(async (app) => {
  const { auth, verbose } = app.config
  app.decorateRequest('firstError')
  app.decorateRequest('isLogged', false)
  app.decorate('accessLog', (request, error) => {
    if (!verbose || request.isLogged) return
    request.isLogged = true
    app.log.info(decisionLine(request, { auth, isPublic: isPublic(app.publicRoutes, request), error }), 'access')
  })
  if (!verbose) return
  // What is refused or answered before the guard sees it (a foreign host, a preflight) gets its line here.
  app.addHook('onError', async (request, _reply, error) => {
    request.firstError ??= error
  })
  app.addHook('onResponse', async request => app.accessLog(request, request.firstError))
}, { name: 'access-log', dependencies: ['config', 'public-routes'] })
