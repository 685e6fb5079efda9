import createError, { type FastifyError } from '@fastify/error'

/**
 * Every error that a client can meet: code → HTTP status and default message. docs/errors.md lists the same table,
 * and test/docs.test.ts holds the two together.
 */
export const errorTable = {
  SDR_INVALID_REQUEST: [400, 'The request is not valid.'],
  SDR_INVALID_JSON: [400, 'The body is not valid JSON.'],
  SDR_AMBIGUOUS_CREDENTIALS: [400, 'The request carries more than one credential; send one.'],
  SDR_UNAUTHENTICATED: [401, 'Valid credentials are required.'],
  SDR_INVALID_CREDENTIALS: [401, 'The user name or the password is wrong.'],
  SDR_INVALID_TOKEN: [401, 'The token is not valid.'],
  SDR_TOKEN_EXPIRED: [401, 'The token has expired.'],
  SDR_WRONG_PASSWORD: [403, 'The current password is wrong.'],
  SDR_PASSWORD_EXPIRED: [403, 'The password has expired; change it on the system first.'],
  SDR_ACCOUNT_UNAVAILABLE: [403, 'The account is locked or has expired.'],
  SDR_SECOND_FACTOR_REQUIRED: [403,
    'The system asks this account for more than a password, which cannot be given here.'],
  SDR_FORBIDDEN: [403, 'This account may not do that.'],
  SDR_NOT_FOUND: [404, 'There is nothing here.'],
  SDR_JOB_NOT_FOUND: [404, 'There is no such job.'],
  SDR_IMAGE_NOT_FOUND: [404, 'There is no such image.'],
  SDR_MODEL_NOT_FOUND: [404, 'There is no such model.'],
  SDR_USER_NOT_FOUND: [404, 'There is no such user.'],
  SDR_KEY_NOT_FOUND: [404, 'There is no such API key.'],
  SDR_SESSION_NOT_FOUND: [404, 'There is no such session.'],
  SDR_METHOD_NOT_ALLOWED: [405, 'This URL does not take this method; Allow names those that it takes.'],
  SDR_REQUEST_TIMEOUT: [408, 'The request did not come to its end in time.'],
  SDR_CONFLICT: [409, 'The state of the resource does not allow that.'],
  SDR_JOB_NOT_CANCELLABLE: [409, 'The job has already ended.'],
  SDR_JOB_CANCELLED: [409, 'The job was cancelled.'],
  SDR_IDEMPOTENCY_CONFLICT: [409, 'This Idempotency-Key was used with a different request.'],
  SDR_BODY_TOO_LARGE: [413, 'The body is too large.'],
  SDR_URI_TOO_LONG: [414, 'The URL is too long.'],
  SDR_UNSUPPORTED_MEDIA_TYPE: [415, 'Content-Type must be application/json.'],
  SDR_HOST_NOT_ALLOWED: [421, 'This server does not answer for that host name.'],
  SDR_UNSUPPORTED_FEATURE: [422, 'The running engine lacks this feature.'],
  SDR_UNSUPPORTED_MODEL: [422, 'This model cannot be used for that.'],
  SDR_RATE_LIMITED: [429, 'Too many requests.'],
  SDR_QUEUE_FULL: [429, 'The queue is full.'],
  SDR_HEADERS_TOO_LARGE: [431, 'The headers of the request are too large.'],
  SDR_INTERNAL: [500, 'The server failed to answer; its log says why.'],
  SDR_JOB_FAILED: [502, 'The job failed.'],
  SDR_UNAVAILABLE: [503, 'The server cannot do this at the moment.'],
  SDR_DRAINING: [503, 'The server is shutting down.'],
  SDR_STORAGE_FULL: [507, 'The server has no room left to store this.']
} as const satisfies Record<string, readonly [status: number, message: string]>

export type ErrorCode = keyof typeof errorTable

interface ErrorExtra {
  /** Machine-readable detail for the client, for example the field, what was expected and what came. */
  details?: unknown
  /** Seconds after which a retry makes sense; becomes the Retry-After header. */
  retryAfter?: number
  /** Methods that the URL takes, for Allow. */
  allow?: string
  /** Permissions of which the credentials lack one, for WWW-Authenticate. */
  scope?: string
  cause?: unknown
}

export type ApiError = FastifyError & ErrorExtra

const constructors = new Map(Object.entries(errorTable).map(
  ([code, [status]]) => [code, createError(code, '%s', status)]
))

/** Makes the error that `errorTable` lists under `code`; `message` replaces the default when there is more to say. */
export function apiError (code: ErrorCode, message: string = errorTable[code][1], extra: ErrorExtra = {}): ApiError {
  const ErrorOfCode = constructors.get(code)!
  return Object.assign(new ErrorOfCode(message), extra)
}

/** A value is not what it has to be; every such error names the field, what was expected and what came. */
export function unexpected (details: { field: string, expected: string, received: string }, cause?: unknown): ApiError {
  const { field, expected, received } = details
  const message = expected === 'a value' && received === 'nothing'
    ? `${field} is missing`
    : `Expected ${expected} for ${field} but received ${received}`
  return apiError('SDR_INVALID_REQUEST', message, { details: [details], cause })
}

/** Exit codes of the command line, in docs/errors.md too. */
export const exitCodes = {
  ok: 0,
  /** A command ran and its answer is no: `doctor` found a problem, a user does not exist. */
  failure: 1,
  /** An option, environment variable or configuration file is wrong. */
  usage: 2,
  /** The address cannot be listened on: in use, not allowed, unknown. */
  listen: 3,
  /** A folder or file is missing, unreadable or not writable. */
  storage: 4,
  /** No usable engine. */
  engine: 5,
  /** A defect of this program. */
  internal: 70,
  /** Ctrl-C, as shells number it. */
  interrupted: 130,
  /** Who read the output has closed it before its end, as `head` does: SIGPIPE, as shells number it. */
  closed_pipe: 141
} as const

/** A failure with one clear line for the terminal and an exit code; the command line prints no stack for it. */
export class CommandError extends Error {
  readonly exitCode: number
  constructor (exitCode: number, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'CommandError'
    this.exitCode = exitCode
  }
}
