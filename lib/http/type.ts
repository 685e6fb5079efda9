import { Ajv, type ErrorObject, type ValidateFunction } from 'ajv'
import type * as TypeBox from 'typebox'

/*
 * TypeBox's types over builders of our own: its 340 modules would take a quarter of the time from start to listening,
 * and of what they can do only these builders are needed here.
 */

export type { Static, TSchema } from 'typebox'

type Schema = Record<string, unknown>

/** Marks a property that an object may lack. Not enumerable, so that no document shows it. */
const optional = Symbol('optional')

function isOptional (schema: object): boolean {
  return optional in schema
}

function objectOf (properties: Record<string, Schema>, options: Schema = {}): Schema {
  const required = Object.keys(properties).filter(name => !isOptional(properties[name]!))
  return { type: 'object', ...(required.length > 0 && { required }), properties, ...options }
}

function asOptional (schema: Schema): Schema {
  return Object.defineProperty({ ...schema }, optional, { value: true })
}

const plain = (type: string) => (options: Schema = {}): Schema => ({ type, ...options })

const builders = {
  String: plain('string'),
  Integer: plain('integer'),
  Number: plain('number'),
  Boolean: plain('boolean'),
  Null: plain('null'),
  Unknown: (options: Schema = {}) => ({ ...options }),
  Unsafe: (schema: Schema) => ({ ...schema }),
  Literal: (value: unknown, options: Schema = {}) => ({ type: typeof value, const: value, ...options }),
  Enum: (values: unknown[], options: Schema = {}) => ({ enum: values, ...options }),
  Array: (items: Schema, options: Schema = {}) => ({ type: 'array', items, ...options }),
  Tuple: (items: Schema[], options: Schema = {}) =>
    ({ type: 'array', additionalItems: false, items, minItems: items.length, ...options }),
  Union: (anyOf: Schema[], options: Schema = {}) => ({ anyOf, ...options }),
  Intersect: (allOf: Schema[], options: Schema = {}) => ({ allOf, ...options }),
  Record: (_key: Schema, value: Schema, options: Schema = {}) =>
    ({ type: 'object', patternProperties: { '^.*$': value }, ...options }),
  Object: objectOf,
  Optional: asOptional,
  Partial: ({ properties }: Schema, options: Schema = {}) => objectOf(
    Object.fromEntries(Object.entries(properties as Record<string, Schema>)
      .map(([name, schema]) => [name, asOptional(schema)])), options)
}

/** Builds JSON schemas; what one allows is `Static<typeof schema>`. */
export const Type = builders as unknown as Pick<typeof TypeBox.Type, keyof typeof builders>

/** Holds values against a schema, which is compiled when the first one comes. */
export class Validator<Schema extends TypeBox.TSchema> {
  readonly #schema: Schema
  #validate: ValidateFunction | undefined

  constructor (schema: Schema) {
    this.#schema = schema
  }

  check (value: unknown): value is TypeBox.Static<Schema> {
    this.#validate ??= new Ajv({ allErrors: true, strict: false }).compile(this.#schema)
    return this.#validate(value)
  }

  /** What is wrong with the value that was checked last. */
  get errors (): readonly ErrorObject[] {
    return this.#validate?.errors ?? []
  }
}
