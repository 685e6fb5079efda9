import { formatOf, formats } from './format.ts'
import sharp from './sharp.ts'

interface DecodedImage {
  /** Pixels. */
  width: number
  height: number
  /** 3 samples of 8 bits (RGB), or 1 (grey). */
  channels: 1 | 3
  data: Buffer
}

interface DecodeOptions {
  channels: 1 | 3
  /** Pixels to scale to, without keeping the proportions; the image's own size by default. */
  width?: number
  height?: number
}

/** Pixels of an attachment: more than any model draws, and 200 MB when decoded. */
const largest = 8192 * 8192

/**
 * Decodes a PNG, JPEG or WebP image in the orientation of its camera. Transparency becomes white in a colour image, and
 * black, which means "keep", in a grey one (a mask).
 * @throws {RangeError} for other formats, damaged images and too many pixels.
 */
export async function decodeImage (
  bytes: Uint8Array, { channels, width, height }: DecodeOptions
): Promise<DecodedImage> {
  try {
    const format = formatOf(bytes) ?? 'unknown'
    if (!formats.includes(format)) throw new Error(`its format is ${format}`)
    const image = sharp(bytes, { failOn: 'error', limitInputPixels: largest, autoOrient: true })
    const background = channels === 1 ? 'black' : 'white'
    if (width !== undefined || height !== undefined) image.resize(width, height, { fit: 'fill' })
    const { data, info } = await image
      .flatten({ background })
      .toColourspace(channels === 1 ? 'b-w' : 'srgb')
      .raw({ depth: 'uchar' })
      .toBuffer({ resolveWithObject: true })
    return { width: info.width, height: info.height, channels, data }
  } catch (error) {
    throw new RangeError(
      `Expected a PNG, JPEG or WebP image of at most ${largest / 1e6} megapixels: ${(error as Error).message}`,
      { cause: error })
  }
}
