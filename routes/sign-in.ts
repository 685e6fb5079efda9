import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { type ApiError, apiError, errorTable, type ErrorCode } from '../errors.ts'
import { sessionCookie } from '../lib/accounts/session-cookie.ts'
import { readFields } from '../lib/http/form-fields.ts'
import { hasLogins } from '../lib/http/openapi.ts'
import { isOwnPage } from '../lib/http/origins.ts'
import { pathToGoTo, signInHeaders, signInPage, signInPath } from '../lib/http/sign-in-page.ts'
import { Type } from '../lib/http/type.ts'

const Field = Type.Optional(Type.String({ maxLength: 4096, writeOnly: true }))

/**
 * What people meet who open the server in a browser. Without --base-path redirects are relative, below any path of a
 * proxy.
 */
const routes: FastifyPluginAsyncTypebox = async (app) => {
  const { auth, basePath } = app.config
  app.addContentTypeParser('application/x-www-form-urlencoded', { parseAs: 'string', bodyLimit: 16 * 1024 },
    async (_request: unknown, text: string) => readFields(text))

  app.get('/', { config: { anyCaller: true }, schema: { hide: true } }, async (_request, reply) =>
    reply.redirect(`${basePath ?? '.'}/api/docs/`))

  app.post(signInPath, {
    config: { carriesCredentials: true, rateLimit: app.loginRateLimit },
    schema: {
      public: true,
      hide: true,
      body: Type.Object({
        username: Field, password: Field, api_key: Field, next: Field
      }, { additionalProperties: false })
    }
  }, async (request, reply) => {
    const { username = '', password = '', api_key: key = '', next } = request.body
    try {
      if (!isOwnPage(request)) {
        throw apiError('SDR_FORBIDDEN',
          'Only the page of this server signs a browser in, whatever --cors-origins allows.')
      }
      if (key === '') {
        const { token, expires_at: end } = await app.logins.login(username, password, request)
        const seconds = Math.max(1, Math.floor((Date.parse(end) - Date.now()) / 1000))
        reply.header('set-cookie', sessionCookie(request, basePath, token, seconds))
      } else {
        reply.header('set-cookie', sessionCookie(request, basePath, await checkedKey(request, key.trim())))
      }
      return await reply.redirect(`${basePath ?? '.'}${pathToGoTo(next)}`, 303)
    } catch (error) {
      return sendPage(reply, error as ApiError, next)
    }
  })

  /** @throws {ApiError} 401, or 429 after too many wrong ones */
  async function checkedKey (request: FastifyRequest, value: string): Promise<string> {
    try {
      const principal = await app.keys.identify({ kind: 'api-key', value })
      if (principal === undefined || !app.guard.accepts(principal)) throw apiError('SDR_INVALID_TOKEN')
      return value
    } catch (error) {
      throw await app.rateLimits.countRefused(request, error as ApiError)
    }
  }

  function sendPage (reply: FastifyReply, error: ApiError, next: string | undefined) {
    const known = errorTable[error.code as ErrorCode]
    if (known === undefined || known[0] >= 500) throw error
    if (error.retryAfter !== undefined) reply.header('retry-after', String(Math.ceil(error.retryAfter)))
    return reply.code(known[0]).headers(signInHeaders).send(signInPage({
      url: signInPath, basePath, takesPasswords: hasLogins(auth), next: pathToGoTo(next), error: error.message
    }))
  }
}

export default routes
