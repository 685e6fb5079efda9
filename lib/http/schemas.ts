import { errorTable } from '../../errors.ts'
import { Type, type Static, type TSchema } from './type.ts'

/** What the schemas of routes are made of; `$id` is the name of a schema in the OpenAPI document. */

const shared: Array<TSchema & { $id: string }> = []

/** Gives a schema its name in the OpenAPI document. */
export function named<Schema extends TSchema> (id: string, schema: Schema): Schema & { $id: string } {
  const result = Object.assign(schema, { $id: id })
  shared.push(result)
  return result
}

/**
 * Makes all named schemas known to the whole application. Not where they are used: a plugin that adds schemas of its
 * own gets a validator of its own from Fastify, without what plugins/validation.ts says.
 */
export function addSchemas (app: { addSchema: (schema: TSchema) => unknown }): void {
  for (const schema of shared.sort((a, b) => a.$id < b.$id ? -1 : 1)) app.addSchema(schema)
}

export function OneOf<const Values extends readonly string[]> (values: Values, options: Record<string, unknown> = {}) {
  return Type.Unsafe<Values[number]>({ type: 'string', enum: [...values], ...options })
}

/** As a list of types: for a union the first answer of each route would wait for a validator to be compiled. */
export function Nullable<Schema extends TSchema> (schema: Schema) {
  const { type, enum: values } = schema as { type?: string, enum?: readonly unknown[] }
  return Type.Unsafe<Static<Schema> | null>({
    ...schema,
    type: [type, 'null'],
    ...(values !== undefined && { enum: [...values, null] })
  })
}

export const Time = (description: string) => Type.String({ format: 'date-time', description })

export const exampleId = '019dc0de-7a3e-7c21-9f0b-3f2a5b6c7d8e'
export const exampleTime = '2026-08-01T12:00:00.000Z'
export const laterTime = '2026-08-01T12:00:07.250Z'

export const Id = (description: string) => Type.String({ format: 'uuid', description, examples: [exampleId] })

/** A reference by name that keeps the type of what it names. */
export const Named = <Schema extends TSchema & { $id: string }>(schema: Schema, description?: string) =>
  Type.Unsafe<Static<Schema>>({ $ref: `${schema.$id}#`, ...(description !== undefined && { description }) })

/** An answer whose Location header is the path of `what`. */
export function Located<Schema extends TSchema> (schema: Schema, what: string) {
  return { ...schema, headers: { location: { type: 'string', description: `Path of ${what}` } } }
}

export const None = Type.Null({ description: 'Nothing' })

const ErrorDetail = Type.Object(Type.Partial(Type.Object({
  field: Type.String({ description: 'The field of the request that the error is about' }),
  expected: Type.String(),
  received: Type.String(),
  feature: Type.String({ description: 'What the engine lacks' }),
  engine: Type.String(),
  candidates: Type.Array(Type.String(), { description: 'Ids of the models that a name may mean' }),
  nearest: Type.Array(Type.String(), { description: 'Ids of models with a similar name' }),
  parts_of: Type.Array(Type.String(), { description: 'Ids of the models that need the file' }),
  reason: Type.String({ description: 'Why no work can be sent here' })
})).properties, { title: 'ErrorDetail' })

export const ErrorResponse = named('ErrorAnswer', Type.Object({
  error: Type.Object({
    code: OneOf(Object.keys(errorTable), {
      title: 'ErrorCode',
      description: 'For programs; more may come, so treat an unknown one by its status'
    }),
    message: Type.String({ description: 'For people: what was expected, what came, what to do next' }),
    details: Type.Optional(Type.Array(ErrorDetail, { description: 'For programs' })),
    request_id: Type.String({ description: 'Stands in the log of the server too' })
  }, { title: 'ErrorInfo' })
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
