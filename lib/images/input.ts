import type { Metadata } from 'sharp'
import { apiError, type ApiError } from '../../errors.ts'
import { Gate } from '../gate.ts'
import { formatOf, formats } from './format.ts'
import sharp from './sharp.ts'

/** Images that callers send. Nothing of them is trusted: neither what they say they are, nor how large. */

interface InputBounds {
  /** Bytes of the file. */
  maxBytes: number
  maxPixels: number
}

interface PngOptions {
  /** Pixels of the result. */
  width: number
  height: number
  /** 3 is colour, on white where the image is transparent; 1 is grey, on black. */
  channels: 1 | 3
  /** The image that this one is laid over, whose part that is seen is cut out; itself by default. */
  over?: { width: number, height: number }
}

/** Seconds; 64 megapixels take two. */
const longestDecoding = 30
/** zlib's scale: these files live as long as their job. */
const compressionLevel = 3

/** Characters of base64 for each one that counts, with the line breaks that many tools make. */
const largestOverhead = 1.1
/** Characters: what closes base64, and line breaks. */
const longestEnd = 16

/** One at a time: an interlaced image needs all of its pixels in memory. Those that wait hold their bytes. */
const decoding = new Gate({ running: 1, waiting: 16, what: 'images to decode' })

/** An image of which the header was read: what it is and how large, before a pixel of it is unpacked. */
export class InputImage {
  readonly field: string
  /** Pixels, after it was turned the way its camera was held. */
  readonly width: number
  readonly height: number
  readonly #bytes: Uint8Array
  readonly #maxPixels: number

  private constructor (
    field: string, bytes: Uint8Array, { autoOrient: { width, height } }: Metadata, maxPixels: number
  ) {
    this.field = field
    this.width = width
    this.height = height
    this.#bytes = bytes
    this.#maxPixels = maxPixels
  }

  /**
   * @param field what the caller calls it; errors name it.
   * @param source a file, or base64, or a data URL.
   * @throws {ApiError} SDR_INVALID_REQUEST, SDR_BODY_TOO_LARGE, SDR_UNAVAILABLE
   */
  static async open (
    field: string, source: string | Uint8Array, { maxBytes, maxPixels }: InputBounds
  ): Promise<InputImage> {
    const bytes = typeof source === 'string' ? fromText(field, source, maxBytes) : source
    checkSize(field, bytes.byteLength, maxBytes)
    checkSignature(field, bytes)
    const metadata = await decode(field, () => sharp(bytes, { limitInputPixels: false, failOn: 'error' }).metadata())
    const { format, width, height } = metadata
    if (!formats.includes(format)) throw refuse(field, 'a PNG, JPEG or WebP image', format)
    if (width * height > maxPixels) {
      const expected = `an image of at most ${maxPixels} pixels (--max-upload-pixels)`
      throw refuse(field, expected, `one of ${width} × ${height}`)
    }
    return new InputImage(field, bytes, metadata, maxPixels)
  }

  /**
   * Unpacks it and makes a PNG of 8 bits without any metadata. The largest part in its middle that has the proportions
   * of the result is scaled to the result; of an animation that is the first frame.
   * @throws {ApiError} SDR_INVALID_REQUEST when it is damaged, SDR_UNAVAILABLE when too many wait.
   */
  async toPng ({ width, height, channels, over = this }: PngOptions): Promise<Buffer> {
    return await decode(this.field, () => sharp(this.#bytes, { limitInputPixels: this.#maxPixels, failOn: 'error' })
      .autoOrient()
      .extract(this.#seenPart({ width, height }, over))
      .resize(width, height, { fit: 'fill' })
      .flatten({ background: channels === 1 ? 'black' : 'white' })
      .toColourspace(channels === 1 ? 'b-w' : 'srgb')
      .png({ compressionLevel })
      .timeout({ seconds: longestDecoding })
      .toBuffer())
  }

  /** What is left of this image when `over`, which it is stretched to, is cut to the proportions of `target`. */
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

async function decode<Result> (field: string, work: () => Promise<Result>): Promise<Result> {
  return await decoding.run('', async () => {
    try {
      return await work()
    } catch (error) {
      const reason = (error as Error).message.split('\n', 1)[0]!.slice(0, 120)
      throw refuse(field, 'an image that can be decoded', `one that cannot (${reason})`, error)
    }
  })
}

function fromText (field: string, text: string, maxBytes: number): Buffer {
  if (/^https?:/i.test(text)) throw refuse(field, 'the image itself', 'an address (this server does not fetch images)')
  const [prefix = ''] = /^data:[^,]{0,200},?/i.exec(text) ?? []
  if (prefix !== '' && !/;base64,$/i.test(prefix)) {
    throw refuse(field, 'a data URL with ;base64,', JSON.stringify(prefix.slice(0, 80)))
  }
  const encoded = text.slice(prefix.length)
  checkSize(field, Math.floor(encoded.length * 3 / 4 / largestOverhead), maxBytes)
  // Node.js skips what is not base64, and so would make something of any text.
  if (isBase64(encoded)) return Buffer.from(encoded, 'base64')
  throw refuse(field, 'base64, a data URL, or a file of a multipart form', 'a text that is none of these')
}

/** Of megabytes: each expression looks at one character at a time, or at a short text. */
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
  throw refuse(field, 'a PNG, JPEG or WebP image', bytes.byteLength === 0 ? 'nothing' : begin)
}

function refuse (field: string, expected: string, received: string, cause?: unknown): ApiError {
  return apiError('SDR_INVALID_REQUEST', `Expected ${expected} for ${field} but received ${received}`, {
    details: [{ field, expected, received }], cause
  })
}
