import { Type, type Static, type TSchema } from '../lib/type.ts'
import type { FastifyInstance } from 'fastify'
import { errorTable } from '../errors.ts'
import { accountRoles, permissions, rolePermissions, roles, type Permission } from '../lib/principals.ts'
import { jobPhases, jobStatuses, jobTypes } from '../lib/jobs/job.ts'
import { modelTypes } from '../lib/models/types.ts'
import { longestCursor, pageSize } from '../lib/page.ts'
import { passwordLength } from '../lib/passwords.ts'
import { usernamePattern } from '../lib/users.ts'

/** Schemas that more than one route uses; `$id` is their name in the OpenAPI document. */

const shared: TSchema[] = []

/** Gives a schema its name in the OpenAPI document. */
export function named<Schema extends TSchema> (id: string, schema: Schema): Schema & { $id: string } {
  const result = Object.assign(schema, { $id: id })
  shared.push(result)
  return result
}

/**
 * Makes all named schemas known to the whole application. Not where they are used: a plugin that adds schemas of its own gets
 * a validator of its own from Fastify, without what plugins/validation.ts says.
 */
export function addSchemas (app: FastifyInstance): void {
  for (const schema of shared) app.addSchema(schema)
}

export function OneOf<const Values extends readonly string[]> (values: Values, options: Record<string, unknown> = {}) {
  return Type.Unsafe<Values[number]>({ type: 'string', enum: [...values], ...options })
}

/** As a list of types: for a union the first answer of each route would wait for a validator to be compiled. */
export function Nullable<Schema extends TSchema> (schema: Schema) {
  const { type, enum: values } = schema as { type?: string, enum?: readonly unknown[] }
  return Type.Unsafe<Static<Schema> | null>({ ...schema, type: [type, 'null'], ...(values !== undefined && { enum: [...values, null] }) })
}

export const Time = (description: string) => Type.String({ format: 'date-time', description })

export const exampleId = '019dc0de-7a3e-7c21-9f0b-3f2a5b6c7d8e'
const exampleTime = '2026-08-01T12:00:00.000Z'
const laterTime = '2026-08-01T12:00:07.250Z'

export const Id = (description: string) => Type.String({ format: 'uuid', description, examples: [exampleId] })

/** Of `?wait=` in seconds; proxies and clients give up not much later. */
export const waitBounds = { minimum: 0, maximum: 600 }

export const Wait = Type.Object({
  wait: Type.Optional(Type.Integer({ ...waitBounds, description: 'Seconds to wait for the end of the job' }))
}, { additionalProperties: false })

/** What the query of a list has beside its filters. */
export const PageQuery = {
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: pageSize.maximum, default: pageSize.default })),
  cursor: Type.Optional(Type.String({ maxLength: longestCursor, description: 'next_cursor of the page before' }))
}

export const NextCursor = Nullable(Type.String({ description: 'For the cursor of the next request; null on the last page' }))

/** A reference by name that keeps the type of what it names. */
export const Named = <Schema extends TSchema & { $id: string }>(schema: Schema, description?: string) =>
  Type.Unsafe<Static<Schema>>({ $ref: `${schema.$id}#`, ...(description !== undefined && { description }) })

export const ErrorResponse = named('Error', Type.Object({
  error: Type.Object({
    code: OneOf(Object.keys(errorTable), { description: 'For programs; more may come, so treat an unknown one by its status' }),
    message: Type.String({ description: 'For people: what was expected, what came, what to do next' }),
    details: Type.Optional(Type.Unsafe<unknown>({ description: 'For programs, for example the field that was refused' })),
    request_id: Type.String({ description: 'Stands in the log of the server too' })
  })
}, {
  description: 'Every error has this shape',
  examples: [{
    error: {
      code: 'SDR_INVALID_REQUEST',
      message: 'Expected an integer from 1 to 150 for steps but received 0',
      details: [{ field: 'steps', expected: 'an integer from 1 to 150', received: '0' }],
      request_id: exampleId
    }
  }]
}))

const Permissions = Type.Unsafe<readonly Permission[]>({ type: 'array', items: { type: 'string', enum: [...permissions] } })

const Principal = {
  id: Type.String(),
  username: Type.String(),
  permissions: Permissions
}

const alice = { id: exampleId, username: 'alice', permissions: rolePermissions.user }

export const Login = named('Login', Type.Object({
  token: Type.String({ description: 'Access token: Authorization: Bearer <token>' }),
  token_type: Type.Literal('Bearer'),
  expires_at: Time('When the access token expires'),
  refresh_token: Type.String({ description: 'Good for one POST /api/auth/refresh' }),
  user: Type.Object({ ...Principal, role: OneOf(accountRoles) })
}, {
  description: 'A session: an access token and the refresh token that gets the next one',
  examples: [{
    token: 'eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9…',
    token_type: 'Bearer',
    expires_at: exampleTime,
    refresh_token: 'sdrr_0Rz5…',
    user: { ...alice, role: 'user' }
  }]
}))

export const Me = named('Me', Type.Object({
  ...Principal,
  role: OneOf(roles),
  via: OneOf(['none', 'jwt', 'api-key', 'guest'], { description: 'What proved it' })
}, {
  description: 'Who the request acts for', examples: [{ ...alice, role: 'user', via: 'jwt' }]
}))

export const Validation = named('Validation', Type.Object({
  valid: Type.Literal(true, { description: 'Credentials that are not are answered with 401' }),
  user: Type.Object({ ...Principal, role: OneOf(roles) }),
  ...Me.properties
}, {
  description: 'Who valid credentials belong to; the fields of `user` stand beside it too',
  examples: [{ valid: true, user: { ...alice, role: 'user' }, ...alice, role: 'user', via: 'jwt' }]
}))

export const User = named('User', Type.Object({
  id: Type.String(),
  username: Type.String(),
  source: OneOf(['local', 'unix', 'pam'], { description: 'Where the password is checked' }),
  role: OneOf(accountRoles),
  disabled: Type.Boolean(),
  created_at: Time('When it was made'),
  last_login_at: Nullable(Time('When it last logged in'))
}, {
  description: 'An account',
  examples: [{
    id: exampleId, username: 'alice', source: 'local', role: 'user', disabled: false, created_at: exampleTime, last_login_at: null
  }]
}))

export const Key = named('Key', Type.Object({
  id: Type.String(),
  name: Type.String(),
  user_id: Type.String(),
  username: Type.String(),
  permissions: Permissions,
  created_at: Time('When it was made'),
  expires_at: Nullable(Time('When it stops working')),
  last_used_at: Nullable(Time('When it was last used, to the minute'))
}, {
  description: 'An API key, without its secret',
  examples: [{
    id: '9f86d081884c7d65',
    name: 'laptop',
    user_id: exampleId,
    username: 'alice',
    permissions: rolePermissions.user,
    created_at: exampleTime,
    expires_at: null,
    last_used_at: null
  }]
}))

export const Session = named('Session', Type.Object({
  id: Type.String(),
  address: Type.String({ description: 'Where the login came from' }),
  user_agent: Type.String(),
  current: Type.Boolean({ description: 'The one of this request' }),
  created_at: Time('When the login was'),
  last_used_at: Time('When its token was last refreshed'),
  expires_at: Time('When it ends unless it is refreshed')
}, {
  description: 'A login',
  examples: [{
    id: exampleId,
    address: '192.0.2.7',
    user_agent: 'Mozilla/5.0',
    current: true,
    created_at: exampleTime,
    last_used_at: exampleTime,
    expires_at: '2026-08-31T12:00:00.000Z'
  }]
}))

export const Username = Type.String({ pattern: usernamePattern, maxLength: 64, description: 'Letters, digits and . _ - @', examples: ['alice'] })
export const Password = Type.String({ minLength: 1, maxLength: passwordLength.maximum, description: 'Password', writeOnly: true, examples: ['correct horse battery staple'] })

export const NewPassword = Type.String({
  minLength: passwordLength.minimum, maxLength: passwordLength.maximum, description: 'A new password', writeOnly: true, examples: ['correct horse battery staple']
})

export const Job = named('Job', Type.Object({
  id: Type.String({ description: 'UUID version 7' }),
  type: OneOf(jobTypes),
  status: OneOf(jobStatuses),
  owner: Type.String({ description: 'Id of the account that submitted it' }),
  model: Type.String({ description: 'Id of the model; of a pull its source' }),
  position: Nullable(Type.Integer({ description: 'Place in the queue, 1 is next; null when not queued' })),
  priority: Type.Integer({ description: 'Higher runs first' }),
  progress: Nullable(Type.Object({
    phase: OneOf(jobPhases),
    step: Type.Integer({ description: 'Of work on files: mebibytes' }),
    steps: Type.Integer({ description: '0 when it is not known how many' }),
    eta_seconds: Nullable(Type.Number({ description: 'Seconds to go, from measured step times' }))
  })),
  parameters: Type.Record(Type.String(), Type.Unknown(), { description: 'Everything needed to repeat it, the seed included' }),
  images: Type.Array(Type.Object({
    index: Type.Integer(),
    url: Type.String({ description: 'Path of the image on this server' }),
    width: Type.Integer(),
    height: Type.Integer(),
    format: Type.String(),
    bytes: Type.Integer(),
    seed: Type.Integer()
  })),
  result: Nullable(Type.Record(Type.String(), Type.Unknown(), { description: 'What came of a job that makes no images: model, size and sha256 of hash, pull and convert' })),
  error: Nullable(Type.Object({ code: Type.String(), message: Type.String() })),
  attempts: Type.Integer({ description: 'How often it was begun' }),
  created_at: Time('When it was accepted'),
  started_at: Nullable(Time('When an engine began')),
  finished_at: Nullable(Time('When it ended'))
}, {
  description: 'A request and what came of it',
  examples: [{
    id: exampleId,
    type: 'txt2img',
    status: 'completed',
    owner: exampleId,
    model: 'checkpoint/sd15.safetensors',
    position: null,
    priority: 0,
    progress: null,
    parameters: { prompt: 'a red fox in the snow', width: 512, height: 512, steps: 20, cfg_scale: 7, seed: 42 },
    images: [{
      index: 0, url: `/api/queue/job/${exampleId}/images/0`, width: 512, height: 512, format: 'png', bytes: 421337, seed: 42
    }],
    result: null,
    error: null,
    attempts: 1,
    created_at: exampleTime,
    started_at: exampleTime,
    finished_at: laterTime
  }]
}))

/** An answer whose Location header is the path of `what`. */
export function Located<Schema extends TSchema> (schema: Schema, what: string) {
  return { ...schema, headers: { location: { type: 'string', description: `Path of ${what}` } } }
}

/** What a request that becomes a job is answered. */
export const jobResponses = {
  200: Located(Named(Job, 'The job has ended within ?wait='), 'the job'),
  202: Located(Named(Job, 'The job is accepted; Location says where to follow it'), 'the job')
}

export const ModelName = Type.String({ minLength: 1, maxLength: 512, description: 'Id or name', examples: ['checkpoint/sd15.safetensors'] })

/** An id has slashes; clients that encode them and people who do not both get their model. */
export const ModelId = Type.Object({
  id: Type.String({ maxLength: 1024, description: 'Id of the model, its slashes as %2F or as they are', examples: ['checkpoint/sd15.safetensors'] })
})
export const ModelPath = Type.Object({ '*': Type.String({ maxLength: 1024 }) })

const Side = { width: Type.Integer(), height: Type.Integer() }

export const Model = named('Model', Type.Object({
  id: Type.String({ description: 'type/relative/path' }),
  type: OneOf(modelTypes),
  name: Type.String(),
  format: Type.String({ description: 'safetensors, gguf, bundle for models of several files…' }),
  size: Type.Integer({ description: 'Bytes' }),
  architecture: Nullable(Type.String()),
  variant: Nullable(Type.String()),
  quantization: Nullable(Type.String({ description: 'Data type of most weights, or mixed' })),
  parameters: Nullable(Type.Integer({ description: 'Number of weights' })),
  prediction: Nullable(Type.String()),
  resolution: Nullable(Type.Integer({ description: 'Pixels of one side that it was trained for' })),
  sha256: Nullable(Type.String({ description: 'Known once it was asked for' })),
  modified_at: Time('When the file was changed'),
  blocked: Nullable(Type.String({ description: 'Why it is never loaded' })),
  error: Nullable(Type.String({ description: 'Why it cannot be loaded as it is' })),
  defaults: Nullable(Type.Object({
    ...Type.Partial(Type.Object({ ...Side, steps: Type.Integer(), cfg_scale: Type.Number(), guidance: Type.Number(), sampler: Type.String(), scheduler: Type.String() })).properties
  }, { description: 'What a request that leaves these out gets' })),
  limits: Nullable(Type.Object({ min_side: Type.Integer(), max_side: Type.Integer(), multiple_of: Type.Integer(), square_only: Type.Boolean() })),
  trigger_words: Type.Array(Type.String()),
  metadata: Type.Record(Type.String(), Type.String()),
  loaded: Type.Boolean({ description: 'In the memory of the engine' }),
  path: Type.Optional(Type.String({ description: 'For those who may manage models' }))
}, {
  description: 'A model file, or several that make one',
  examples: [{
    id: 'checkpoint/sd15.safetensors',
    type: 'checkpoint',
    name: 'sd15',
    format: 'safetensors',
    size: 2132696762,
    architecture: 'sd1',
    variant: null,
    quantization: 'F16',
    parameters: 1066235307,
    prediction: null,
    resolution: 512,
    sha256: null,
    modified_at: exampleTime,
    blocked: null,
    error: null,
    defaults: { width: 512, height: 512, steps: 20, cfg_scale: 7 },
    limits: { min_side: 64, max_side: 2048, multiple_of: 8, square_only: false },
    trigger_words: [],
    metadata: {},
    loaded: true
  }]
}))

export const None = Type.Null({ description: 'Nothing' })
