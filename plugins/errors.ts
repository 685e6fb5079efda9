import fp from 'fastify-plugin'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { errorAnswer } from '../lib/http/error-answers.ts'
import { KnownRoutes } from '../lib/http/known-routes.ts'

/** One shape for every error, unknown URLs included. */
export default fp(async (app) => {
  app.setErrorHandler<Error>(sendError)
  const routes = new KnownRoutes()
  app.addHook('onRoute', route => routes.add(route))
  app.setNotFoundHandler(async request => { throw routes.errorFor(request) })
}, { name: 'errors' })

/** Also for what the router refuses before any hook runs. */
export function sendError (error: Error, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const { status, headers, body } = errorAnswer(error, request, reply.raw)
  return reply.code(status).headers(headers).type('application/json; charset=utf-8').send(body)
}
