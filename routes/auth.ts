import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from '../lib/http/type.ts'
import { loginNamePattern } from '../lib/accounts/accounts.ts'
import { Id, Named, None } from '../lib/http/schemas.ts'
import { Login, Me, NewPassword, Password, Session, Validation } from './schemas/accounts.ts'

const tags = ['authentication']

const routes: FastifyPluginAsyncTypebox = async (app) => {
  app.post('/login', {
    config: { carriesCredentials: true, rateLimit: app.loginRateLimit },
    schema: {
      public: true,
      operationId: 'login',
      tags,
      summary: 'Get a token for a user name and a password',
      description: 'Opens a session. Failed logins make the account and the address wait; ' +
        'Retry-After says how long.',
      errors: [
        'SDR_INVALID_CREDENTIALS', 'SDR_PASSWORD_EXPIRED', 'SDR_ACCOUNT_UNAVAILABLE', 'SDR_SECOND_FACTOR_REQUIRED',
        'SDR_CONFLICT'
      ],
      body: Type.Object({
        username: Type.String({
          maxLength: 255,
          pattern: loginNamePattern,
          description: 'Without control characters',
          examples: ['alice']
        }),
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
      description: 'Each refresh token works once. Using one again ends the session, ' +
        'because there may be a copy of it.',
      errors: ['SDR_CONFLICT'],
      body: Type.Object({
        refresh_token: Type.String({
          minLength: 1,
          maxLength: 255,
          writeOnly: true,
          description: 'From the login or the last refresh',
          examples: ['sdrr_0Rz5…']
        })
      }, { additionalProperties: false }),
      response: { 200: Named(Login) }
    }
  }, async request => app.logins.refresh(request.body.refresh_token, request))

  app.post('/logout', {
    config: { needsAccount: true },
    schema: {
      operationId: 'logout',
      tags,
      summary: 'End the session of the token',
      description: 'Its access and refresh tokens stop working at once. An API key has no session, so nothing happens.',
      response: { 204: None }
    }
  }, async (request, reply) => {
    const { sessionId, id } = request.principal
    if (sessionId !== undefined) {
      await app.store.sessions.end(sessionId, id)
      await app.audit(request, { event: 'logout', subject: sessionId })
    }
    return reply.code(204).send(null)
  })

  app.post('/password', {
    config: { needsAccount: true, isLasting: true, rateLimit: app.loginRateLimit },
    schema: {
      operationId: 'changePassword',
      tags,
      summary: 'Change your password',
      description: 'Ends all your other sessions.',
      errors: ['SDR_INVALID_CREDENTIALS', 'SDR_CONFLICT'],
      body: Type.Object({ current_password: Password, new_password: NewPassword }, { additionalProperties: false }),
      response: { 204: None }
    }
  }, async (request, reply) => {
    await app.logins.changePassword(request, request.body.current_password, request.body.new_password)
    return reply.code(204).send(null)
  })

  app.get('/sessions', {
    config: { needsAccount: true },
    schema: {
      operationId: 'listSessions',
      tags,
      summary: 'List your sessions',
      description: 'Where you are logged in, the last used first.',
      response: { 200: Type.Object({ sessions: Type.Array(Named(Session)) }, { description: 'Your sessions' }) }
    }
  }, async ({ principal }) => ({
    sessions: (await app.store.sessions.list(principal.id)).map(session => ({
      ...session,
      current: session.id === principal.sessionId
    }))
  }))

  app.delete('/sessions/:id', {
    config: { needsAccount: true },
    schema: {
      operationId: 'endSession',
      tags,
      summary: 'End one of your sessions',
      description: 'The client that holds its tokens is logged out at once.',
      errors: ['SDR_SESSION_NOT_FOUND'],
      params: Type.Object({ id: Id('Id of the session') }),
      response: { 204: None }
    }
  }, async (request, reply) => {
    await app.store.sessions.end(request.params.id, request.principal.id)
    await app.audit(request, { event: 'session.end', subject: request.params.id })
    return reply.code(204).send(null)
  })

  app.get('/me', {
    config: { anyCaller: true, neverPublic: true },
    schema: {
      operationId: 'getMe',
      tags,
      summary: 'Who am I?',
      description: 'The account that the credentials belong to, and what it may do; the guest where guests are let in.',
      response: { 200: Named(Me) }
    }
  }, async ({ principal }) => principal)

  app.get('/validate', {
    config: { anyCaller: true, neverPublic: true },
    schema: {
      operationId: 'validateCredentials',
      tags,
      summary: 'Are these credentials valid?',
      description: 'Answers who they belong to, or 401; for proxies and other servers that ask.',
      response: { 200: Named(Validation) }
    }
  }, async ({ principal }) => {
    const { id, username, role, permissions } = principal
    return { valid: true as const, user: { id, username, role, permissions }, ...principal }
  })
}

export default routes
