import { randomUUID } from 'node:crypto'
import { STATUS_CODES, type IncomingMessage, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { Readable } from 'node:stream'
import { apiError, errorTable, type ApiError, type ErrorCode } from '../../errors.ts'
import { EngineError, type EngineErrorCode } from '../engine/engine.ts'
import { storageError } from '../storage/storage-errors.ts'
import { discardBody, isBodyUnderWay, mostDiscarded } from './discard-body.ts'

interface FailedRequest {
  id: string
  headers: IncomingMessage['headers']
  routeOptions: { bodyLimit?: number }
  log: Record<'error' | 'warn', (details: object, message: string) => void>
  raw: IncomingMessage
}

/** How the clients of an API want an error. */
export interface ErrorShape {
  body: (error: AnsweredError) => object
  /** Headers besides those of every error, or in their place. */
  headers?: (error: AnsweredError) => Record<string, string>
}

export interface AnsweredError {
  code: ErrorCode
  status: number
  message: string
  details?: unknown
  requestId: string
}

const ownShape: ErrorShape = {
  body: ({ code, message, details, requestId }) => ({ error: { code, message, details, request_id: requestId } })
}

interface ErrorAnswer {
  status: number
  headers: Record<string, string>
  body: object
}

/** Errors of the framework whose status says too little. */
const frameworkCodes: Readonly<Record<string, ErrorCode>> = {
  FST_ERR_CTP_INVALID_JSON_BODY: 'SDR_INVALID_JSON',
  FST_ERR_CTP_EMPTY_JSON_BODY: 'SDR_INVALID_JSON'
}

/** What the parser of HTTP says of more than a wrong byte. */
const parserCodes: Readonly<Record<string, ErrorCode>> = {
  ERR_HTTP_REQUEST_TIMEOUT: 'SDR_REQUEST_TIMEOUT',
  HPE_HEADER_OVERFLOW: 'SDR_HEADERS_TOO_LARGE'
}

/** The status decides when the code says nothing, for example for errors of a plugin. */
const statusCodes: Readonly<Record<number, ErrorCode>> = {
  401: 'SDR_UNAUTHENTICATED',
  403: 'SDR_FORBIDDEN',
  404: 'SDR_NOT_FOUND',
  405: 'SDR_METHOD_NOT_ALLOWED',
  413: 'SDR_BODY_TOO_LARGE',
  414: 'SDR_URI_TOO_LONG',
  415: 'SDR_UNSUPPORTED_MEDIA_TYPE',
  429: 'SDR_RATE_LIMITED',
  503: 'SDR_UNAVAILABLE'
}

/** Errors of an engine about the model or the request; all others are about the engine. */
const modelErrors: readonly EngineErrorCode[] = ['model_load_failed', 'invalid_parameters', 'unsupported']

/**
 * What a request gets for an error: `{"error": {code, message, details?, request_id}}`, or what `shape` makes of it.
 * Logs errors of the server.
 * @param response the body of a request that is still under way is read before its connection ends
 */
export function errorAnswer (
  thrown: Error, request: FailedRequest, response: ServerResponse, shape: ErrorShape = ownShape
): ErrorAnswer {
  const error = toApiError(thrown, request)
  const { code, message, details, retryAfter, scope } = error
  const status = errorTable[code as ErrorCode][0]
  if (status === 500) request.log.error({ err: thrown }, message)
  else if (status > 500) {
    // Foreseen, and there may be many.
    request.log.warn({ code, reason: (error.cause as Error | undefined)?.message }, message)
  }
  const headers: Record<string, string> = {}
  if (error.allow !== undefined) headers.allow = error.allow
  if (retryAfter !== undefined) headers['retry-after'] = String(Math.ceil(retryAfter))
  if (status === 401 || scope !== undefined) headers['www-authenticate'] = challenge(error)
  const list = details === undefined ? undefined : [details].flat()
  const answered = { code: code as ErrorCode, status, message, details: list, requestId: request.id }
  Object.assign(headers, shape.headers?.(answered))
  const body = shape.body(answered)
  if (!isBodyUnderWay(request.raw)) return { status, headers, body }
  if (Number(request.headers['content-length'] ?? 0) > mostDiscarded) {
    return { status, headers: { ...headers, connection: 'close' }, body }
  }
  const text = JSON.stringify(body)
  return {
    status,
    headers: { ...headers, 'content-length': String(Buffer.byteLength(text)) },
    body: Readable.from(afterBody(text, request.raw, response))
  }
}

/** An answer that goes out at once and ends when the rest of the body has come, so that the client gets to read it. */
async function * afterBody (text: string, request: IncomingMessage, response: ServerResponse): AsyncGenerator<string> {
  yield text
  const isWhole = await discardBody(request)
  if (!isWhole) response.once('finish', () => request.socket.destroy())
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

function toApiError (error: Error & Partial<ApiError>, request: FailedRequest): ApiError {
  if (error.code !== undefined && error.code in errorTable) return error as ApiError
  const unstored = storageError(error)
  if (unstored !== undefined) return unstored
  if (error instanceof EngineError) {
    return apiError(modelErrors.includes(error.code) ? 'SDR_UNSUPPORTED_MODEL' : 'SDR_UNAVAILABLE',
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

function bodyTooLarge ({ routeOptions, headers }: FailedRequest): ApiError {
  const expected = `at most ${routeOptions.bodyLimit} bytes`
  const received = headers['content-length'] ?? 'more' // the length of a chunked body is unknown
  return apiError('SDR_BODY_TOO_LARGE', `Expected ${expected} for body but received ${received}`, {
    details: [{ field: 'body', expected, received }]
  })
}

/**
 * By RFC 6750 clients learn whether other credentials would help. Never Basic: browsers would pop up a dialog over the
 * sign-in page.
 */
function challenge ({ code, scope }: ApiError): string {
  const bearer = 'Bearer realm="stable-diffusion-rest"'
  if (scope !== undefined) return `${bearer}, error="insufficient_scope", scope="${scope}"`
  return code === 'SDR_INVALID_TOKEN' || code === 'SDR_TOKEN_EXPIRED' ? `${bearer}, error="invalid_token"` : bearer
}
