import { apiError, unexpected } from '../../errors.ts'
import { badValue } from '../http/request-errors.ts'
import { findFault, jsonBounds } from '../util/json.ts'
import { isImage, isImageList, type Parameter } from './request-schema.ts'

/** The fields of the parts of @fastify/multipart that are read here. */
export type FormPart =
  | { type: 'field', fieldname?: string, value: unknown, valueTruncated?: boolean }
  | FilePart
interface FilePart {
  type: 'file'
  fieldname?: string
  filename?: string
  mimetype?: string
  file: { truncated?: boolean }
  toBuffer: () => Promise<Buffer>
}

/** Which fields are an image, and which are several. */
interface ImageNames {
  isImage: (name: string) => boolean
  isImageList: (name: string) => boolean
}

const ownImages: ImageNames = { isImage, isImageList }

interface Form {
  /** As in the same request in JSON; a stand-in for an image that came as a file. */
  fields: Record<string, unknown>
  files: Record<string, Buffer | Buffer[]>
}

/** The field that holds many others as JSON, such as the `parameters` of a job. Single fields override it. */
const manyFields = 'parameters'

const standIn = '(file)'

/** The parser replaces invalid UTF-8 with U+FFFD and does not say whether the client sent one itself. */
const replacement = 'U+FFFD'
const isReplaced = (value: unknown) => typeof value === 'string' && value.includes('\ufffd')

/** Bytes of a field. */
export const fieldBytes = 256 * 1024
/** Characters of all fields together, and of the fields in JSON. */
const mostCharacters = 4 * 1024 * 1024
const mostJsonCharacters = 2 * fieldBytes

const decimal = /^\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,2})?\s*$/i
/** Characters; a double has 17 digits. */
const longestNumber = 40

/**
 * Whether the parser of forms hands a part over as a file. Parts in JSON are: the parser would make objects of them
 * before their values are counted.
 */
export function isPartAFile (
  _name: string | undefined, type: string | undefined, fileName: string | undefined
): boolean {
  return fileName !== undefined || type === 'application/octet-stream' || isJson(type)
}

function isJson (type = ''): boolean {
  return type.startsWith('application/json')
}

/** @returns undefined for a text that is not JSON. @throws {ApiError} when it has more values than allowed. */
type Parse = (field: string, text: string) => unknown

/**
 * Reads a multipart form: images as files, everything else as fields, lists and objects among them as JSON.
 * @param maxBytes of all files together.
 * @param names of the images, by default those of our own API.
 * @throws {ApiError} SDR_INVALID_REQUEST, SDR_BODY_TOO_LARGE naming the field.
 */
export async function readForm (
  parts: AsyncIterable<FormPart>, parameters: Record<string, Pick<Parameter, 'schema'>>, maxBytes: number,
  { isImage, isImageList }: ImageNames = ownImages
): Promise<Form> {
  const fields = new Map<string, unknown>()
  const files = new Map<string, Buffer[]>()
  /** A list comes as one field in JSON, or as a field, or a file, for each entry. */
  const mayRepeat = ({ type }: FormPart, name: string) => type === 'file'
    ? files.has(name) && isImageList(name)
    : !files.has(name) && typeOf(parameters[name]) === 'array'
  let bytes = 0
  let characters = 0
  let jsonCharacters = 0
  const parse: Parse = (name, text) => {
    if ((jsonCharacters += text.length) > mostJsonCharacters) throw tooLarge(name, 'together with the JSON before it')
    return fromJson(name, text)
  }
  try {
    for await (const sent of parts) {
      const isTyped = sent.type === 'file' && sent.filename === undefined && isJson(sent.mimetype)
      const part = isTyped ? await asField(sent) : sent
      const { fieldname: name = '' } = part
      if (name === '') throw badValue('the form', 'a name for each part', 'a part without one')
      if (fields.has(name) && !mayRepeat(part, name)) throw badValue(name, 'one value', 'several')
      if (part.type === 'file') {
        const isText = name === manyFields || (Object.hasOwn(parameters, name) && !isImage(name) && !isImageList(name))
        if (isText) throw badValue(name, 'a field without a file name', 'a file')
        const file = await readFile(name, part)
        if ((bytes += file.length) > maxBytes) throw tooLarge(name, 'together with the files before it')
        files.set(name, [...files.get(name) ?? [], file])
        fields.set(name, isImageList(name) ? files.get(name)!.map(() => standIn) : standIn)
      } else {
        if (part.valueTruncated === true) throw tooLarge(name, 'as the field of a form; send it as a file')
        if (isReplaced(name) || isReplaced(part.value)) {
          throw badValue(name,
            'text in UTF-8', `bytes that are none, or the character ${replacement} that stands for such`)
        }
        const text = String(part.value)
        if ((characters += text.length) > mostCharacters) throw tooLarge(name, 'together with the fields before it')
        const sentValue = isTyped ? parse(name, text) : text
        if (isTyped && sentValue === undefined) {
          throw badValue('the form', 'JSON where a part says it is', 'something else')
        }
        const value = name === manyFields
          ? readMany(sentValue, parse)
          : readValue(name, sentValue, parameters[name], parse)
        fields.set(name, fields.has(name) ? [fields.get(name), value].flat() : value)
      }
    }
  } catch (error) {
    const { statusCode, code = '' } = error as { statusCode?: number, code?: string }
    if (code === 'FST_PROTO_VIOLATION') throw badValue('the form', 'names of parameters', 'one that every object has')
    const [, what] = /^FST_(FILES|FIELDS|PARTS)_LIMIT$/.exec(code) ?? []
    if (what !== undefined) {
      throw apiError('SDR_BODY_TOO_LARGE', `The form has too many ${what.toLowerCase()}.`, { cause: error })
    }
    // The errors of the parser about malformed forms have no status.
    if (statusCode !== undefined) throw error
    throw apiError('SDR_INVALID_REQUEST', `The form can't be read: ${(error as Error).message}`, { cause: error })
  }
  const { [manyFields]: many, ...single } = Object.fromEntries(fields)
  const all: Record<string, unknown> = { ...many as object, ...single }
  for (const [name, value] of Object.entries(single)) {
    // A list of one entry may come as the entry alone.
    if (typeOf(parameters[name]) === 'array' && isEntry(value)) all[name] = [value]
  }
  for (const [name, value] of Object.entries(all)) {
    if (hasHalfCharacter(value)) throw badValue(name, 'text of whole characters', 'half of one')
  }
  return {
    fields: Object.fromEntries(Object.entries(all).filter(([name, value]) => value !== '' || name === 'prompt')),
    files: Object.fromEntries([...files].map(([name, [first, ...more]]) =>
      [name, isImageList(name) ? [first!, ...more] : first!]))
  }
}

/** A part in JSON, as a field. */
async function asField (part: FilePart): Promise<FormPart> {
  const { fieldname = '' } = part
  const bytes = await readFile(fieldname, part)
  return { type: 'field', fieldname, value: bytes.toString(), valueTruncated: bytes.length > fieldBytes }
}

async function readFile (name: string, part: FilePart): Promise<Buffer> {
  try {
    return await part.toBuffer()
  } catch (error) {
    throw part.file.truncated === true ? tooLarge(name, 'as a file (--max-upload-size)') : error
  }
}

function readMany (value: unknown, parse: Parse): object {
  const many = typeof value === 'string' ? parse(manyFields, value) : value
  if (typeof many === 'object' && many !== null && !Array.isArray(many)) return many
  throw badValue(manyFields, 'an object in JSON', value)
}

function typeOf (parameter: Pick<Parameter, 'schema'> | undefined): string | undefined {
  return (parameter?.schema as { type?: string } | undefined)?.type
}

/** Whether a value is an entry of a list, rather than a list or text that is not JSON. */
function isEntry (value: unknown): boolean {
  return (typeof value === 'object' && value !== null && !Array.isArray(value)) || typeof value === 'number'
}

/** The value in the type of its parameter, or the text itself, which the schema refuses. */
function readValue (
  name: string, value: unknown, parameter: Pick<Parameter, 'schema'> | undefined, parse: Parse): unknown {
  if (typeof value !== 'string') return value
  switch (typeOf(parameter)) {
    case 'integer':
    case 'number':
      return value.length <= longestNumber && decimal.test(value) ? Number(value) : value
    case 'boolean':
    case 'array':
    case 'object':
      return parse(name, value) ?? value
    default:
      return value
  }
}

function fromJson (name: string, text: string): unknown {
  // The bounds are those of a body, in which the value of a field lies one level deeper.
  const fault = findFault(Buffer.from(name === manyFields ? text : `{"":${text}}`), jsonBounds)
  if (fault !== undefined && fault !== 'half') throw unexpected({ ...fault, field: name })
  try {
    return JSON.parse(text) as unknown
  } catch {
    return undefined
  }
}

function hasHalfCharacter (value: unknown): boolean {
  return findFault(
    Buffer.from(JSON.stringify(value)), { ...jsonBounds, structure: Infinity, values: Infinity }) === 'half'
}

function tooLarge (field: string, where: string): Error {
  return apiError('SDR_BODY_TOO_LARGE', `${field} is too large ${where}.`, { details: [{ field }] })
}
