import { errorTable, type ErrorCode } from '../../errors.ts'
import type { AuthMethod } from '../options/permissions.ts'
import { version } from '../util/version.ts'
import { nameSchemas, operationsOf, pascalCase, sayDefaults, spellOut, type SchemaDocument } from './openapi-schemas.ts'
import type { Declaration } from './route-needs.ts'
import { ErrorResponse, exampleId, Named } from './schemas.ts'
import type { TSchema } from './type.ts'

/** What any route can answer besides what it says itself. */
const commonErrors: readonly ErrorCode[] = [
  'SDR_INVALID_REQUEST', 'SDR_INVALID_JSON', 'SDR_AMBIGUOUS_CREDENTIALS', 'SDR_UNAUTHENTICATED', 'SDR_INVALID_TOKEN',
  'SDR_TOKEN_EXPIRED', 'SDR_RATE_LIMITED', 'SDR_INTERNAL', 'SDR_UNAVAILABLE'
]

/** What is answered before there is a route: said once for all of them. */
const transportErrors: readonly ErrorCode[] = [
  'SDR_REQUEST_TIMEOUT', 'SDR_URI_TOO_LONG', 'SDR_HOST_NOT_ALLOWED', 'SDR_HEADERS_TOO_LARGE'
]

/** What any request that may have a body can be answered, also where the route reads none. */
const bodyErrors: readonly ErrorCode[] = ['SDR_BODY_TOO_LARGE', 'SDR_UNSUPPORTED_MEDIA_TYPE']

const safeMethods = ['GET', 'HEAD']

type SecurityScheme =
  | { type: 'http', scheme: 'bearer', bearerFormat?: string, description: string }
  | { type: 'apiKey', in: 'header', name: string, description: string }
  | {
    type: 'oauth2'
    flows: { password: { tokenUrl: string, refreshUrl: string, scopes: Record<string, string> } }
    description: string
  }

const tags = [
  { name: 'authentication', description: 'Log in and out; sessions and API keys.' },
  { name: 'generate', description: 'Make images. Every request becomes a job.' },
  { name: 'queue', description: 'Follow, fetch and cancel jobs.' },
  { name: 'models', description: 'What this server can draw with.' },
  { name: 'users', description: 'Manage accounts.' },
  { name: 'server', description: 'How the server is.' },
  { name: 'openai', description: 'The images API of OpenAI, for programs that speak it; also below /api/v1.' },
  { name: 'a1111', description: "The API of AUTOMATIC1111's web UI, for programs that speak it." }
]

/** Where a client gets a token for a name and a password by OAuth 2.0. */
export const tokenPath = '/api/auth/token'

const logInSteps: Readonly<Record<'token' | 'api-key' | 'none', string>> = {
  token: '**Log in**: `POST /api/auth/login` answers with a token for `Authorization: Bearer …`; ' +
    'programs use an API key.',
  'api-key': '**Authenticate**: send your API key as `Authorization: Bearer …` or `X-API-Key`.',
  none: '**Authenticate**: not here; this server asks for no credentials.'
}

const descriptionWith = (logIn: string) => `Image generation with stable-diffusion.cpp over HTTP.

1. ${logIn}
2. **Generate**: \`POST /api/generate/txt2img\` answers 202 with a job at once, or with \`?wait=60\` the finished job.
3. **Follow**: \`GET /api/queue/job/{id}/events\` tells its progress as server-sent events.
4. **Fetch**: \`GET /api/queue/job/{id}/images/0\` is the image.

Every error has one shape, with a \`code\` for programs and a \`message\` for people. Times are ISO 8601 in UTC.

Besides what each operation lists, any request can be answered before the server knows its route:

${transportErrors.map(code => `- ${errorTable[code][0]} \`${code}\`: ${errorTable[code][1]}`).join('\n')}`

/** What the document says of the server as a whole. */
export function about (auth: AuthMethod) {
  const description = descriptionWith(logInSteps[hasLogins(auth) ? 'token' : auth as 'api-key' | 'none'])
  return {
    openapi: '3.1.0',
    info: {
      title: 'stable-diffusion-rest',
      version,
      description,
      contact: { name: 'The operator of this server' },
      license: { name: 'MIT', identifier: 'MIT' }
    },
    servers: serversAt('http://127.0.0.1:8080'),
    tags
  }
}

/**
 * For Swagger UI, which fills forms with words such as `string` where there is no example, and sends them. Objects,
 * which it cannot leave empty, are left to the operation that takes JSON.
 */
export function withEmptyForms<Made extends object> (made: Made): Made {
  const document = structuredClone(made) as Made & SchemaDocument
  const schemas = document.components?.schemas ?? {}
  for (const form of Object.entries(schemas).filter(([name]) => name.endsWith('Form')).map(([, schema]) => schema)) {
    const fields = Object.entries(form.properties ?? {}).map(([name, { $ref, ...field }]) =>
      [name, { ...schemas[$ref?.split('/').at(-1) ?? ''], ...field }] as const)
    form.properties = Object.fromEntries(fields.filter(([, { type }]) => type !== 'object').map(([name, field]) =>
      [name, { ...field, example: field.type === 'array' ? [] : '' }]))
  }
  return document
}

/** @param address of the server, as its clients see it. */
export function serversAt (address: string): Array<{ url: string, description: string }> {
  return [{ url: address, description: 'This server' }]
}

/** Whether names and passwords log in. */
export function hasLogins (auth: AuthMethod): boolean {
  return auth !== 'none' && auth !== 'api-key'
}

interface Route {
  method: string | string[]
  config?: Declaration
}

interface Schema {
  errors?: readonly ErrorCode[]
  errorSchema?: TSchema & { $id: string }
}

/**
 * How the running method lets callers prove who they are. HTTP Basic is left out: it is for clients that know nothing
 * else, and a generated one would send it over the token.
 */
export function securitySchemesOf (auth: AuthMethod): Record<string, SecurityScheme> {
  if (auth === 'none') return {}
  const takesTokens = hasLogins(auth)
  return {
    bearer: {
      type: 'http',
      scheme: 'bearer',
      ...(takesTokens && { bearerFormat: 'JWT' }),
      description: takesTokens ? 'The token of POST /api/auth/login, or an API key' : 'An API key'
    },
    apiKey: { type: 'apiKey', in: 'header', name: 'X-API-Key', description: 'An API key' },
    ...(takesTokens && {
      password: {
        type: 'oauth2',
        flows: { password: { tokenUrl: tokenPath, refreshUrl: tokenPath, scopes: {} } },
        description: 'User name and password; client_id and client_secret stay empty'
      }
    })
  }
}

/** The errors that a route can answer, by status; the description lists the codes, where our shape has them. */
export function errorResponses (
  { method, config }: Route, { errors = [], errorSchema }: Schema
): Record<string, object> {
  const isSafe = [method].flat().every(one => safeMethods.includes(one))
  const canBeForbidden = config?.permission !== undefined || config?.needsAccount === true || !isSafe
  const codes = new Set([
    ...commonErrors,
    ...(isSafe ? [] : bodyErrors),
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

interface Answer {
  description: string
  headers?: Record<string, object>
  content?: Record<string, object>
}

interface Operation {
  parameters?: Array<{ in: string, name: string }>
  responses: Record<string, Answer>
}

export interface Document {
  components?: { responses?: Record<string, object>, headers?: Record<string, object> }
  paths?: Record<string, Record<string, Operation>>
}

/** What answers carry beside their bodies. */
const headers = {
  'X-Request-Id': { schema: { type: 'string', format: 'uuid' }, description: 'Stands in the log of the server too' },
  'X-RateLimit-Limit': { schema: { type: 'integer' }, description: 'Requests that the caller may make in a minute' },
  'X-RateLimit-Remaining': { schema: { type: 'integer' }, description: 'How many of them are left' },
  'X-RateLimit-Reset': { schema: { type: 'integer' }, description: 'Seconds until all of them are there again' },
  'Retry-After': { schema: { type: 'integer' }, description: 'Seconds after which a retry makes sense' },
  'WWW-Authenticate': { schema: { type: 'string' }, description: 'Which credentials would help (RFC 6750, RFC 7617)' }
} as const

type HeaderName = keyof typeof headers

function headersOf (status: string): HeaderName[] {
  if (status === '401' || status === '403') return ['X-Request-Id', 'WWW-Authenticate']
  if (status === '429' || status === '503') return ['X-Request-Id', 'Retry-After']
  if (status >= '400') return ['X-Request-Id']
  return ['X-Request-Id', 'X-RateLimit-Limit', 'X-RateLimit-Remaining', 'X-RateLimit-Reset']
}

/** Headers as people write them: `Idempotency-Key`. */
function headerCase (name: string): string {
  return name.replaceAll(/(?<![a-z])[a-z]/g, letter => letter.toUpperCase()).replace(/-Id$/, '-ID')
}

/**
 * Makes the document one that clients can be generated from.
 * @param made by the plugin, from the routes.
 * @param typed schemas for what the routes do not type, by the name of the component and the property.
 */
export function finish (made: Document & SchemaDocument, typed: Record<string, object>): Document {
  const document = structuredClone(made) // parts of it are the schemas that requests are held against
  for (const [place, schema] of Object.entries(typed)) {
    const [component, property] = place.split('.') as [string, string]
    const known = document.components?.schemas?.[component]?.properties
    if (known?.[property] === undefined) continue
    known[property] = { ...known[property], ...structuredClone(schema) }
    sayDefaults(known[property])
  }
  for (const { requestBody: { content = {} } = {} } of operationsOf(document)) {
    for (const { schema } of Object.values(content)) sayDefaults(schema)
    const form = content['multipart/form-data']?.schema
    // Swagger UI would fill them in and send them.
    for (const field of Object.values(form?.properties ?? {})) field.examples = undefined
  }
  nameSchemas(document)
  shareErrors(document)
  for (const { parameters = [], responses } of Object.values(document.paths ?? {}).flatMap(Object.values<Operation>)) {
    for (const parameter of parameters) if (parameter.in === 'header') parameter.name = headerCase(parameter.name)
    for (const [status, response] of Object.entries(responses)) {
      if (!('$ref' in response)) response.headers = { ...cased(response.headers), ...referencesTo(headersOf(status)) }
    }
  }
  document.components = { ...document.components, headers: { ...headers } }
  spellOut(document)
  return document
}

function cased (headers: Record<string, object> = {}): Record<string, object> {
  return Object.fromEntries(Object.entries(headers).map(([name, header]) => [headerCase(name), header]))
}

function referencesTo (names: HeaderName[]): Record<string, object> {
  return Object.fromEntries(names.map(name => [name, { $ref: `#/components/headers/${name}` }]))
}

/** Most routes refuse with the same few answers: each stands once among the components, named by what sets it apart. */
function shareErrors (document: Document): void {
  const responses: Record<string, object> = {}
  for (const { responses: own } of Object.values(document.paths ?? {}).flatMap(Object.values<Operation>)) {
    for (const [status, response] of Object.entries(own)) {
      const codes = [...response.description.matchAll(/^`(SDR_\w+)`/gm)].map(([, code]) => code as ErrorCode)
      if (codes.length === 0) continue
      const special = codes.filter(code => !commonErrors.includes(code))
      const name = (special.length > 0 ? special.sort() : codes.slice(0, 1)).map(nameOf).join('Or')
      responses[name] = {
        ...withExample(response, special[0] ?? codes[0]!), headers: referencesTo(headersOf(status))
      }
      Object.assign(own, { [status]: { $ref: `#/components/responses/${name}` } })
    }
  }
  document.components = { ...document.components, responses }
}

/** What an error of this code looks like; the schema itself shows one of SDR_INVALID_REQUEST, with details. */
function withExample (response: Answer, code: ErrorCode): Answer {
  if (code === 'SDR_INVALID_REQUEST') return response
  const example = { error: { code, message: errorTable[code][1], request_id: exampleId } }
  const content = Object.entries(response.content ?? {}).map(([type, media]) => [type, { ...media, example }])
  return { ...response, content: Object.fromEntries(content) as Answer['content'] }
}

/** `SDR_JOB_NOT_FOUND` → `JobNotFound` */
function nameOf (code: string): string {
  return pascalCase(code.slice('SDR_'.length).toLowerCase())
}
