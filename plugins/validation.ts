import AjvCompiler from '@fastify/ajv-compiler'
import fp from 'fastify-plugin'
import type { FastifySchemaValidationError } from 'fastify/types/schema.js'
import { apiError } from '../errors.ts'

interface Problem extends FastifySchemaValidationError {
  /** The value that was refused; ajv adds it with `verbose`. */
  data?: unknown
}

const common = { removeAdditional: false, useDefaults: true, allErrors: false, verbose: true, allowUnionTypes: true }

/**
 * Strict validation: unknown fields are refused, not removed, and a number in a body is a number. What arrives as text
 * by its nature (query, path, headers) is converted first.
 */
export default fp(async (app) => {
  const build = AjvCompiler()
  app.setValidatorCompiler(route => {
    const coerceTypes = route.httpPart !== 'body'
    return build(app.getSchemas() as never, { customOptions: { ...common, coerceTypes } } as never)(route as never)
  })
  app.setSchemaErrorFormatter((problems, part) => {
    const { field, expected, received } = explain(problems[0] as Problem, part)
    const message = `Expected ${expected} for ${field}${received === undefined ? '' : ` but received ${shorten(received)}`}`
    return apiError('SDR_INVALID_REQUEST', message, { details: [{ field, expected, received: shorten(received) }] })
  })
}, { name: 'validation' })

function explain (problem: Problem, part: string): { field: string, expected: string, received?: unknown } {
  const { keyword, params, instancePath, data } = problem
  const path = instancePath.split('/').slice(1)
  const at = (...more: string[]) => [...path, ...more].join('.') || part
  switch (keyword) {
    case 'additionalProperties': {
      const name = String(params.additionalProperty)
      return { field: at(name), expected: 'no such field', received: (data as Record<string, unknown> | undefined)?.[name] }
    }
    case 'required':
      return { field: at(String(params.missingProperty)), expected: 'a value', received: 'nothing' }
    case 'enum':
      return { field: at(), expected: `one of ${(params.allowedValues as unknown[]).join(', ')}`, received: data }
    case 'type':
      return { field: at(), expected: String(params.type), received: data === undefined ? 'nothing' : data }
    default:
      return { field: at(), expected: `a value that ${problem.message ?? keyword}`, received: data }
  }
}

function shorten (value: unknown): string | undefined {
  if (value === undefined) return undefined
  const text = JSON.stringify(value) ?? String(value)
  return text.length > 80 ? `${text.slice(0, 80)}…` : text
}
