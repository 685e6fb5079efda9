/**
 * A text in the metadata of JPEG and WebP images, where tools for generated images look for it: the UserComment of
 * EXIF, which sharp can write in ASCII only.
 */

/** What fits into one segment of a JPEG file beside its own header. */
const mostJpegBytes = 65_535 - 2 - 6

/** Adds `text`, unless it is too long for a JPEG image, to one that has no metadata yet. */
export function addJpegText (jpeg: Buffer, text: string): Buffer {
  const exif = exifOf(text)
  if (exif.length > mostJpegBytes) return jpeg
  const segment = Buffer.from('\xff\xe1\0\0Exif\0\0', 'latin1')
  segment.writeUInt16BE(2 + 6 + exif.length, 2)
  const start = 2 // behind the marker that every JPEG begins with
  return Buffer.concat([jpeg.subarray(0, start), segment, exif, jpeg.subarray(start)])
}

/** Adds `text` to a WebP image in the simple format, which becomes one in the extended format. */
export function addWebpText (webp: Buffer, text: string, { width, height }: { width: number, height: number }): Buffer {
  const hasExif = 0x08
  const features = Buffer.alloc(10)
  features[0] = hasExif
  features.writeUIntLE(width - 1, 4, 3)
  features.writeUIntLE(height - 1, 7, 3)
  const header = Buffer.from('RIFF\0\0\0\0WEBP', 'latin1')
  const chunks = Buffer.concat([
    riffChunk('VP8X', features), webp.subarray(header.length), riffChunk('EXIF', exifOf(text))
  ])
  header.writeUInt32LE(4 + chunks.length, 4)
  return Buffer.concat([header, chunks])
}

/** The smallest EXIF there is: a directory that points to a directory with the comment. */
function exifOf (text: string): Buffer {
  const comment = Buffer.concat([Buffer.from('UNICODE\0', 'latin1'), Buffer.from(text, 'utf16le').swap16()])
  const [long, undefinedBytes] = [4, 7]
  const header = Buffer.from('MM\0\x2a\0\0\0\x08', 'latin1')
  const directoryLength = 2 + 12 + 4
  const second = header.length + directoryLength
  return Buffer.concat([
    header,
    directory(0x8769, long, 1, second),
    directory(0x9286, undefinedBytes, comment.length, second + directoryLength),
    comment
  ])
}

/** A directory with one entry, and none after it. */
function directory (tag: number, type: number, count: number, value: number): Buffer {
  const bytes = Buffer.alloc(18)
  bytes.writeUInt16BE(1, 0)
  bytes.writeUInt16BE(tag, 2)
  bytes.writeUInt16BE(type, 4)
  bytes.writeUInt32BE(count, 6)
  bytes.writeUInt32BE(value, 10)
  return bytes
}

function riffChunk (type: string, data: Buffer): Buffer {
  const header = Buffer.from(`${type}\0\0\0\0`, 'latin1')
  header.writeUInt32LE(data.length, 4)
  return Buffer.concat([header, data, Buffer.alloc(data.length % 2)])
}
