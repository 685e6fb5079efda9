import { randomUUID } from 'node:crypto'
import { STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import { Readable } from 'node:stream'
import fp from 'fastify-plugin'
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify'
import { apiError, errorTable, type ApiError, type ErrorCode } from '../errors.ts'
import { discardBody, isBodyUnderWay, mostDiscarded } from '../lib/http/discard-body.ts'
import { EngineError, type EngineErrorCode } from '../lib/engine/engine.ts'
import { shortened } from '../lib/util/text.ts'
import { storageError } from '../lib/storage/storage-errors.ts'

/** The framework's refusals whose status says too little. */
const frameworkCodes: Readonly<Record<string, ErrorCode>> = {
  FST_ERR_CTP_INVALID_JSON_BODY: 'SDR_INVALID_JSON',
  FST_ERR_CTP_EMPTY_JSON_BODY: 'SDR_INVALID_JSON'
}

/** What the parser of HTTP says of more than a wrong byte. */
const parserCodes: Readonly<Record<string, ErrorCode>> = {
  ERR_HTTP_REQUEST_TIMEOUT: 'SDR_REQUEST_TIMEOUT',
  HPE_HEADER_OVERFLOW: 'SDR_HEADERS_TOO_LARGE'
}

/** The status decides when the code says nothing, for example for what a plugin refuses. */
const statusCodes: Readonly<Record<number, ErrorCode>> = {
  401: 'SDR_UNAUTHENTICATED',
  403: 'SDR_FORBIDDEN',
  404: 'SDR_NOT_FOUND',
  405: 'SDR_METHOD_NOT_ALLOWED',
  406: 'SDR_NOT_ACCEPTABLE',
  413: 'SDR_BODY_TOO_LARGE',
  414: 'SDR_URI_TOO_LONG',
  415: 'SDR_UNSUPPORTED_MEDIA_TYPE',
  429: 'SDR_RATE_LIMITED',
  503: 'SDR_UNAVAILABLE'
}

/** What an engine says of the model or the request; everything else is about the engine. */
const engineRefusals: readonly EngineErrorCode[] = ['model_load_failed', 'invalid_parameters', 'unsupported']

/** One shape for every error: `{"error": {code, message, details?, request_id}}`. */
export default fp(async (app) => {
  app.setErrorHandler((error: FastifyError, request, reply) => sendError(error, request, reply))

  const routes: KnownRoute[] = []
  app.addHook('onRoute', ({ method, url }) => {
    // Preflights are no business of a route, and with --cors-origins they match every URL.
    for (const one of [method].flat()) if (one !== 'OPTIONS') routes.push({ method: one, pattern: patternOf(url) })
  })
  app.setNotFoundHandler(async (request, reply) => {
    const path = request.url.split('?', 1)[0]!
    const methods = methodsOf(path, routes)
    if (methods.length > 0 && !methods.includes(request.method)) {
      reply.header('allow', methods.join(', '))
      const expected = `${methods.join(' or ')} for ${shortened(path)}`
      throw apiError('SDR_METHOD_NOT_ALLOWED', `Expected ${expected} but received ${request.method}.`)
    }
    const tidy = path.replaceAll(/\/{2,}/g, '/').replace(/(.)\/$/, '$1')
    const hint = tidy === path ? '' : `; it has ${path.includes('//') ? 'two slashes in a row' : 'a slash at its end'}`
    const advice = hint !== '' && methodsOf(tidy, routes).length > 0 ? `: the URL is ${shortened(tidy)}` : ''
    throw apiError('SDR_NOT_FOUND', `There is no ${request.method} ${path.slice(0, 200)}${hint}${advice}.`)
  })
}, { name: 'errors' })

interface KnownRoute {
  method: string
  pattern: RegExp
}

function patternOf (url: string): RegExp {
  const parts = url.split(/(:\w+|\*)/).map(part => {
    if (part === '*') return '.+'
    return part.startsWith(':') ? '[^/]+' : part.replaceAll(/[.+?^${}()|[\]\\]/g, '\\$&')
  })
  return new RegExp(`^${parts.join('')}$`, 's')
}

/** The methods that the URL of a route takes; none for any other URL. */
function methodsOf (path: string, routes: readonly KnownRoute[]): string[] {
  return [...new Set(routes.filter(({ pattern }) => pattern.test(path)).map(({ method }) => method))].sort()
}

/** Also for what the router refuses before any hook runs. */
export function sendError (thrown: Error, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const error = toApiError(thrown, request)
  const status = errorTable[error.code as ErrorCode][0]
  if (status === 500) request.log.error({ err: thrown }, error.message)
  else if (status > 500) {
    // Foreseen, and there may be many.
    request.log.warn({ code: error.code, reason: (error.cause as Error | undefined)?.message }, error.message)
  }
  if (error.retryAfter !== undefined) reply.header('retry-after', String(Math.ceil(error.retryAfter)))
  if (status === 401 || error.scope !== undefined) reply.header('www-authenticate', challenge(request, error))
  return reply.code(status).type('application/json; charset=utf-8').send(afterBody(request, reply, {
    error: { code: error.code, message: error.message, details: error.details, request_id: request.id }
  }))
}

/** An answer that goes out at once and ends when the rest of the body has come, so that the client gets to read it. */
function afterBody ({ raw }: FastifyRequest, reply: FastifyReply, answer: object): object {
  if (!isBodyUnderWay(raw)) return answer
  if (Number(raw.headers['content-length'] ?? 0) > mostDiscarded) {
    reply.header('connection', 'close')
    return answer
  }
  const text = JSON.stringify(answer)
  reply.header('content-length', Buffer.byteLength(text))
  return Readable.from((async function * () {
    yield text
    const isWhole = await discardBody(raw)
    if (!isWhole) reply.raw.once('finish', () => raw.socket.destroy())
  })())
}

/** Answers what the HTTP parser refuses before there is a request, in the same shape, and ends the bare connection. */
export function refuseConnection (error: Error & { code?: string, reason?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || socket.destroyed) return
  const code = parserCodes[error.code ?? ''] ?? 'SDR_INVALID_REQUEST'
  const [status, known] = errorTable[code]
  const message = code === 'SDR_INVALID_REQUEST' ? `This is no valid HTTP/1.1: ${error.reason ?? error.message}` : known
  const body = JSON.stringify({ error: { code, message, request_id: randomUUID() } })
  if (socket.writable) {
    socket.write([
      `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
      'Connection: close',
      'Content-Type: application/json; charset=utf-8',
      `Content-Length: ${Buffer.byteLength(body)}`,
      '',
      body
    ].join('\r\n'))
  }
  socket.destroy(error)
}

function toApiError (error: Error & Partial<ApiError>, request: FastifyRequest): ApiError {
  if (error.code !== undefined && error.code in errorTable) return error as ApiError
  const unstored = storageError(error)
  if (unstored !== undefined) return unstored
  if (error instanceof EngineError) {
    return apiError(engineRefusals.includes(error.code) ? 'SDR_UNSUPPORTED_MODEL' : 'SDR_UNAVAILABLE',
      error.message, { cause: error })
  }
  if (error.code === 'FST_ERR_CTP_BODY_TOO_LARGE') return bodyTooLarge(request)
  const status = error.statusCode ?? 500
  const code = frameworkCodes[error.code ?? ''] ?? statusCodes[status] ??
    (status < 500 ? 'SDR_INVALID_REQUEST' : 'SDR_INTERNAL')
  // An unforeseen error may tell of the inside of the server; some messages of the framework say less than the table.
  const isBetterSaidByTable =
    code === 'SDR_INTERNAL' || code === 'SDR_UNSUPPORTED_MEDIA_TYPE' || code === 'SDR_INVALID_JSON'
  return apiError(code, isBetterSaidByTable ? undefined : error.message, { cause: error })
}

function bodyTooLarge ({ routeOptions, headers }: FastifyRequest): ApiError {
  const expected = `at most ${routeOptions.bodyLimit} bytes`
  const received = headers['content-length'] ?? 'more' // the length of a chunked body is unknown
  return apiError('SDR_BODY_TOO_LARGE', `Expected ${expected} for body but received ${received}`, {
    details: [{ field: 'body', expected, received }]
  })
}

/**
 * Browsers that navigate are asked for an API key; a script's request must not make them pop up a dialog. It learns by
 * RFC 6750 whether other credentials would help.
 */
function challenge (request: FastifyRequest, { code, scope }: ApiError): string {
  if (scope === undefined && request.headers['sec-fetch-mode'] === 'navigate') {
    return 'Basic realm="stable-diffusion-rest: API key as password", charset="UTF-8"'
  }
  const bearer = 'Bearer realm="stable-diffusion-rest"'
  if (scope !== undefined) return `${bearer}, error="insufficient_scope", scope="${scope}"`
  return code === 'SDR_INVALID_TOKEN' || code === 'SDR_TOKEN_EXPIRED' ? `${bearer}, error="invalid_token"` : bearer
}
