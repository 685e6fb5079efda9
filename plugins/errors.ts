import fp from 'fastify-plugin'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { sessionCookie } from '../lib/accounts/session-cookie.ts'
import { errorAnswer, type ErrorShape } from '../lib/http/error-answers.ts'
import { KnownRoutes } from '../lib/http/known-routes.ts'
import { hasLogins } from '../lib/http/openapi.ts'
import { isNavigation, pathToGoTo, signInHeaders, signInPage } from '../lib/http/sign-in-page.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** Gives the errors of a scope, and of the unknown URLs below its prefix, the shape of another API. */
    shapeErrors: (scope: FastifyInstance, shape: ErrorShape) => void
  }
}

/** One shape for every error, unknown URLs included. */
export default fp(async (app) => {
  const routes = new KnownRoutes()
  const notFound = async (request: FastifyRequest) => { throw routes.errorFor(request) }
  app.setErrorHandler<Error>(sendError)
  app.addHook('onRoute', route => routes.add(route))
  app.setNotFoundHandler(notFound)
  app.decorate('shapeErrors', (scope: FastifyInstance, shape: ErrorShape) => {
    scope.setErrorHandler<Error>((error, request, reply) => answer(error, request, reply, shape))
    scope.setNotFoundHandler(notFound)
  })
}, { name: 'errors' })

/** Also for what the router refuses before any hook runs. */
export function sendError (error: Error, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  return answer(error, request, reply)
}

function answer (thrown: Error, request: FastifyRequest, reply: FastifyReply, shape?: ErrorShape): FastifyReply {
  const { status, headers, body } = errorAnswer(thrown, request, reply.raw, shape)
  const { auth, basePath } = request.server.config
  if (status === 401 && request.credential?.isCookie === true) {
    // The browser would send it for ever, also to what needs no credentials, and could not remove it.
    reply.header('set-cookie', sessionCookie(request, basePath, '', 0))
  }
  if (status === 401 && isNavigation(request)) {
    // Where a credential came along, people are told why it does not count.
    const error = request.credential === undefined ? undefined : thrown.message
    return reply.code(status).headers({ ...headers, ...signInHeaders }).send(signInPage({
      url: request.url, basePath, takesPasswords: hasLogins(auth), next: pathToGoTo(request.url), error
    }))
  }
  return reply.code(status).headers(headers).type('application/json; charset=utf-8').send(body)
}
