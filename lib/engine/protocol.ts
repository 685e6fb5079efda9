import type { EngineImage, EngineInfo, HostErrorCode, OperationName, Preview, Progress } from './engine.ts'

/**
 * The messages between the server and an engine process, over one socket (file descriptor 3 of the process).
 *
 * A frame is two unsigned 32-bit little-endian lengths (JSON, bytes), the JSON text and the bytes. Images travel as
 * bytes, everything else as JSON. This file runs under Bare too, which has `Buffer`, but no `node:` modules and no
 * TextDecoder.
 */
export const protocolVersion = 1

/** Longest JSON text in bytes; the longest request is a prompt with its options. */
export const maximumJson = 1024 * 1024
/** Most bytes beside the JSON of one frame: an upscaled image, or the attachments of one request. */
export const maximumBytes = 256 * 1024 * 1024
/** Most bytes of a preview, which clients get as base64. */
export const maximumPreview = 16 * 1024 * 1024

export type ProtocolErrorCode =
  | 'json_too_large'
  | 'bytes_too_large'
  | 'invalid_json' // the text is not JSON
  | 'invalid_message' // JSON, but not a message of this protocol
  | 'wrong_version'
  | 'truncated' // the other end closed in the middle of a frame

/** The other side broke the protocol; nothing that it sends afterwards can be trusted. */
export class ProtocolError extends Error {
  readonly code: ProtocolErrorCode
  constructor (code: ProtocolErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'ProtocolError'
    this.code = code
  }
}

export const logLevels = ['debug', 'info', 'warn', 'error'] as const
export type LogLevel = typeof logLevels[number]

export type HostMessage =
  | { type: 'hello', protocol: number, info: EngineInfo }
  /** The device changed: only the loading of a model shows which one runs it. */
  | { type: 'info', info: EngineInfo }
  | { type: 'progress', id: number, progress: Progress }
  | { type: 'preview', id: number, preview: Preview }
  | { type: 'image', id: number, image: EngineImage }
  | { type: 'log', level: LogLevel, text: string }
  | { type: 'done', id: number, result: object }
  | { type: 'error', id: number, code: HostErrorCode, message: string }

export type ServerMessage =
  | {
    type: 'run'
    id: number
    operation: OperationName
    parameters: object
    /** Images by parameter name. */
    attachments: Record<string, Uint8Array>
  }
  | { type: 'cancel', id: number }
  | { type: 'shutdown' }

type FieldTypes = Record<string, 'number' | 'string' | 'object'>

const serverFields: Record<ServerMessage['type'], FieldTypes> = {
  run: { id: 'number', operation: 'string', parameters: 'object', attachments: 'object' },
  cancel: { id: 'number' },
  shutdown: {}
}

export interface Frame {
  json: unknown
  bytes: Uint8Array
  /** Bytes of the JSON text. */
  length: number
}

/** Encodes a frame in pieces, so that large images are not copied. */
export function encodeFrame (json: object, pieces: Uint8Array[] = []): Uint8Array[] {
  const text = Buffer.from(JSON.stringify(json))
  const bytes = pieces.reduce((sum, piece) => sum + piece.byteLength, 0)
  checkLengths(text.byteLength, bytes)
  const header = new Uint8Array(8)
  const view = new DataView(header.buffer)
  view.setUint32(0, text.byteLength, true)
  view.setUint32(4, bytes, true)
  return [header, text, ...pieces]
}

/** Decodes a stream that may be cut anywhere. */
export class FrameDecoder {
  #chunks: Uint8Array[] = []
  #available = 0
  #lengths: { json: number, bytes: number } | undefined

  /**
   * @returns the frames that `chunk` completes.
   * @throws {ProtocolError} when a length exceeds its cap or the text is not JSON.
   */
  push (chunk: Uint8Array): Frame[] {
    // Not a Buffer, so that frames are the same in both runtimes.
    this.#chunks.push(new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength))
    this.#available += chunk.byteLength
    const frames: Frame[] = []
    for (;;) {
      if (this.#lengths === undefined) {
        if (this.#available < 8) return frames
        const header = this.#take(8)
        const view = new DataView(header.buffer, header.byteOffset, 8)
        const lengths = { json: view.getUint32(0, true), bytes: view.getUint32(4, true) }
        checkLengths(lengths.json, lengths.bytes)
        this.#lengths = lengths
      }
      const { json, bytes } = this.#lengths
      if (this.#available < json + bytes) return frames
      frames.push({ json: parseJson(this.#take(json)), bytes: this.#take(bytes), length: json })
      this.#lengths = undefined
    }
  }

  /** @throws {ProtocolError} when the stream ended inside a frame. */
  end (): void {
    if (this.#available > 0 || this.#lengths !== undefined) {
      throw new ProtocolError('truncated', 'The connection ended in the middle of a message.')
    }
  }

  #take (length: number): Uint8Array {
    this.#available -= length
    const first = this.#chunks[0]
    if (first !== undefined && first.byteLength >= length) {
      if (first.byteLength === length) this.#chunks.shift()
      else this.#chunks[0] = first.subarray(length)
      return first.subarray(0, length)
    }
    const taken = new Uint8Array(length)
    let filled = 0
    let used = 0
    while (filled < length) {
      const chunk = this.#chunks[used]!
      const part = chunk.subarray(0, length - filled)
      taken.set(part, filled)
      filled += part.byteLength
      if (part.byteLength === chunk.byteLength) used++
      else this.#chunks[used] = chunk.subarray(part.byteLength)
    }
    this.#chunks.splice(0, used)
    return taken
  }
}

export function encodeHostMessage (message: HostMessage): Uint8Array[] {
  if (message.type === 'image') {
    const { png, ...image } = message.image
    return encodeFrame({ ...message, image }, [png])
  }
  if (message.type === 'preview') {
    const { png, ...preview } = message.preview
    return encodeFrame({ ...message, preview }, [png])
  }
  return encodeFrame(message)
}

export function encodeServerMessage (message: ServerMessage): Uint8Array[] {
  if (message.type !== 'run') return encodeFrame(message)
  const attachments = Object.entries(message.attachments)
  return encodeFrame(
    { ...message, attachments: attachments.map(([name, bytes]) => [name, bytes.byteLength]) },
    attachments.map(([, bytes]) => bytes))
}

/** @throws {ProtocolError} */
export function decodeServerMessage ({ json, bytes }: Omit<Frame, 'length'>): ServerMessage {
  const message = checkFields(json)
  if (message.type !== 'run') return message as ServerMessage
  let position = 0
  const attachments = Object.fromEntries(attachmentLengths(message.attachments).map(([name, length]) => {
    position += length
    return [name, bytes.subarray(position - length, position)]
  }))
  if (position !== bytes.byteLength) {
    throw new ProtocolError('invalid_message',
      `The server announced ${position} bytes of attachments and sent ${bytes.byteLength}.`)
  }
  return { ...message, attachments } as ServerMessage
}

function attachmentLengths (value: unknown): Array<[name: string, length: number]> {
  const isEntry = (entry: unknown): boolean => Array.isArray(entry) && typeof entry[0] === 'string' && entry[1] >= 0
  if (Array.isArray(value) && value.every(isEntry)) return value
  throw new ProtocolError('invalid_message', "The server sent a 'run' message with a wrong 'attachments'.")
}

function checkLengths (json: number, bytes: number): void {
  if (json > maximumJson) {
    throw new ProtocolError('json_too_large', `A message has ${json} bytes of JSON; the most is ${maximumJson}.`)
  }
  if (bytes > maximumBytes) {
    throw new ProtocolError('bytes_too_large', `A message carries ${bytes} bytes; the most is ${maximumBytes}.`)
  }
}

function parseJson (text: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(text.buffer, text.byteOffset, text.byteLength).toString())
  } catch (error) {
    throw new ProtocolError('invalid_json', 'A message is not JSON.', { cause: error })
  }
}

interface Fields { type: string, [field: string]: unknown }

/** The server is trusted: this only checks that the fields are there and have the right JSON types. */
function checkFields (json: unknown): Fields {
  const message = json as Fields | null
  const fields = Object.hasOwn(serverFields, String(message?.type)) ? serverFields[message!.type as 'run'] : undefined
  if (fields === undefined) {
    throw new ProtocolError('invalid_message', 'The server sent a message of an unknown kind.')
  }
  for (const [field, type] of Object.entries(fields)) {
    const value = message![field]
    const actual = value === null ? 'null' : typeof value
    if (actual !== type) {
      throw new ProtocolError('invalid_message',
        `The server sent a '${message!.type}' message with a wrong '${field}'.`)
    }
  }
  return message!
}
