import { riffHeaderLength, webpFile } from './riff.ts'

/**
 * EXIF: reads the orientation of images that come in, and writes a text into JPEG and WebP images that go out, as the
 * UserComment, where tools for generated images look for it. sharp can write that in ASCII only.
 */

/** Bytes that fit into one segment of a JPEG file beside its header. */
const mostJpegBytes = 65_535 - 2 - 6

/** Adds `text` to a JPEG image without metadata, unless it is too long. */
export function addJpegText (jpeg: Buffer, text: string): Buffer {
  const exif = exifOf(text)
  if (exif.length > mostJpegBytes) return jpeg
  const segment = Buffer.from('\xff\xe1\0\0Exif\0\0', 'latin1')
  segment.writeUInt16BE(2 + 6 + exif.length, 2)
  const start = 2 // behind the marker that every JPEG begins with
  return Buffer.concat([jpeg.subarray(0, start), segment, exif, jpeg.subarray(start)])
}

/** Adds `text` to a WebP image in the simple format, and so makes the extended format of it. */
export function addWebpText (webp: Buffer, text: string, { width, height }: { width: number, height: number }): Buffer {
  const hasExif = 0x08
  const features = Buffer.alloc(10)
  features[0] = hasExif
  features.writeUIntLE(width - 1, 4, 3)
  features.writeUIntLE(height - 1, 7, 3)
  const type = webp.toString('latin1', riffHeaderLength, riffHeaderLength + 4)
  const length = webp.readUInt32LE(riffHeaderLength + 4)
  const pixels = webp.subarray(riffHeaderLength + 8, riffHeaderLength + 8 + length)
  return webpFile([['VP8X', features], [type, pixels], ['EXIF', exifOf(text)]])
}

const orientationTag = 0x0112
const upright = 1

/** @param exif from its byte order on. @returns 1…8 from the first directory; upright when damaged. */
export function readOrientation (exif: Buffer): number {
  const order = exif.toString('latin1', 0, 4)
  if (exif.length < 8 || (order !== 'II*\0' && order !== 'MM\0*')) return upright
  const isLittle = order.startsWith('I')
  const read16 = (at: number) => isLittle ? exif.readUInt16LE(at) : exif.readUInt16BE(at)
  const start = isLittle ? exif.readUInt32LE(4) : exif.readUInt32BE(4)
  if (start + 2 > exif.length) return upright
  const entries = Math.min(read16(start), Math.floor((exif.length - start - 2) / 12))
  for (let entry = 0; entry < entries; entry++) {
    const at = start + 2 + entry * 12
    if (read16(at) !== orientationTag) continue
    const orientation = read16(at + 8)
    return orientation >= 1 && orientation <= 8 ? orientation : upright
  }
  return upright
}

/** EXIF with nothing but the orientation. */
export function orientationExif (orientation: number): Buffer {
  const short = 3
  return Buffer.concat([header, directory(orientationTag, short, 1, orientation << 16)])
}

/** Big-endian; the first directory follows. */
const header = Buffer.from('MM\0\x2a\0\0\0\x08', 'latin1')

/** The smallest EXIF with a comment: a directory that points to a directory with it. */
function exifOf (text: string): Buffer {
  const comment = Buffer.concat([Buffer.from('UNICODE\0', 'latin1'), Buffer.from(text, 'utf16le').swap16()])
  const [long, undefinedBytes] = [4, 7]
  const directoryLength = 2 + 12 + 4
  const second = header.length + directoryLength
  return Buffer.concat([
    header,
    directory(0x8769, long, 1, second),
    directory(0x9286, undefinedBytes, comment.length, second + directoryLength),
    comment
  ])
}

/** A directory with one entry, without a next directory. */
function directory (tag: number, type: number, count: number, value: number): Buffer {
  const bytes = Buffer.alloc(18)
  bytes.writeUInt16BE(1, 0)
  bytes.writeUInt16BE(tag, 2)
  bytes.writeUInt16BE(type, 4)
  bytes.writeUInt32BE(count, 6)
  bytes.writeUInt32BE(value, 10)
  return bytes
}
