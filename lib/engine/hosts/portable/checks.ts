import { EngineError } from '../../engine.ts'
import { quoted } from '../../../util/text.ts'

/** Returns the value for the engine. @throws {EngineError} invalid_parameters, unsupported */
export type Check = (name: string, value: unknown) => unknown
export type Checks = Record<string, Check>

export function invalid (name: string, expected: string, received: unknown): EngineError {
  return new EngineError('invalid_parameters', `Expected ${expected} for ${name} but received ${quoted(received)}.`)
}

export const integer = (minimum: number, maximum: number, multipleOf = 1): Check => (name, value) => {
  if (Number.isInteger(value) && isWithin(value as number, minimum, maximum) && (value as number) % multipleOf === 0) {
    return value
  }
  const what = multipleOf === 1 ? 'an integer' : `a multiple of ${multipleOf}`
  throw invalid(name, `${what} from ${minimum} to ${maximum}`, value)
}

export const number = (minimum: number, maximum: number): Check => (name, value) => {
  if (typeof value === 'number' && isWithin(value, minimum, maximum)) return value
  throw invalid(name, `a number from ${minimum} to ${maximum}`, value)
}

export const oneOf = (names: readonly string[]): Check => (name, value) => {
  if (names.includes(value as string)) return value
  throw invalid(name, `one of ${names.join(', ')}`, value)
}

/** A text without NUL, which would end it in C++. */
export const text = (minimum: number): Check => (name, value) => {
  if (typeof value === 'string' && value.length >= minimum && !value.includes('\0')) return value
  throw invalid(name, minimum > 0 ? 'a text that is not empty' : 'a text', value)
}

export const flag: Check = (name, value) => {
  if (typeof value === 'boolean') return value
  throw invalid(name, 'true or false', value)
}

export const group = (checks: Checks, unknown: (name: string) => EngineError): Check => (name, value) => {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw invalid(name, 'an object', value)
  return checked(value, checks, unknown, `${name}.`)
}

/** The checked values, without undefined ones. @throws what `unknown` makes of a name that `checks` lacks. */
export function checked (
  values: object, checks: Checks, unknown: (name: string) => EngineError, prefix = ''
): Record<string, unknown> {
  const result: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(values)) {
    if (value === undefined) continue
    if (!Object.hasOwn(checks, name)) throw unknown(prefix + name)
    result[name] = checks[name]!(prefix + name, value)
  }
  return result
}

function isWithin (value: number, minimum: number, maximum: number): boolean {
  return value >= minimum && value <= maximum
}
