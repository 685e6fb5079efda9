import { inspect } from 'node:util'
import { nearest } from '../util/nearest.ts'
import { plainSampler } from '../util/sampler-name.ts'
import { shortened, visible } from '../util/text.ts'

/** An error of ajv; the last two fields with `verbose`. */
export interface SchemaError {
  keyword: string
  instancePath: string
  schemaPath: string
  params: Record<string, unknown>
  message?: string
  /** The value. */
  data?: unknown
  parentSchema?: Schema
}

interface Schema {
  type?: string | string[]
  format?: string
  pattern?: string
  description?: string
  minimum?: number
  maximum?: number
  multipleOf?: number
  minLength?: number
  maxLength?: number
  minItems?: number
  maxItems?: number
  minProperties?: number
  maxProperties?: number
  properties?: object
  writeOnly?: boolean
}

export interface Validate {
  (data: unknown): boolean
  errors?: SchemaError[] | null
}

interface Explanation {
  field: string
  expected: string
  received: string
}

/**
 * A validator that also refuses the character NUL in texts and in names of fields. The database and the engines end
 * texts there, so that two different ones would be the same to them.
 */
export function withoutNul (validate: Validate): Validate {
  const check: Validate = data => {
    const isValid = validate(data)
    const field = isValid ? fieldWithNul(data) : undefined // what is valid is of a bounded depth and size
    check.errors = field === undefined
      ? validate.errors
      : [{ keyword: 'nul', params: {}, instancePath: field, schemaPath: '', message: '' }]
    return isValid && field === undefined
  }
  return check
}

/** The path of the first field that has a NUL in its text or its name, as ajv writes it. */
function fieldWithNul (data: unknown): string | undefined {
  if (typeof data === 'string') return data.includes('\0') ? '' : undefined
  if (typeof data !== 'object' || data === null || ArrayBuffer.isView(data)) return undefined
  for (const [name, value] of Object.entries(data)) {
    const field = name.includes('\0') ? '' : fieldWithNul(value)
    if (field !== undefined) return `/${shortened(name.replaceAll('\0', '\ufffd'))}${field}`
  }
  return undefined
}

/**
 * Says what was expected of the field that an error is about.
 * @param part of the request, for what is no field of it.
 */
export function explain (
  { keyword, params, instancePath, data, parentSchema = {} }: SchemaError, part: string
): Explanation {
  const path = instancePath.split('/').slice(1)
  const at = (...more: string[]) => [...path, ...more].join('.') || part
  // A secret is not repeated, not even to the one who sent it: answers end up in logs too.
  const received = parentSchema.writeOnly === true ? 'something else' : shorten(data)
  switch (keyword) {
    case 'additionalProperties': {
      const name = String(params.additionalProperty)
      const guess = nearest(name, Object.keys(parentSchema.properties ?? {}))
      const hint = guess === undefined ? '' : `; did you mean ${guess}?`
      return { field: at(name.slice(0, 80)), expected: `nothing (there is no such field${hint})`, received: 'a value' }
    }
    case 'required':
      return { field: at(String(params.missingProperty)), expected: 'a value', received: 'nothing' }
    case 'nul': // the text is not repeated: it may be a secret
      return { field: at(), expected: 'a text without the character NUL', received: 'one with it' }
    case 'enum': {
      const allowed = params.allowedValues as unknown[]
      const guess = typeof data === 'string' ? meantValue(data, allowed.filter(isString)) : undefined
      const hint = guess === undefined ? '' : ` (did you mean ${guess}?)`
      return { field: at(), expected: `one of ${allowed.join(', ')}${hint}`, received }
    }
    default:
      return { field: at(), expected: inWords(parentSchema), received }
  }
}

const isString = (value: unknown): value is string => typeof value === 'string'

/**
 * The allowed value that a word of another program stands for: `DPM++ 2M`, `dpmpp_2m` and `k_euler_a` are samplers, and
 * `DPM++ 2M Karras` is one with a scheduler.
 */
function meantValue (word: string, allowed: readonly string[]): string | undefined {
  if (word.length > 64) return undefined
  const given = plainSampler(word)
  const exact = allowed.find(value => plainSampler(value) === given)
  if (exact !== undefined) return exact
  for (const scheduler of ['karras', 'exponential']) {
    const sampler = allowed.find(value => plainSampler(value) + scheduler === given)
    if (sampler !== undefined) return `${sampler} with the scheduler ${scheduler}`
  }
  return nearest(word, allowed)
}

/** What a schema asks for, for example `an integer from 64 to 2048 that is a multiple of 8`. */
function inWords (schema: Schema): string {
  const { type = 'value', format, pattern, minimum, maximum, multipleOf } = schema
  const { minLength, maxLength, minItems, maxItems, minProperties, maxProperties } = schema
  const name = [type].flat().join(' or ')
  return [
    /^[aeiou]/.test(name) ? `an ${name}` : `a ${name}`,
    range(minimum, maximum),
    multipleOf === undefined ? '' : `that is a multiple of ${multipleOf}`,
    count(minLength, maxLength, ['character', 'characters']),
    count(minItems, maxItems, ['entry', 'entries']),
    count(minProperties, maxProperties, ['field', 'fields']),
    format === undefined ? '' : `with the format ${format}`,
    pattern === undefined ? '' : `that matches ${pattern}`
  ].filter(part => part !== '').join(' ')
}

function range (least: number | undefined, most: number | undefined): string {
  if (least !== undefined && most !== undefined) return `from ${least} to ${most}`
  if (least !== undefined) return `of at least ${least}`
  return most === undefined ? '' : `of at most ${most}`
}

/** `of 1 to 64 characters`, `of at least 1 entry` */
function count (
  least: number | undefined, most: number | undefined, [one, several]: readonly [string, string]
): string {
  if (least === undefined && most === undefined) return ''
  const unit = (most ?? least) === 1 ? one : several
  if (most === undefined) return `of at least ${least} ${unit}`
  if (least === most) return `of ${most} ${unit}`
  return least === undefined || least === 0 ? `of at most ${most} ${unit}` : `of ${least} to ${most} ${unit}`
}

/** Never deeper than two levels: a body that is nested thousands of times would exhaust the stack here. */
function shorten (value: unknown): string {
  // Numbers as JavaScript has them: JSON would call Infinity, which is what 1e400 is read as, null.
  const text = typeof value === 'string'
    ? JSON.stringify(value)
    : inspect(value, { depth: 2, maxArrayLength: 5, maxStringLength: 80, breakLength: Infinity })
  // Twice: to make a megabyte visible takes a second, and escapes are longer than what they stand for.
  return shortened(visible(shortened(text)))
}
