import { Type, type TSchema } from '../http/type.ts'

/** Pieces that the schemas of the parameters are made of. Numbers and lengths come with their bounds. */

export function integer (minimum: number, maximum: number, description: string, options: object = {}) {
  return Type.Integer({ minimum, maximum, description, ...options })
}

export function number (minimum: number, maximum: number, description: string, options: object = {}) {
  return Type.Number({ minimum, maximum, description, ...options })
}

export function choice (names: readonly string[], description: string) {
  return Type.Unsafe<string>({ type: 'string', enum: [...names], description })
}

/** An id or a name of a model. */
export function modelName (description: string) {
  return Type.String({ minLength: 1, maxLength: 512, description })
}

/** An object whose fields are all needed, but for those that are `Type.Optional`. */
export function object (properties: Record<string, TSchema>, options: object = {}) {
  return Type.Object(properties, { additionalProperties: false, ...options })
}

/** Settings that can be left alone one by one, and switched off together. */
export function group (description: string, properties: Record<string, TSchema>) {
  const enabled = Type.Boolean({ default: true, description: 'Whether it is done' })
  return settings(description, { enabled, ...properties })
}

/** Settings that can be left alone one by one. */
export function settings (description: string, properties: Record<string, TSchema>) {
  return object(Type.Partial(Type.Object(properties)).properties, { description })
}
