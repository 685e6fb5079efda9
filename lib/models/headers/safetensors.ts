import { isAscii, isUtf8 } from 'node:buffer'
import { Pacer } from '../../util/concurrency.ts'
import { quoted } from '../../util/text.ts'
import { type Header, type TensorInfo, ModelFileError, beyondLimit, cutOff, elementCount } from './header.ts'
import { limits } from './limits.ts'
import type { Source } from './source.ts'

/** Bits of one element, by the names of the safetensors format. */
const bits: ReadonlyMap<string, number> = new Map([
  ['F4', 4], ['F6_E2M3', 6], ['F6_E3M2', 6],
  ['BOOL', 8], ['U8', 8], ['I8', 8], ['F8_E4M3', 8], ['F8_E5M2', 8], ['F8_E8M0', 8],
  ['U16', 16], ['I16', 16], ['F16', 16], ['BF16', 16], ['U32', 32], ['I32', 32], ['F32', 32],
  ['U64', 64], ['I64', 64], ['F64', 64], ['C64', 64]
])

const lengthBytes = 8

/**
 * Reads the header of a safetensors file: a 64-bit length, then JSON. Not with JSON.parse, which keeps the last of two
 * equal keys (the engine may keep the first) and can't be interrupted.
 * @param start the first bytes of the file.
 * @throws {ModelFileError}
 */
export async function readSafetensorsHeader (source: Source, start: Buffer): Promise<Header> {
  const { size } = source
  refuseOtherContent(start)
  if (size < lengthBytes + 2) throw new ModelFileError(`The file is too short for a model: ${size} bytes.`)
  const length = start.readBigUInt64LE(0)
  if (start[lengthBytes] !== Char.openBrace || length < 2n) {
    throw new ModelFileError('This is neither a safetensors nor a GGUF file.')
  }
  if (length > BigInt(limits.header)) throw beyondLimit(limits.header, `bytes (${length})`)
  const end = lengthBytes + Number(length)
  if (end > size) throw cutOff('its header', end, size)
  const rest = end <= start.length ? [] : [await source.read(start.length, end - start.length)]
  const text = decode(Buffer.concat([start, ...rest]).subarray(lengthBytes, end))
  return await new HeaderParser(text, end, size).parse()
}

/** What downloads leave behind in the place of a model. */
const otherContents: ReadonlyArray<readonly [start: RegExp, reason: string]> = [
  [/^version https:\/\/git-lfs/, 'This is a pointer of Git LFS and not the file itself. Run `git lfs pull`, or download the file.'],
  [/^\s{0,64}</, 'This is a web page that was saved as a model, perhaps because the download needs a login. Download it again.'],
  [/^\s{0,64}[[{]/, 'This is JSON that was saved as a model, perhaps the error of a download. Download it again.'],

  [/^\0{16}/, 'The file begins with zeros: its download was not written to the end. Download it again.']
]

/** The length of a header leaves the last bytes of its number 0, and texts have no such bytes. */
function refuseOtherContent (start: Buffer): void {
  const isText = !start.subarray(0, lengthBytes).includes(0)
  const isEmpty = start.subarray(0, lengthBytes).every(byte => byte === 0)
  if (!isText && !isEmpty) return
  const text = start.toString('latin1', 0, 128)
  const reason = otherContents.find(([pattern]) => pattern.test(text))?.[1]
  if (reason !== undefined) throw new ModelFileError(reason)
}

/** As a whole: a conversion for each name takes longer than the rest of the parser. */
function decode (bytes: Buffer): string {
  if (isAscii(bytes)) return bytes.toString('latin1')
  if (isUtf8(bytes)) return bytes.toString('utf8')
  throw new ModelFileError('The header is damaged: it is not UTF-8 text.')
}

const Char = {
  quote: 0x22,
  comma: 0x2c,
  colon: 0x3a,
  openBracket: 0x5b,
  backslash: 0x5c,
  closeBracket: 0x5d,
  openBrace: 0x7b,
  closeBrace: 0x7d
} as const

/** Parses `{name: {dtype, shape, data_offsets}, "__metadata__": {key: text}}` and nothing else. */
class HeaderParser {
  readonly #text: string
  /** Positions of the weights in the file. */
  readonly #dataStart: number
  readonly #dataEnd: number
  readonly #tensors = new Map<string, TensorInfo>()
  readonly #metadata = new Map<string, string>()
  #metadataSize = 0
  #position = 0

  constructor (text: string, dataStart: number, dataEnd: number) {
    this.#text = text
    this.#dataStart = dataStart
    this.#dataEnd = dataEnd
  }

  async parse (): Promise<Header> {
    const pacer = new Pacer()
    let seen = 0
    let metadataSeen = false
    for (let more = this.#beginObject(); more; more = this.#nextMember()) {
      const name = this.#key()
      if (name === '__metadata__') {
        if (metadataSeen) throw this.#duplicate(name)
        metadataSeen = true
        await this.#readMetadata(pacer)
      } else {
        if (this.#tensors.has(name)) throw this.#duplicate(name)
        if (this.#tensors.size === limits.tensors) throw beyondLimit(limits.tensors, 'tensors')
        this.#tensors.set(name, this.#tensor(name))
      }
      if (++seen % 256 === 0) await pacer.pause()
    }
    if (!Number.isNaN(this.#peek())) throw this.#unexpected('the end of the header')
    return { format: 'safetensors', tensors: this.#tensors, metadata: this.#metadata }
  }

  #tensor (name: string): TensorInfo {
    let dtype: string | undefined
    let shape: number[] | undefined
    let offsets: number[] | undefined
    for (let more = this.#beginObject(); more; more = this.#nextMember()) {
      const key = this.#key()
      if (key === 'dtype' && dtype === undefined) dtype = this.#string(limits.name)
      else if (key === 'shape' && shape === undefined) shape = this.#integers(name, limits.dimensions)
      else if (key === 'data_offsets' && offsets === undefined) offsets = this.#integers(name, 2)
      else throw new ModelFileError(`Tensor ${quoted(name)} has an unknown or repeated field ${quoted(key)}.`)
    }
    if (dtype === undefined || shape === undefined || offsets === undefined) {
      throw new ModelFileError(`Tensor ${quoted(name)} lacks its dtype, shape or data_offsets.`)
    }
    this.#checkData(name, dtype, shape, offsets)
    return { dtype, shape }
  }

  #checkData (name: string, dtype: string, shape: number[], offsets: number[]): void {
    const elementBits = bits.get(dtype)
    if (elementBits === undefined) {
      throw new ModelFileError(`Tensor ${quoted(name)} has the unknown dtype ${quoted(dtype)}.`)
    }
    const [begin, end] = offsets
    if (begin === undefined || end === undefined || begin > end) {
      throw new ModelFileError(`Tensor ${quoted(name)} has no valid data_offsets.`)
    }
    if (this.#dataStart + end > this.#dataEnd) {
      throw cutOff(`tensor ${quoted(name)}`, this.#dataStart + end, this.#dataEnd)
    }
    // Exact in floating point: a quotient that was rounded can't equal the integer on the left.
    const expected = elementCount(name, shape) / 8 * elementBits
    if (end - begin !== expected) {
      throw new ModelFileError(`Tensor ${quoted(name)} of shape [${shape.join(', ')}] and dtype ${dtype} ` +
        `needs ${expected} bytes, but its data_offsets hold ${end - begin}.`)
    }
  }

  async #readMetadata (pacer: Pacer): Promise<void> {
    const seen = new Set<string>()
    for (let more = this.#beginObject(); more; more = this.#nextMember()) {
      const key = this.#key()
      if (seen.has(key)) throw this.#duplicate(key)
      if (seen.size === limits.metadataEntries) throw beyondLimit(limits.metadataEntries, 'metadata entries')
      seen.add(key)
      // Some trainers write numbers and objects, though the format allows only text: skip them.
      if (this.#peek() === Char.quote) this.#keepMetadata(key)
      else this.#skipValue(1, this.#position + limits.metadataValue)
      if (seen.size % 64 === 0) await pacer.pause()
    }
  }

  #keepMetadata (key: string): void {
    const [begin, end] = this.#stringToken()
    if (end - begin > limits.metadataValue || this.#metadataSize + end - begin > limits.metadata) return
    this.#metadataSize += end - begin
    this.#metadata.set(key, this.#decode(begin, end))
  }

  /** Whether a member follows, with the position at its key. */
  #beginObject (): boolean {
    this.#expect(Char.openBrace, 'an object')
    return !this.#accept(Char.closeBrace)
  }

  #nextMember (): boolean {
    if (this.#accept(Char.comma)) return true
    this.#expect(Char.closeBrace, 'a comma or the end of the object')
    return false
  }

  #key (): string {
    const key = this.#string(limits.name)
    this.#expect(Char.colon, 'a colon')
    return key
  }

  #integers (name: string, maximum: number): number[] {
    const numbers: number[] = []
    this.#expect(Char.openBracket, 'a list of numbers')
    if (this.#accept(Char.closeBracket)) return numbers
    do {
      if (numbers.length === maximum) throw beyondLimit(maximum, `dimensions or offsets for ${quoted(name)}`)
      numbers.push(this.#integer())
    } while (this.#accept(Char.comma))
    this.#expect(Char.closeBracket, 'a comma or the end of the list')
    return numbers
  }

  #integer (): number {
    this.#peek()
    const begin = this.#position
    let value = 0
    for (let digit = this.#digit(); digit >= 0; digit = this.#digit()) {
      value = value * 10 + digit
      if (value > Number.MAX_SAFE_INTEGER) throw new ModelFileError('The header holds a number beyond 2⁵³.')
      this.#position++
    }
    const leadingZero = this.#text.charCodeAt(begin) === 0x30 && this.#position > begin + 1
    if (this.#position === begin || leadingZero) throw this.#unexpected('a whole number')
    return value
  }

  #digit (): number {
    const code = this.#text.charCodeAt(this.#position)
    return code >= 0x30 && code <= 0x39 ? code - 0x30 : -1
  }

  #string (maximum: number): string {
    const [begin, end] = this.#stringToken()
    if (end - begin > maximum) throw beyondLimit(maximum, 'characters in a name')
    return this.#decode(begin, end)
  }

  /** Skips a string and returns the bounds of the text between its quotes. */
  #stringToken (): [begin: number, end: number] {
    this.#expect(Char.quote, 'text in quotes')
    const begin = this.#position
    let position = begin
    for (;;) {
      const code = this.#text.charCodeAt(position)
      if (code === Char.quote) break
      if (!(code >= 0x20)) {
        this.#position = position
        throw this.#unexpected('the end of the text')
      }
      position += code === Char.backslash ? 2 : 1
    }
    this.#position = position + 1
    return [begin, position]
  }

  #decode (begin: number, end: number): string {
    const raw = this.#text.slice(begin, end)
    if (!raw.includes('\\')) return raw
    try {
      return JSON.parse(`"${raw}"`) as string
    } catch (cause) {
      throw new ModelFileError('The header holds text with an invalid escape.', { cause })
    }
  }

  #skipValue (depth: number, limit: number): void {
    if (depth > limits.depth) throw beyondLimit(limits.depth, 'levels of nested metadata')
    if (this.#position > limit) throw beyondLimit(limits.metadataValue, 'characters in a metadata value')
    const code = this.#peek()
    if (code === Char.quote) {
      this.#stringToken()
    } else if (code === Char.openBrace) {
      for (let more = this.#beginObject(); more; more = this.#nextMember()) {
        this.#stringToken()
        this.#expect(Char.colon, 'a colon')
        this.#skipValue(depth + 1, limit)
      }
    } else if (code === Char.openBracket) {
      this.#position++
      if (this.#accept(Char.closeBracket)) return
      do this.#skipValue(depth + 1, limit); while (this.#accept(Char.comma))
      this.#expect(Char.closeBracket, 'a comma or the end of the list')
    } else {
      this.#skipScalar()
    }
  }

  #skipScalar (): void {
    const word = /^(?:true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?)(?=[\s,\]}]|$)/
      .exec(this.#text.slice(this.#position, this.#position + 64))
    if (word === null) throw this.#unexpected('a value')
    this.#position += word[0].length
  }

  /** Code of the next character that is not white space; NaN at the end. */
  #peek (): number {
    for (;;) {
      const code = this.#text.charCodeAt(this.#position)
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return code
      this.#position++
    }
  }

  #accept (code: number): boolean {
    if (this.#peek() !== code) return false
    this.#position++
    return true
  }

  #expect (code: number, what: string): void {
    if (!this.#accept(code)) throw this.#unexpected(what)
  }

  #duplicate (name: string): ModelFileError {
    return new ModelFileError(`The header names ${quoted(name)} twice; programs would disagree about which one counts.`)
  }

  #unexpected (what: string): ModelFileError {
    return new ModelFileError(`The header is damaged at character ${this.#position}: expected ${what}.`)
  }
}
