import type { Writable } from 'node:stream'

/**
 * The messages between the server and an image process: two unsigned 32-bit little-endian lengths, a text in JSON, and
 * the bytes of an image.
 */
export interface Message<Head> {
  head: Head
  bytes: Buffer
}

const lengths = 8
/** Bytes of the text. */
const longestHead = 16 * 1024

export function sendMessage (stream: Writable, head: object, bytes: Uint8Array = Buffer.alloc(0)): void {
  const text = Buffer.from(JSON.stringify(head))
  const start = Buffer.alloc(lengths)
  start.writeUInt32LE(text.length, 0)
  start.writeUInt32LE(bytes.length, 4)
  stream.write(Buffer.concat([start, text]))
  if (bytes.length > 0) stream.write(bytes)
}

/** Joins chunks to messages, one after the other. */
export class MessageReader<Head> {
  readonly #mostBytes: number
  #chunks: Buffer[] = []
  #length = 0

  /** @param mostBytes of an image. */
  constructor (mostBytes: number) {
    this.#mostBytes = mostBytes
  }

  /**
   * @returns the message that ends with this chunk.
   * @throws {RangeError} when it is too large, or something follows it.
   */
  push (chunk: Buffer): Message<Head> | undefined {
    this.#chunks.push(chunk)
    this.#length += chunk.length
    if (this.#length < lengths) return undefined
    if (this.#chunks[0]!.length < lengths) this.#chunks = [Buffer.concat(this.#chunks)]
    const [headLength, bytesLength] = [this.#chunks[0]!.readUInt32LE(0), this.#chunks[0]!.readUInt32LE(4)]
    const whole = lengths + headLength + bytesLength
    if (headLength > longestHead || bytesLength > this.#mostBytes || this.#length > whole) {
      throw new RangeError('The message is longer than it may be')
    }
    if (this.#length < whole) return undefined
    const message = Buffer.concat(this.#chunks)
    this.#chunks = []
    this.#length = 0
    return {
      head: JSON.parse(message.toString('utf8', lengths, lengths + headLength)) as Head,
      bytes: message.subarray(lengths + headLength)
    }
  }
}
