import { promisify } from 'node:util'
import { deflate } from 'node:zlib'
import { chunk, signature } from './png.ts'

/** PNG's colour types for 1 (grey), 3 (RGB) and 4 (RGBA) samples of a pixel. */
const colorTypes: Record<number, number> = { 1: 0, 3: 2, 4: 6 }
/** zlib's scale. On images, which are noisy, higher levels take longer and gain next to nothing. */
const compressionLevel = 4
/** Each byte as the difference to the one above it. */
const filterUp = 2

const compress = promisify(deflate)

interface RawPixels {
  /** Pixels. */
  width: number
  height: number
  /** 1 (grey), 3 (RGB) or 4 (RGBA) samples of 8 bits. */
  channels: number
  /** Rows from top to bottom without padding. */
  data: Uint8Array
}

/**
 * Makes a PNG file without text chunks. Compresses on a thread of the pool.
 * @throws {RangeError} when the number of bytes does not match the size.
 */
export async function encodePng ({ width, height, channels, data }: RawPixels): Promise<Buffer> {
  const colorType = colorTypes[channels]
  if (colorType === undefined || data.byteLength !== width * height * channels || data.byteLength === 0) {
    throw new RangeError(`Expected ${width}×${height}×${channels} bytes of an image but received ${data.byteLength}`)
  }
  const header = Buffer.alloc(13)
  header.writeUInt32BE(width, 0)
  header.writeUInt32BE(height, 4)
  header[8] = 8
  header[9] = colorType
  const pixels = await compress(filter(data, width * channels, height), { level: compressionLevel })
  return Buffer.concat([signature, chunk('IHDR', header), chunk('IDAT', pixels), chunk('IEND', Buffer.alloc(0))])
}

function filter (data: Uint8Array, stride: number, height: number): Buffer {
  const rows = Buffer.allocUnsafe((stride + 1) * height)
  for (let row = 0, from = 0, to = 0; row < height; row++) {
    rows[to++] = filterUp
    for (const end = from + stride; from < end; from++) {
      rows[to++] = row === 0 ? data[from]! : data[from]! - data[from - stride]!
    }
  }
  return rows
}
