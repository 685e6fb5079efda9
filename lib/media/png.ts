import { crc32 } from 'node:zlib'

/** The first bytes of every PNG file. */
export const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])
/** PNG's own bound for both sides of an image and for the length of a chunk. */
const largest = 0x7fffffff
/** Where the header chunk (13 bytes of data) ends. */
const headerEnd = signature.length + 4 + 4 + 13 + 4

interface PngHeader {
  width: number
  height: number
  /** Bits of one sample. */
  depth: number
  colorType: number
}

/**
 * Reads the size of a PNG image from its first bytes.
 * @throws {RangeError} for another format or a damaged header.
 */
export function readPngHeader (png: Uint8Array): PngHeader {
  const bytes = Buffer.from(png.buffer, png.byteOffset, png.byteLength)
  if (bytes.length < headerEnd || !bytes.subarray(0, signature.length).equals(signature)) {
    throw new RangeError('Expected a PNG image but received something else')
  }
  const header = bytes.subarray(signature.length, headerEnd)
  if (header.readUInt32BE(0) !== 13 || header.toString('latin1', 4, 8) !== 'IHDR') {
    throw new RangeError('Expected a PNG image that starts with its header (IHDR)')
  }
  if (crc32(header.subarray(4, 21)) !== header.readUInt32BE(21)) {
    throw new RangeError('Expected a PNG image but its header is damaged')
  }
  const [width, height] = [header.readUInt32BE(8), header.readUInt32BE(12)]
  if (width < 1 || width > largest || height < 1 || height > largest) {
    throw new RangeError(`A PNG image cannot have ${width}×${height} pixels`)
  }
  return { width, height, depth: header[16]!, colorType: header[17]! }
}

/**
 * Adds a text to a PNG image, after its header: as tEXt if Latin-1 has its characters, else as iTXt.
 * @param keyword 1…79 printable ASCII characters.
 * @throws {RangeError} when `png` is not a PNG image, or the keyword or text can't be stored (NUL in the text).
 */
export function addText (png: Uint8Array, keyword: string, text: string): Buffer {
  readPngHeader(png)
  if (!/^[!-~]([ -~]{0,77}[!-~])?$/.test(keyword)) {
    throw new RangeError(`Expected a keyword of 1 to 79 printable ASCII characters but received "${keyword}"`)
  }
  if (text.includes('\0')) throw new RangeError('A PNG text cannot hold a NUL character')
  // Latin-1 as PNG has it: printable characters and line feeds, no control characters.
  const isLatin1 = /^[\n\x20-\x7e\xa0-\xff]*$/.test(text)
  const added = isLatin1
    ? chunk('tEXt', Buffer.from(`${keyword}\0${text}`, 'latin1'))
    // Not compressed, no language, no translated keyword.
    : chunk('iTXt', Buffer.from(`${keyword}\0\0\0\0\0${text}`, 'utf8'))
  return Buffer.concat([png.subarray(0, headerEnd), added, png.subarray(headerEnd)])
}

/** Chunks before the pixels in which a text is looked for. */
const mostTexts = 16

/** A text that `addText` has added; undefined without one. */
export function readText (png: Uint8Array, keyword: string): string | undefined {
  const bytes = Buffer.from(png.buffer, png.byteOffset, png.byteLength)
  for (let [at, seen] = [headerEnd, 0]; at + 12 <= bytes.length && seen < mostTexts; seen++) {
    const type = bytes.toString('latin1', at + 4, at + 8)
    const end = at + 8 + bytes.readUInt32BE(at)
    if (type === 'IDAT' || end + 4 > bytes.length) return undefined
    const data = bytes.subarray(at + 8, end)
    const before = type === 'tEXt' ? `${keyword}\0` : `${keyword}\0\0\0\0\0`
    if ((type === 'tEXt' || type === 'iTXt') && data.toString('latin1', 0, before.length) === before) {
      return data.toString(type === 'tEXt' ? 'latin1' : 'utf8', before.length)
    }
    at = end + 4
  }
}

/** A part of a PNG file: length, type, data and checksum. */
export function chunk (type: string, data: Uint8Array): Buffer {
  const result = Buffer.alloc(data.length + 12)
  result.writeUInt32BE(data.length, 0)
  result.write(type, 4, 'latin1')
  result.set(data, 8)
  result.writeUInt32BE(crc32(result.subarray(4, data.length + 8)), data.length + 8)
  return result
}
