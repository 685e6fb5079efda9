import { apiError, unexpected, type ApiError } from '../../errors.ts'
import { cleanImage, type CleanImage } from './container.ts'
import { formatOf, formats } from './format.ts'
import { ImageError } from './image-process.ts'
import type { ImageProcesses } from './image-processes.ts'
import { quoted } from '../util/text.ts'

/** Images that clients send, in any format and size that they claim. Nothing in them is trusted. */

interface InputBounds {
  /** Bytes of the file. */
  maxBytes: number
  maxPixels: number
}

interface PngOptions {
  /** Pixels of the result. */
  width: number
  height: number
  /** 3 is colour, with transparency on white; 1 is a mask: white, or transparent beside colours, is drawn anew. */
  channels: 1 | 3
  /** The image that this one is stretched over and cropped with, as a mask is; itself by default. */
  over?: { width: number, height: number }
  /** Of a mask: whether what is transparent is drawn anew, whatever colours are beside it. */
  holesCount?: boolean
}

/** zlib's scale; these files live as long as their job. */
const compressionLevel = 3

/** Characters of base64, with the line breaks of many tools, for each one that counts. */
const largestOverhead = 1.1
/** Characters of padding and line breaks at the end of base64. */
const longestEnd = 16

export interface Decoder {
  processes: ImageProcesses
  /** Whose share of the processes it takes. */
  caller: string
}

/** An image with known format and size, before any pixel is decoded. */
export class InputImage {
  readonly field: string
  /** Pixels, in the orientation of the camera. */
  readonly width: number
  readonly height: number
  readonly #image: CleanImage

  private constructor (field: string, image: CleanImage) {
    const isOnItsSide = image.orientation >= 5
    this.field = field
    this.width = isOnItsSide ? image.height : image.width
    this.height = isOnItsSide ? image.width : image.height
    this.#image = image
  }

  /**
   * @param field name of the field, for errors.
   * @param source a file, base64, or a data URL.
   * @throws {ApiError} SDR_INVALID_REQUEST, SDR_BODY_TOO_LARGE
   */
  static open (field: string, source: string | Uint8Array, { maxBytes, maxPixels }: InputBounds): InputImage {
    const bytes = typeof source === 'string' ? fromText(field, source, maxBytes) : source
    checkSize(field, bytes.byteLength, maxBytes)
    checkSignature(field, bytes)
    const image = decodable(field, () => cleanImage(bytes))
    const { width, height } = image
    if (width * height > maxPixels) {
      const expected = `an image of at most ${maxPixels} pixels (--max-upload-pixels)`
      throw unexpected({ field, expected, received: `one of ${width} × ${height}` })
    }
    return new InputImage(field, image)
  }

  /**
   * Makes a PNG of 8 bits without metadata. The largest part in the middle with the proportions of the result is scaled
   * to it. Of an animation the first frame is used.
   * @throws {ApiError} SDR_INVALID_REQUEST when it is damaged, SDR_UNAVAILABLE or SDR_RATE_LIMITED when too many wait.
   */
  async toPng (
    { width, height, channels, over = this, holesCount }: PngOptions, { processes, caller }: Decoder
  ): Promise<Buffer> {
    return await processes.uploads.run(caller, async () => {
      try {
        const { bytes } = await processes.make(this.#image, {
          part: this.#seenPart({ width, height }, over),
          resize: { width, height },
          background: channels === 1 ? 'black' : 'white',
          holesCount,
          isStrict: this.#image.isEnded === false,
          format: 'png',
          compressionLevel
        })
        return bytes
      } catch (error) {
        throw error instanceof ImageError ? undecodable(this.field, error) : error
      }
    })
  }

  /** What remains of this image, stretched over `over`, when that is cropped to the proportions of `target`. */
  #seenPart (target: { width: number, height: number }, over: { width: number, height: number }) {
    const scale = Math.max(target.width / over.width, target.height / over.height)
    const [left, width] = middle(this.width, target.width / scale / over.width)
    const [top, height] = middle(this.height, target.height / scale / over.height)
    return { left, top, width, height }
  }
}

/** Start and length of the middle part of a side. */
function middle (side: number, part: number): [start: number, length: number] {
  const length = Math.min(Math.max(Math.round(side * part), 1), side)
  return [Math.floor((side - length) / 2), length]
}

function decodable<Result> (field: string, look: () => Result): Result {
  try {
    return look()
  } catch (error) {
    throw error instanceof RangeError ? undecodable(field, error) : error
  }
}

function undecodable (field: string, error: Error): ApiError {
  const received = `one that cannot (${error.message})`
  return unexpected({ field, expected: 'an image that can be decoded', received }, error)
}

function fromText (field: string, text: string, maxBytes: number): Buffer {
  if (/^https?:/i.test(text)) {
    const received = 'an address (this server does not fetch images)'
    throw unexpected({ field, expected: 'the image itself', received })
  }
  const [prefix = ''] = /^\s{0,64}data:[^,]{0,200},?/i.exec(text) ?? []
  if (prefix !== '' && !prefix.endsWith(',')) {
    throw unexpected({ field, expected: 'a data URL with a comma after its type', received: quoted(prefix) })
  }
  const isBytes = prefix !== '' && !/;base64\s{0,8},$/i.test(prefix)
  const content = text.slice(prefix.length)
  const isEscaped = isBytes || (prefix !== '' && content.includes('%'))
  if (isEscaped) checkSize(field, Math.floor(content.length / 4), maxBytes)
  if (isBytes) return percentDecoded(content)
  const encoded = isEscaped ? percentDecoded(content).toString('latin1') : content
  checkSize(field, Math.floor(encoded.length * 3 / 4 / largestOverhead), maxBytes)
  // Node.js skips characters that are not base64, so it decodes any text.
  if (isBase64(encoded)) return Buffer.from(encoded, 'base64')
  const expected = 'base64, a data URL, or a file of a multipart form'
  throw unexpected({ field, expected, received: 'a text that is none of these' })
}

const percent = 0x25
/** The value of each byte that is a hexadecimal digit, 255 for others. An expression takes seconds for megabytes. */
const hexadecimal = Uint8Array.from({ length: 256 }, (_, code) => {
  const digit = String.fromCharCode(code)
  return /[\da-f]/i.test(digit) ? Number.parseInt(digit, 16) : 255
})

/** The bytes of a data URL; a `%` that begins no byte stands for itself. */
function percentDecoded (text: string): Buffer {
  const bytes = Buffer.from(text, 'latin1')
  let length = 0
  for (let at = 0; at < bytes.length; at++) {
    const high = bytes[at] === percent ? hexadecimal[bytes[at + 1] ?? 0]! : 255
    const low = high === 255 ? 255 : hexadecimal[bytes[at + 2] ?? 0]!
    if (low !== 255) at += 2
    bytes[length++] = low === 255 ? bytes[at]! : high * 16 + low
  }
  return bytes.subarray(0, length)
}

/** The text has megabytes: each expression looks at one character, or at a short text. */
function isBase64 (text: string): boolean {
  if (/[^\w+/=\s-]/.test(text)) return false
  const padding = text.indexOf('=')
  if (padding === -1) return true
  const end = text.slice(padding, padding + longestEnd + 1)
  return end.length <= longestEnd && /^={1,2}\s*$/.test(end)
}

function checkSize (field: string, bytes: number, maxBytes: number): void {
  if (bytes <= maxBytes) return
  const expected = `a file of at most ${maxBytes} bytes (--max-upload-size)`
  throw apiError('SDR_BODY_TOO_LARGE', `Expected ${expected} for ${field} but received ${bytes}`, {
    details: [{ field, expected, received: String(bytes) }]
  })
}

function checkSignature (field: string, bytes: Uint8Array): void {
  const format = formatOf(bytes)
  if (format !== undefined && formats.includes(format)) return
  const start = JSON.stringify(Buffer.from(bytes.subarray(0, 8)).toString('latin1'))
  const begin = `bytes that begin with ${start}${format === undefined ? '' : ` (${format})`}`
  const received = bytes.byteLength === 0 ? 'nothing' : begin
  throw unexpected({ field, expected: 'a PNG, JPEG or WebP image', received })
}
