import { errorTable, type ErrorCode } from '../../errors.ts'
import type { AuthMethod } from '../options/permissions.ts'
import { version } from '../util/version.ts'
import type { Declaration } from './route-needs.ts'
import { ErrorResponse, exampleId, Named } from './schemas.ts'
import type { TSchema } from './type.ts'

/** What any route can answer besides what it says itself. */
const commonErrors: readonly ErrorCode[] = [
  'SDR_INVALID_REQUEST', 'SDR_INVALID_JSON', 'SDR_AMBIGUOUS_CREDENTIALS', 'SDR_UNAUTHENTICATED', 'SDR_INVALID_TOKEN',
  'SDR_TOKEN_EXPIRED', 'SDR_REQUEST_TIMEOUT', 'SDR_URI_TOO_LONG', 'SDR_HOST_NOT_ALLOWED', 'SDR_RATE_LIMITED',
  'SDR_HEADERS_TOO_LARGE', 'SDR_INTERNAL', 'SDR_UNAVAILABLE'
]

/** What any route with a body can answer. */
const bodyErrors: readonly ErrorCode[] = ['SDR_BODY_TOO_LARGE', 'SDR_UNSUPPORTED_MEDIA_TYPE']

const safeMethods = ['GET', 'HEAD']

type SecurityScheme =
  | { type: 'http', scheme: 'bearer', bearerFormat?: string, description: string }
  | { type: 'apiKey', in: 'header', name: string, description: string }

const tags = [
  { name: 'generate', description: 'Make images. Every request becomes a job.' },
  { name: 'queue', description: 'Follow, fetch and cancel jobs.' },
  { name: 'models', description: 'What this server can draw with.' },
  { name: 'authentication', description: 'Log in and out; sessions and API keys.' },
  { name: 'users', description: 'Manage accounts.' },
  { name: 'server', description: 'How the server is.' }
]

const description = `Image generation with stable-diffusion.cpp over HTTP.

1. **Log in**: \`POST /api/auth/login\` answers with a token for \`Authorization: Bearer …\`; programs use an API key.
2. **Generate**: \`POST /api/generate/txt2img\` answers 202 with a job at once, or with \`?wait=60\` the finished job.
3. **Follow**: \`GET /api/queue/job/{id}/events\` tells its progress as server-sent events.
4. **Fetch**: \`GET /api/queue/job/{id}/images/0\` is the image.

Every error has one shape, with a \`code\` for programs and a \`message\` for people. Times are ISO 8601 in UTC.`

/** What the document says of the server as a whole. */
export const about = {
  openapi: '3.1.0',
  info: {
    title: 'stable-diffusion-rest', version, description, license: { name: 'MIT', identifier: 'MIT' }
  },
  servers: [{ url: '/', description: 'This server' }],
  tags
}

interface Route {
  method: string | string[]
  config?: Declaration
}

interface Schema {
  body?: unknown
  errors?: readonly ErrorCode[]
  errorSchema?: TSchema & { $id: string }
}

/**
 * How the running method lets callers prove who they are. HTTP Basic is left out: it is for clients that know nothing
 * else, and a generated one would send it over the token.
 */
export function securitySchemesOf (auth: AuthMethod): Record<string, SecurityScheme> {
  if (auth === 'none') return {}
  const takesTokens = auth !== 'api-key'
  return {
    bearer: {
      type: 'http',
      scheme: 'bearer',
      ...(takesTokens && { bearerFormat: 'JWT' }),
      description: takesTokens ? 'The token of POST /api/auth/login, or an API key' : 'An API key'
    },
    apiKey: { type: 'apiKey', in: 'header', name: 'X-API-Key', description: 'An API key' }
  }
}

/** The errors that a route can answer, by status; the description lists the codes, where our shape has them. */
export function errorResponses (
  { method, config }: Route, { body, errors = [], errorSchema }: Schema
): Record<string, object> {
  const canBeForbidden = config?.permission !== undefined || config?.needsAccount === true ||
    ![method].flat().every(one => safeMethods.includes(one))
  const codes = new Set([
    ...commonErrors,
    ...(body === undefined ? [] : bodyErrors),
    ...(canBeForbidden ? ['SDR_FORBIDDEN' as const] : []),
    ...errors
  ])
  const byStatus = new Map<number, string[]>()
  for (const code of codes) {
    const [status, message] = errorTable[code]
    const line = errorSchema === undefined ? `\`${code}\`: ${message}` : message
    byStatus.set(status, [...byStatus.get(status) ?? [], line])
  }
  const schema = errorSchema ?? ErrorResponse
  return Object.fromEntries([...byStatus].map(([status, lines]) => [status, Named(schema, lines.join('\n\n'))]))
}

interface ErrorAnswer {
  description: string
  content?: Record<string, object>
}

interface Operation {
  responses: Record<string, ErrorAnswer>
}

export interface Document {
  components?: { responses?: Record<string, object> }
  paths?: Record<string, Record<string, Operation>>
}

/** Most routes refuse with the same few answers: each stands once among the components, named by what sets it apart. */
export function shareErrors (document: Document): Document {
  const responses: Record<string, object> = {}
  for (const { responses: own } of Object.values(document.paths ?? {}).flatMap(Object.values<Operation>)) {
    for (const [status, response] of Object.entries(own)) {
      const codes = [...response.description.matchAll(/^`(SDR_\w+)`/gm)].map(([, code]) => code as ErrorCode)
      if (codes.length === 0) continue
      const special = codes.filter(code => !commonErrors.includes(code))
      const name = (special.length > 0 ? special : codes.slice(0, 1)).map(pascalCase).join('Or')
      responses[name] = withExample(response, special[0] ?? codes[0]!)
      Object.assign(own, { [status]: { $ref: `#/components/responses/${name}` } })
    }
  }
  document.components = { ...document.components, responses }
  return document
}

/** What an error of this code looks like; the schema itself shows one of SDR_INVALID_REQUEST, with details. */
function withExample (response: ErrorAnswer, code: ErrorCode): ErrorAnswer {
  if (code === 'SDR_INVALID_REQUEST') return response
  const example = { error: { code, message: errorTable[code][1], request_id: exampleId } }
  const content = Object.entries(response.content ?? {}).map(([type, media]) => [type, { ...media, example }])
  return { ...response, content: Object.fromEntries(content) as ErrorAnswer['content'] }
}

/** `SDR_JOB_NOT_FOUND` → `JobNotFound` */
function pascalCase (code: string): string {
  return code.slice('SDR'.length).toLowerCase().replace(/_(.)/g, (_, letter: string) => letter.toUpperCase())
}
