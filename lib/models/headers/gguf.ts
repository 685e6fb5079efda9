import { Pacer } from '../../util/concurrency.ts'
import { quoted } from '../../util/text.ts'
import { type Header, type TensorInfo, ModelFileError, beyondLimit, cutOff, elementCount } from './header.ts'
import { limits } from './limits.ts'
import type { Source } from './source.ts'

/** Elements and bytes of one block, by ggml's number of the type; gaps are types that ggml removed. */
const tensorTypes: ReadonlyMap<number, readonly [name: string, elements: number, bytes: number]> = new Map([
  [0, ['F32', 1, 4]], [1, ['F16', 1, 2]], [2, ['Q4_0', 32, 18]], [3, ['Q4_1', 32, 20]],
  [6, ['Q5_0', 32, 22]], [7, ['Q5_1', 32, 24]], [8, ['Q8_0', 32, 34]], [9, ['Q8_1', 32, 36]],
  [10, ['Q2_K', 256, 84]], [11, ['Q3_K', 256, 110]], [12, ['Q4_K', 256, 144]], [13, ['Q5_K', 256, 176]],
  [14, ['Q6_K', 256, 210]], [15, ['Q8_K', 256, 292]], [16, ['IQ2_XXS', 256, 66]], [17, ['IQ2_XS', 256, 74]],
  [18, ['IQ3_XXS', 256, 98]], [19, ['IQ1_S', 256, 50]], [20, ['IQ4_NL', 32, 18]], [21, ['IQ3_S', 256, 110]],
  [22, ['IQ2_S', 256, 82]], [23, ['IQ4_XS', 256, 136]], [24, ['I8', 1, 1]], [25, ['I16', 1, 2]], [26, ['I32', 1, 4]],
  [27, ['I64', 1, 8]], [28, ['F64', 1, 8]], [29, ['IQ1_M', 256, 56]], [30, ['BF16', 1, 2]],
  [34, ['TQ1_0', 256, 54]], [35, ['TQ2_0', 256, 66]], [39, ['MXFP4', 32, 17]], [40, ['NVFP4', 64, 36]]
] as const)

const removedTypes = [4, 5, 31, 32, 33, 36, 37, 38]

/** Bytes of a metadata value by its type number; texts (8) and arrays (9) store their length. */
const valueBytes: ReadonlyMap<number, number> = new Map(
  [[0, 1], [1, 1], [2, 2], [3, 2], [4, 4], [5, 4], [6, 4], [7, 1], [10, 8], [11, 8], [12, 8]]
)
const textType = 8
const arrayType = 9
const alignmentType = 4

/** Real files use at most 4096; ggml only requires a power of two. */
const maximumAlignment = 65_536
const chunkBytes = 1024 * 1024

/**
 * Reads the header of a GGUF file (versions 2 and 3, little-endian).
 * @param start the first bytes of the file.
 * @throws {ModelFileError}
 */
export async function readGgufHeader (source: Source, start: Buffer): Promise<Header> {
  const reader = new Reader(source, start)
  await reader.need(24)
  reader.skip(4)
  const version = reader.u32()
  if (version !== 2 && version !== 3) {
    throw new ModelFileError(version % 65_536 === 0
      ? 'This GGUF file is big-endian; only little-endian files are supported.'
      : `GGUF version ${version} is not supported; versions 2 and 3 are.`)
  }
  const tensorCount = reader.count('tensors', limits.tensors)
  const metadataCount = reader.count('metadata entries', limits.metadataEntries)
  const pacer = new Pacer()
  const metadata = await readMetadata(reader, metadataCount, pacer)
  const alignment = checkAlignment(metadata.get('general.alignment') ?? 32)

  const tensors = new Map<string, TensorInfo>()
  const ends = new Map<string, number>()
  for (let index = 0; index < tensorCount; index++) {
    const { name, end, ...info } = await readTensor(reader, alignment)
    if (tensors.has(name)) throw new ModelFileError(`The header names the tensor ${quoted(name)} twice.`)
    tensors.set(name, info)
    ends.set(name, end)
    if (index % 256 === 0) await pacer.pause()
  }
  const dataStart = Math.ceil(reader.position / alignment) * alignment
  for (const [name, end] of ends) {
    if (dataStart + end > source.size) throw cutOff(`tensor ${quoted(name)}`, dataStart + end, source.size)
  }
  return { format: 'gguf', tensors, metadata }
}

async function readMetadata (reader: Reader, count: number, pacer: Pacer): Promise<Header['metadata']> {
  const metadata: Header['metadata'] = new Map()
  const seen = new Set<string>()
  let kept = 0
  for (let index = 0; index < count; index++) {
    const key = await reader.text(limits.name)
    if (seen.has(key)) throw new ModelFileError(`The header names the metadata ${quoted(key)} twice.`)
    seen.add(key)
    await reader.need(4)
    const type = reader.u32()
    // The engine reads four bytes here, whatever the type.
    if (key === 'general.alignment' && type !== alignmentType) throw wrongAlignment()
    if (type === textType) {
      const length = await reader.length()
      if (length > limits.metadataValue || kept + length > limits.metadata) {
        reader.skipFar(length)
      } else {
        metadata.set(key, await reader.string(length))
        kept += length
      }
    } else if (type === arrayType) {
      await skipArray(reader, key, pacer)
    } else {
      metadata.set(key, await reader.scalar(type, key))
    }
    await pacer.pause()
  }
  return metadata
}

/**
 * Vocabularies are arrays of a hundred thousand texts, which are not kept. Only missing bytes are awaited, because a
 * promise for each of millions of empty arrays takes many times longer than the arrays.
 */
async function skipArray (reader: Reader, key: string, pacer: Pacer): Promise<void> {
  /** How many arrays are left at each level. */
  const left = [1]
  for (let seen = 1; left.length > 0; seen++) {
    if (left.length > limits.depth) throw beyondLimit(limits.depth, `levels of arrays in ${quoted(key)}`)
    const level = left.length - 1
    if (left[level]!-- === 0) {
      left.pop()
      continue
    }
    const missing = reader.need(12)
    if (missing !== undefined) await missing
    const type = reader.u32()
    const count = reader.u64('a length')
    const bytes = valueBytes.get(type)
    if (bytes !== undefined) reader.skipFar(count * bytes)
    else if (type === textType) await reader.skipTexts(count, pacer)
    else if (type === arrayType) left.push(count)
    else throw unknownType(key, type)
    if (seen % 4096 === 0) await pacer.pause()
  }
}

async function readTensor (reader: Reader, alignment: number): Promise<TensorInfo & { name: string, end: number }> {
  const name = await reader.text(limits.name)
  await reader.need(4)
  const dimensions = reader.u32()
  if (dimensions > limits.dimensions) throw beyondLimit(limits.dimensions, `dimensions for ${quoted(name)}`)
  await reader.need(dimensions * 8 + 12)
  const shape = Array.from({ length: dimensions }, () => reader.u64('a dimension'))
  const type = reader.u32()
  const offset = reader.u64('an offset')
  const known = tensorTypes.get(type)
  if (known === undefined) {
    throw new ModelFileError(removedTypes.includes(type)
      ? `Tensor ${quoted(name)} has the type ${type}, which ggml removed. Download a newer version of the file.`
      : `Tensor ${quoted(name)} has the unknown type ${type}; it may be newer than this server.`)
  }
  const [dtype, elements, bytes] = known
  const rowLength = shape[0] ?? 1
  if (rowLength % elements !== 0) {
    throw new ModelFileError(
      `Tensor ${quoted(name)} has rows of ${rowLength}, no multiple of the ${elements} of ${dtype}.`)
  }
  if (offset % alignment !== 0) {
    throw new ModelFileError(`Tensor ${quoted(name)} does not start at a multiple of ${alignment}.`)
  }
  const end = offset + elementCount(name, shape) / elements * bytes
  return { name, dtype, shape: shape.reverse(), end }
}

function checkAlignment (alignment: unknown): number {
  if (typeof alignment === 'number' && alignment <= maximumAlignment && Number.isInteger(Math.log2(alignment))) {
    if (alignment >= 1) return alignment
  }
  throw wrongAlignment()
}

function wrongAlignment (): ModelFileError {
  return new ModelFileError('The header\'s general.alignment must be a power of two ' +
    `up to ${maximumAlignment}, of 32 bits.`)
}

function unknownType (key: string, type: number): ModelFileError {
  return new ModelFileError(`The metadata ${quoted(key)} has the unknown type ${type}.`)
}

/**
 * Reads forward through a file in chunks. `need(n)` loads n bytes; only then may the synchronous methods read them.
 * Reading beyond `limits.header` is an error.
 */
class Reader {
  readonly #source: Source
  #chunk: Buffer
  /** Position of the chunk in the file, and the next byte in the chunk. */
  #chunkStart = 0
  #offset = 0

  constructor (source: Source, start: Buffer) {
    this.#source = source
    this.#chunk = start
  }

  get position (): number {
    return this.#chunkStart + this.#offset
  }

  need (bytes: number): Promise<void> | undefined {
    if (this.#offset + bytes > this.#chunk.length) return this.#fill(bytes)
  }

  async #fill (bytes: number): Promise<void> {
    const position = this.position
    this.#check(bytes)
    const length = Math.min(Math.max(bytes, chunkBytes), this.#source.size - position)
    this.#chunk = await this.#source.read(position, length)
    this.#chunkStart = position
    this.#offset = 0
  }

  #check (bytes: number): void {
    const end = this.position + bytes
    if (end > this.#source.size) throw cutOff('its header', end, this.#source.size)
    if (end > limits.header) throw beyondLimit(limits.header, 'bytes')
  }

  skip (bytes: number): void {
    this.#offset += bytes
  }

  /** Skips bytes that may not be loaded. */
  skipFar (bytes: number): void {
    this.#check(bytes)
    this.#offset += bytes
    if (this.#offset <= this.#chunk.length) return
    this.#chunkStart = this.position
    this.#chunk = Buffer.alloc(0)
    this.#offset = 0
  }

  u32 (): number {
    this.#offset += 4
    return this.#chunk.readUInt32LE(this.#offset - 4)
  }

  u64 (what: string): number {
    const value = this.#chunk.readUInt32LE(this.#offset) + this.#chunk.readUInt32LE(this.#offset + 4) * 2 ** 32
    this.#offset += 8
    if (value > Number.MAX_SAFE_INTEGER) throw new ModelFileError(`The header holds ${what} beyond 2⁵³.`)
    return value
  }

  count (what: string, maximum: number): number {
    const count = this.u64('a count')
    if (count > maximum) throw beyondLimit(maximum, `${what} (${count})`)
    return count
  }

  async length (): Promise<number> {
    await this.need(8)
    return this.u64('a length')
  }

  /** A text after its length. @throws {ModelFileError} when it is longer than `maximum`. */
  async text (maximum: number): Promise<string> {
    const length = await this.length()
    if (length > maximum) throw beyondLimit(maximum, 'bytes in a name')
    return await this.string(length)
  }

  async string (length: number): Promise<string> {
    await this.need(length)
    this.#offset += length
    return this.#chunk.toString('utf8', this.#offset - length, this.#offset)
  }

  async skipTexts (count: number, pacer: Pacer): Promise<void> {
    for (let seen = 1; seen <= count; seen++) {
      const missing = this.need(8)
      if (missing !== undefined) await missing
      this.skipFar(this.u64('a length'))
      if (seen % 4096 === 0) await pacer.pause()
    }
  }

  async scalar (type: number, key: string): Promise<number | boolean> {
    const bytes = valueBytes.get(type)
    if (bytes === undefined) throw unknownType(key, type)
    await this.need(bytes)
    const at = this.#offset
    this.#offset += bytes
    switch (type) {
      case 0: return this.#chunk.readUInt8(at)
      case 1: return this.#chunk.readInt8(at)
      case 2: return this.#chunk.readUInt16LE(at)
      case 3: return this.#chunk.readInt16LE(at)
      case 4: return this.#chunk.readUInt32LE(at)
      case 5: return this.#chunk.readInt32LE(at)
      case 6: return this.#chunk.readFloatLE(at)
      case 7: return this.#chunk.readUInt8(at) !== 0
      case 10: return Number(this.#chunk.readBigUInt64LE(at))
      case 11: return Number(this.#chunk.readBigInt64LE(at))
      default: return this.#chunk.readDoubleLE(at)
    }
  }
}
