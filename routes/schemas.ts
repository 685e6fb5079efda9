import { Type, type Static, type TSchema } from 'typebox'
import type { FastifyInstance } from 'fastify'
import { accountRoles, permissions, roles, type Permission } from '../lib/principals.ts'
import { jobStatuses, jobTypes } from '../lib/jobs/job.ts'
import { modelTypes } from '../lib/models/types.ts'
import { phases } from '../lib/engine/engine.ts'
import { passwordLength } from '../lib/passwords.ts'
import { usernamePattern } from '../lib/users.ts'

/** Schemas that more than one route uses; `$id` is their name in the OpenAPI document. */

export function OneOf<const Values extends readonly string[]> (values: Values, options: Record<string, unknown> = {}) {
  return Type.Unsafe<Values[number]>({ type: 'string', enum: [...values], ...options })
}

export const Nullable = <Schema extends TSchema>(schema: Schema) => Type.Union([schema, Type.Null()])
export const Time = (description: string) => Type.String({ format: 'date-time', description })

/** A reference by name that keeps the type of what it names. */
export const Named = <Schema extends TSchema & { $id: string }>(schema: Schema, description?: string) =>
  Type.Unsafe<Static<Schema>>({ $ref: `${schema.$id}#`, ...(description !== undefined && { description }) })

export const ErrorResponse = named('Error', Type.Object({
  error: Type.Object({
    code: Type.String({ description: 'One of the codes in docs/errors.md', examples: ['SDR_INVALID_REQUEST'] }),
    message: Type.String({ description: 'For people: what was expected, what came, what to do next' }),
    details: Type.Optional(Type.Unsafe<unknown>({ description: 'For programs, for example the field that was refused' })),
    request_id: Type.String({ description: 'Stands in the log of the server too' })
  })
}, { description: 'Every error has this shape' }))

export const Permissions = Type.Unsafe<readonly Permission[]>({ type: 'array', items: { type: 'string', enum: [...permissions] } })

const Principal = {
  id: Type.String(),
  username: Type.String(),
  permissions: Permissions
}

export const Login = named('Login', Type.Object({
  token: Type.String({ description: 'Access token: Authorization: Bearer <token>' }),
  token_type: Type.Literal('Bearer'),
  expires_at: Time('When the access token expires'),
  refresh_token: Type.String({ description: 'Good for one POST /api/auth/refresh' }),
  user: Type.Object({ ...Principal, role: OneOf(accountRoles) })
}, { description: 'A session: an access token and the refresh token that gets the next one' }))

export const Me = named('Me', Type.Object({
  ...Principal,
  role: OneOf(roles),
  via: OneOf(['none', 'jwt', 'api-key', 'guest'], { description: 'What proved it' })
}, { description: 'Who the request acts for' }))

export const User = named('User', Type.Object({
  id: Type.String(),
  username: Type.String(),
  source: OneOf(['local', 'unix', 'pam'], { description: 'Where the password is checked' }),
  role: OneOf(accountRoles),
  disabled: Type.Boolean(),
  created_at: Time('When it was made'),
  last_login_at: Nullable(Time('When it last logged in'))
}, { description: 'An account' }))

export const Key = named('Key', Type.Object({
  id: Type.String(),
  name: Type.String(),
  user_id: Type.String(),
  username: Type.String(),
  permissions: Permissions,
  created_at: Time('When it was made'),
  expires_at: Nullable(Time('When it stops working')),
  last_used_at: Nullable(Time('When it was last used, to the minute'))
}, { description: 'An API key, without its secret' }))

export const Session = named('Session', Type.Object({
  id: Type.String(),
  address: Type.String({ description: 'Where the login came from' }),
  user_agent: Type.String(),
  current: Type.Boolean({ description: 'The one of this request' }),
  created_at: Time('When the login was'),
  last_used_at: Time('When its token was last refreshed'),
  expires_at: Time('When it ends unless it is refreshed')
}, { description: 'A login' }))

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
  model: Type.String({ description: 'Id of the model' }),
  position: Nullable(Type.Integer({ description: 'Place in the queue, 1 is next; null when not queued' })),
  priority: Type.Integer({ description: 'Higher runs first' }),
  progress: Nullable(Type.Object({
    phase: OneOf(phases),
    step: Type.Integer(),
    steps: Type.Integer(),
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
  error: Nullable(Type.Object({ code: Type.String(), message: Type.String() })),
  attempts: Type.Integer({ description: 'How often it was given to an engine' }),
  created_at: Time('When it was accepted'),
  started_at: Nullable(Time('When an engine began')),
  finished_at: Nullable(Time('When it ended'))
}, { description: 'An image request and what came of it' }))

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
}, { description: 'A model file, or several that make one' }))

const shared = [ErrorResponse, Login, Me, User, Key, Session, Job, Model]

export function addSchemas (app: FastifyInstance): void {
  for (const schema of shared) app.addSchema(schema)
}

function named<Schema extends TSchema> (id: string, schema: Schema): Schema & { $id: string } {
  return Object.assign(schema, { $id: id })
}

export const None = Type.Null({ description: 'Nothing' })
