import { readPngHeader } from '../media/png.ts'
import { quoted, shortened, visibleField } from '../util/text.ts'
import {
  capabilityNames, hostErrorCodes, maximumSeed, phases, type EngineImage, type EngineInfo, type Preview, type Progress
} from './engine.ts'
import {
  ProtocolError, logLevels, maximumPreview, protocolVersion, type Frame, type HostMessage
} from './protocol.ts'

/**
 * Reads messages of an engine process. It is not trusted, because it runs C++ on files of strangers. A returned message
 * has the declared types, every number within its bounds, and no other field.
 */

/** Returns a value of the declared type, or throws a ProtocolError that names the field. */
type Read<Type> = (value: unknown, field: string) => Type
type Fields<Type> = { [Field in keyof Type]-?: Read<Type[Field]> }

/** Steps, tensors of a model, and milliseconds of one operation. */
const mostSteps = 10_000_000
const mostMilliseconds = 1e12
/** Images of one job, and pixels of one side; `ExpectedImages` has the numbers of this job. */
const mostImages = 64
const longestSide = 65_536
/** Code units of a text and of a name, and entries of a list of names. */
const longestText = 2000
const longestName = 200
const mostNames = 1000
/** More than a job has LoRAs. */
const mostNotices = 64
/** The field name of a whole message. */
const message = 'a message'

const whole = (minimum: number, maximum: number): Read<number> => (value, field) => {
  if (Number.isInteger(value) && (value as number) >= minimum && (value as number) <= maximum) return value as number
  throw invalid(field, `a whole number from ${minimum} to ${maximum}`, value)
}

const milliseconds: Read<number> = (value, field) => {
  if (typeof value === 'number' && value >= 0 && value <= mostMilliseconds) return value
  throw invalid(field, 'milliseconds', value)
}

/** Longer texts are cut, because those of a library have any length. */
const text = (longest = longestText): Read<string> => (value, field) => {
  if (typeof value === 'string') return visibleField(shortened(value, longest))
  throw invalid(field, 'a text', value)
}

const oneOf = <Name extends string>(names: readonly Name[]): Read<Name> => (value, field) => {
  if (names.includes(value as Name)) return value as Name
  throw invalid(field, `one of ${names.join(', ')}`, value)
}

const list = <Type>(read: Read<Type>, most = mostNames): Read<Type[]> => (value, field) => {
  if (!Array.isArray(value) || value.length > most) {
    throw invalid(field, `a list of at most ${most} entries`, value)
  }
  return value.map((entry, index) => read(entry, `${field}[${index}]`))
}

const optional = <Type>(read: Read<Type>): Read<Type | undefined> => (value, field) =>
  value === undefined ? undefined : read(value, field)

function record <Type extends object> (fields: Fields<Type>): Read<Type> {
  const entries = Object.entries(fields) as Array<[string, Read<unknown>]>
  return (value, field) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw invalid(field, 'an object', value)
    const own = (name: string): unknown =>
      Object.hasOwn(value, name) ? (value as Record<string, unknown>)[name] : undefined
    const read = entries.map(([name, read]) => [name, read(own(name), path(field, name))])
    return Object.fromEntries(read.filter(([, value]) => value !== undefined)) as Type
  }
}

function path (field: string, name: string): string {
  return field === message ? name : `${field}.${name}`
}

const name = text(longestName)
/** Names that a request can choose from. */
const choices: Read<string[]> = (value, field) => {
  const names = list(name)(value, field)
  if (names.length > 0 && new Set(names).size === names.length) return names
  throw invalid(field, 'names that differ, at least one,', value)
}
const index = whole(0, mostImages - 1)
const side = whole(1, longestSide)

const info = record<EngineInfo>({
  engine: oneOf(['native', 'portable']),
  version: name,
  device: name,
  devices: optional(list(record<{ name: string, description: string }>({ name, description: name }))),
  capabilities: list(oneOf(capabilityNames)),
  samplers: choices,
  schedulers: choices,
  weight_types: list(name)
})
const progress = record<Progress>({
  phase: oneOf(phases), step: whole(0, mostSteps), steps: whole(0, mostSteps), index
})
const image = record<Omit<EngineImage, 'png'>>({ index, width: side, height: side, seed: whole(0, maximumSeed) })
const preview = record<Omit<Preview, 'png'>>({ step: whole(0, mostSteps), index, width: side, height: side })
const result = record<{ load_ms?: number, generate_ms?: number, notices?: string[] }>({
  load_ms: optional(milliseconds), generate_ms: optional(milliseconds), notices: optional(list(text(), mostNotices))
})
const id = whole(1, Number.MAX_SAFE_INTEGER)
const kind = oneOf(['hello', 'info', 'progress', 'preview', 'image', 'log', 'done', 'error'])

/** @throws {ProtocolError} */
export function readHostMessage ({ json, bytes }: Omit<Frame, 'length'>): HostMessage {
  const { type, ...fields } = record<Record<string, unknown>>({
    type: kind,
    protocol: any,
    info: any,
    id: any,
    progress: any,
    preview: any,
    image: any,
    level: any,
    text: any,
    result: any,
    code: any,
    message: any
  })(json, message)
  const field = <Type>(name: string, read: Read<Type>): Type => read(fields[name], name)
  if (bytes.byteLength > 0 && type !== 'image' && type !== 'preview') {
    throw invalid(`the bytes of '${type as string}'`, 'none', bytes.byteLength)
  }
  switch (type as HostMessage['type']) {
    case 'hello':
      checkVersion(field('protocol', whole(0, 1_000_000)))
      return { type: 'hello', protocol: protocolVersion, info: field('info', info) }
    case 'info':
      return { type: 'info', info: field('info', info) }
    case 'progress': {
      const { step, steps, ...rest } = field('progress', progress)
      return { type: 'progress', id: field('id', id), progress: { ...rest, step: Math.min(step, steps), steps } }
    }
    case 'preview':
      if (bytes.byteLength > maximumPreview) {
        throw invalid('preview', `at most ${maximumPreview} bytes`, bytes.byteLength)
      }
      return { type: 'preview', id: field('id', id), preview: withPng('preview', field('preview', preview), bytes) }
    case 'image':
      return { type: 'image', id: field('id', id), image: withPng('image', field('image', image), bytes) }
    case 'log':
      return { type: 'log', level: field('level', oneOf(logLevels)), text: field('text', text()) }
    case 'done':
      return { type: 'done', id: field('id', id), result: field('result', result) }
    case 'error':
      return {
        type: 'error',
        id: field('id', id),
        code: field('code', oneOf(hostErrorCodes)),
        message: field('message', text())
      }
  }
}

function any (value: unknown): unknown {
  return value
}

function checkVersion (version: number): void {
  if (version === protocolVersion) return
  throw new ProtocolError('wrong_version', `The engine process speaks version ${version} of the protocol ` +
    `and this server version ${protocolVersion}: they are of different releases. Install or build the package again.`)
}

/** Only the header of the PNG is checked here. */
function withPng <Image extends { width: number, height: number }> (
  field: string, image: Image, png: Uint8Array
): Image & { png: Uint8Array } {
  const { width, height } = headerOf(field, png)
  if (width !== image.width || height !== image.height) {
    const expected = `a PNG image of ${image.width} × ${image.height} pixels, as it says,`
    throw invalid(field, expected, `${width} × ${height}`)
  }
  return { ...image, png }
}

function headerOf (field: string, png: Uint8Array): ReturnType<typeof readPngHeader> {
  try {
    return readPngHeader(png)
  } catch (error) {
    throw new ProtocolError('invalid_message', `The engine process sent something invalid for ${field}: ` +
      `${(error as Error).message}.`, { cause: error })
  }
}

/** The error for a field. */
export function invalid (field: string, expected: string, received: unknown): ProtocolError {
  return new ProtocolError('invalid_message',
    `The engine process sent something invalid: expected ${expected} for ${field} but received ${shown(received)}.`)
}

function shown (value: unknown): string {
  if (typeof value === 'string') return quoted(value, 40)
  if (Array.isArray(value)) return `a list of ${value.length}`
  if (value === undefined) return 'nothing'
  return typeof value === 'object' && value !== null ? 'an object' : String(value)
}
