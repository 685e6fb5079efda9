/**
 * Compiling the schemas of all routes takes longer than everything else that a start does, and most are not used in a
 * day: each is compiled when it is used first, in some milliseconds.
 */

type Compile<Route, Compiled> = (route: Route) => Compiled

/** @param isEager compile each schema at once, so that a wrong one fails the start. */
export function serializersLater<Route> (
  compile: Compile<Route, (data: unknown) => string>, isEager = false
): Compile<Route, (data: unknown) => string> {
  if (isEager) return compile
  return route => {
    let serialize: ((data: unknown) => string) | undefined
    return data => (serialize ??= compile(route))(data)
  }
}

interface Validate<SchemaError> {
  (data: unknown): boolean
  /** What was wrong with the last value; Fastify reads it here. */
  errors?: SchemaError[] | null
}

/** As above, for validators. */
export function validatorsLater<Route, SchemaError> (
  compile: Compile<Route, Validate<SchemaError>>, isEager = false
): Compile<Route, Validate<SchemaError>> {
  if (isEager) return compile
  return route => {
    let compiled: Validate<SchemaError> | undefined
    const validate: Validate<SchemaError> = data => {
      compiled ??= compile(route)
      const result = compiled(data)
      validate.errors = compiled.errors
      return result
    }
    return validate
  }
}
