import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { examplePassword } from '../lib/accounts/passwords.ts'
import { unexpected } from '../errors.ts'
import { Type } from '../lib/http/type.ts'
import { readFields } from '../lib/http/form-fields.ts'
import { sessionCookie } from '../lib/accounts/session-cookie.ts'
import { toToken } from '../lib/accounts/tokens.ts'
import { loginNamePattern } from '../lib/accounts/accounts.ts'
import { Id, Named, None, OneOf } from '../lib/http/schemas.ts'
import { Login, Me, NewPassword, Password, SessionList, Token, Validation } from './schemas/accounts.ts'

const tags = ['authentication']

const LoginName = Type.String({
  maxLength: 255,
  pattern: loginNamePattern,
  description: 'Without control characters',
  examples: ['alice']
})

const RefreshToken = Type.String({
  minLength: 1,
  maxLength: 255,
  writeOnly: true,
  description: 'From the login or the last refresh'
})

/** Its bodies are forms, which no other route takes. */
const tokenRoute: FastifyPluginAsyncTypebox = async (app) => {
  app.addContentTypeParser('application/x-www-form-urlencoded', { parseAs: 'string', bodyLimit: 16 * 1024 },
    async (_request: unknown, text: string) => readFields(text))
  app.post('/token', {
    config: { carriesCredentials: true, rateLimit: app.loginRateLimit },
    schema: {
      public: true,
      needsLogins: true,
      operationId: 'getToken',
      tags,
      summary: 'Get a token as OAuth 2.0 has it',
      description: 'The password and refresh grants of RFC 6749, for clients that know them: the same as login and ' +
        'refresh. Errors have the shape of all others.',
      errors: [
        'SDR_INVALID_CREDENTIALS', 'SDR_PASSWORD_EXPIRED', 'SDR_ACCOUNT_UNAVAILABLE', 'SDR_SECOND_FACTOR_REQUIRED',
        'SDR_CONFLICT'
      ],
      consumes: ['application/x-www-form-urlencoded'],
      body: Type.Object({
        grant_type: OneOf(['password', 'refresh_token'], { examples: ['password'] }),
        username: Type.Optional(LoginName),
        password: Type.Optional(Password),
        refresh_token: Type.Optional(RefreshToken)
      }, { // RFC 6749 has servers ignore fields that they do not know
        examples: [{ grant_type: 'password', username: 'alice', password: examplePassword }]
      }),
      response: { 200: Named(Token) }
    }
  }, async request => {
    const { grant_type: grant, username, password, refresh_token: refreshToken } = request.body
    const given = (name: string, value: string | undefined) =>
      value ?? unexpectedly({ field: name, expected: `a value, because grant_type is ${grant}`, received: 'nothing' })
    const login = grant === 'password'
      ? await app.logins.login(given('username', username), given('password', password), request)
      : await app.logins.refresh(given('refresh_token', refreshToken), request)
    return toToken(login, Date.now())
  })
}

const routes: FastifyPluginAsyncTypebox = async (app) => {
  app.post('/login', {
    config: { carriesCredentials: true, rateLimit: app.loginRateLimit },
    schema: {
      public: true,
      needsLogins: true,
      operationId: 'login',
      tags,
      summary: 'Get a token for a user name and a password',
      description: 'Opens a session. Failed logins make the account and the address wait; ' +
        'Retry-After says how long.',
      errors: [
        'SDR_INVALID_CREDENTIALS', 'SDR_PASSWORD_EXPIRED', 'SDR_ACCOUNT_UNAVAILABLE', 'SDR_SECOND_FACTOR_REQUIRED',
        'SDR_CONFLICT'
      ],
      body: Type.Object({ username: LoginName, password: Password }, {
        additionalProperties: false, examples: [{ username: 'alice', password: examplePassword }]
      }),
      response: { 200: Named(Login) }
    }
  }, async request => app.logins.login(request.body.username, request.body.password, request))

  await app.register(tokenRoute)

  app.post('/refresh', {
    config: { carriesCredentials: true, rateLimit: app.loginRateLimit },
    schema: {
      public: true,
      needsLogins: true,
      operationId: 'refresh',
      tags,
      summary: 'Get the next token for a refresh token',
      description: 'Each refresh token works once. Using one again ends the session, ' +
        'because there may be a copy of it.',
      errors: ['SDR_CONFLICT'],
      body: Type.Object({ refresh_token: RefreshToken }, {
        additionalProperties: false, examples: [{ refresh_token: 'sdrr_…' }]
      }),
      response: { 200: Named(Login) }
    }
  }, async request => app.logins.refresh(request.body.refresh_token, request))

  app.post('/logout', {
    config: { needsAccount: true },
    schema: {
      needsLogins: true,
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
    return reply.header('set-cookie', sessionCookie(request, app.config.basePath, '', 0)).code(204).send(null)
  })

  app.post('/password', {
    config: { needsAccount: true, isLasting: true, rateLimit: app.loginRateLimit },
    schema: {
      needsLogins: true,
      operationId: 'changePassword',
      tags,
      summary: 'Change your password',
      description: 'Ends all your other sessions.',
      errors: ['SDR_WRONG_PASSWORD', 'SDR_CONFLICT'],
      body: Type.Object({ current_password: Password, new_password: NewPassword }, {
        additionalProperties: false, examples: [{ current_password: examplePassword, new_password: examplePassword }]
      }),
      response: { 204: None }
    }
  }, async (request, reply) => {
    await app.logins.changePassword(request, request.body.current_password, request.body.new_password)
    return reply.code(204).send(null)
  })

  app.get('/sessions', {
    config: { needsAccount: true },
    schema: {
      needsLogins: true,
      operationId: 'listSessions',
      tags,
      summary: 'List your sessions',
      description: 'Where you are logged in, the last used first.',
      response: { 200: Named(SessionList) }
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
      needsLogins: true,
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

function unexpectedly (details: Parameters<typeof unexpected>[0]): never {
  throw unexpected(details)
}

export default routes
