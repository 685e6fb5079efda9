import AjvCompiler from '@fastify/ajv-compiler'
import fp from 'fastify-plugin'
import { unexpected } from '../errors.ts'
import { validatorsLater } from '../lib/http/compile-later.ts'
import { explain, withoutNul, type SchemaError, type Validate } from '../lib/http/validation.ts'
import type { SchemaOptions } from './serialization.ts'

const common = { removeAdditional: false, useDefaults: true, allErrors: false, verbose: true, allowUnionTypes: true }

/**
 * Strict validation: unknown fields are refused, not removed, and a number in a body is a number. What arrives as text
 * by its nature (query, path, headers) is converted first.
 */
export default fp<SchemaOptions>(async (app, { compileAtOnce }) => {
  const build = AjvCompiler()
  const compilerOf = (coerceTypes: boolean) => {
    // Of a converted value ajv checks neither the type nor, when strict, the bounds of an infinite number (1e400).
    const customOptions = { ...common, coerceTypes, strictNumbers: !coerceTypes }
    return build(app.getSchemas() as never, { customOptions } as never)
  }
  let compilers: Record<'body' | 'others', ReturnType<typeof compilerOf>> | undefined
  app.setValidatorCompiler(validatorsLater((route: { httpPart?: string }) => {
    compilers ??= { body: compilerOf(false), others: compilerOf(true) }
    return withoutNul(compilers[route.httpPart === 'body' ? 'body' : 'others'](route as never) as Validate)
  }, compileAtOnce))
  app.setSchemaErrorFormatter((errors, part) => {
    return unexpected(explain(errors[0] as SchemaError, part))
  })
}, { name: 'validation' })
