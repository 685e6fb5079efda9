import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from 'typebox'
import { Login, Me, Named, None, Password } from './schemas.ts'

const tags = ['authentication']

const routes: FastifyPluginAsyncTypebox = async (app) => {
  app.post('/login', {
    config: { carriesCredentials: true, rateLimit: app.loginRateLimit },
    schema: {
      public: true,
      operationId: 'login',
      tags,
      summary: 'Get a token for a user name and a password',
      body: Type.Object({
        username: Type.String({ minLength: 1, maxLength: 255, examples: ['alice'] }),
        password: Password
      }, { additionalProperties: false }),
      response: { 200: Named(Login) }
    }
  }, async request => app.logins.login(request.body.username, request.body.password, request))

  app.post('/refresh', {
    config: { carriesCredentials: true, rateLimit: app.loginRateLimit },
    schema: {
      public: true,
      operationId: 'refresh',
      tags,
      summary: 'Get the next token for a refresh token',
      description: 'Each refresh token works once. Using one again ends the session, because somebody else may have a copy.',
      body: Type.Object({ refresh_token: Type.String({ minLength: 1, maxLength: 255 }) }, { additionalProperties: false }),
      response: { 200: Named(Login) }
    }
  }, async request => app.logins.refresh(request.body.refresh_token))

  app.post('/logout', {
    config: { needsAccount: true },
    schema: {
      operationId: 'logout',
      tags,
      summary: 'End the session of the token',
      response: { 204: None }
    }
  }, async (request, reply) => {
    const { sessionId, id } = request.principal
    if (sessionId !== undefined) app.sessions.end(sessionId, id)
    return reply.code(204).send(null)
  })

  for (const [path, operationId, summary] of [
    ['/me', 'getMe', 'Who am I?'],
    ['/validate', 'validateCredentials', 'Are these credentials valid? Answers who they belong to, or 401']
  ] as const) {
    app.get(path, {
      config: { needsAccount: true },
      schema: { operationId, tags, summary, response: { 200: Named(Me) } }
    }, async request => request.principal)
  }
}

export default routes
