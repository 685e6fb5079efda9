import { orientationExif, readOrientation } from './exif.ts'
import { formatOf } from './format.ts'
import { chunk, readPngHeader, signature } from './png.ts'
import { riffHeaderLength, webpFile } from './riff.ts'

/**
 * Reduces an image file to what its pixels need. Decoders unpack texts, follow directories and draw frames without a
 * bound, so none of these may reach them. Each byte is read once.
 */

export interface CleanImage {
  format: 'png' | 'jpeg' | 'webp'
  /** Pixels as stored, before the orientation is applied. */
  width: number
  height: number
  /** Of EXIF, 1…8; from 5 on the sides are swapped. The only metadata in `bytes`. */
  orientation: number
  /** The file had no end: only a warning of the decoder tells whether pixels are missing. */
  isEnded?: false
  bytes: Buffer
}

/** Chunks or segments; enough for 64 MiB in the smallest ones that programs write. */
const mostParts = 100_000
/** Scans of a JPEG image, each of which goes over all pixels; programs write about ten. */
const mostScans = 100
/** Bytes of a colour profile. */
const largestProfile = 4 * 1024 * 1024

/** @throws {RangeError} for other formats and damaged images. */
export function cleanImage (image: Uint8Array): CleanImage {
  const bytes = Buffer.from(image.buffer, image.byteOffset, image.byteLength)
  switch (formatOf(bytes)) {
    case 'png': return cleanPng(bytes)
    case 'jpeg': return cleanJpeg(bytes)
    case 'webp': return cleanWebp(bytes)
    default: throw new RangeError('it is not a PNG, JPEG or WebP image')
  }
}

/** Chunks for the pixels, their transparency and their colours. */
const pngChunks = new Set(['PLTE', 'tRNS', 'gAMA', 'cHRM', 'sRGB', 'sBIT', 'iCCP', 'IDAT'])

function cleanPng (bytes: Buffer): CleanImage {
  const { width, height } = readPngHeader(bytes)
  const pieces: Uint8Array[] = [signature]
  let orientation = 1
  let parts = 0
  for (let at = signature.length; ;) {
    if (at + 12 > bytes.length) throw new RangeError('it is cut off')
    const length = bytes.readUInt32BE(at)
    const type = bytes.toString('latin1', at + 4, at + 8)
    const end = at + 12 + length
    if (end > bytes.length) throw new RangeError('it is cut off')
    if (++parts > mostParts) throw new RangeError(`it has more than ${mostParts} chunks`)
    const whole = bytes.subarray(at, end)
    const isCritical = (bytes[at + 4]! & 0x20) === 0
    if (type === 'IHDR') {
      if (at !== signature.length) throw new RangeError('it has several headers')
      pieces.push(whole)
    } else if (type === 'IEND') {
      pieces.push(whole)
      break
    } else if (type === 'iCCP' && length > largestProfile) {
      throw new RangeError(`its colour profile has more than ${largestProfile} bytes`)
    } else if (type === 'eXIf') {
      orientation = readOrientation(whole.subarray(8, -4))
    } else if (pngChunks.has(type)) {
      pieces.push(whole)
    } else if (isCritical) {
      throw new RangeError(`it has a chunk ${JSON.stringify(type)}`)
    }
    at = end
  }
  if (orientation !== 1) pieces.splice(2, 0, chunk('eXIf', orientationExif(orientation)))
  return { format: 'png', width, height, orientation, bytes: Buffer.concat(pieces) }
}

const [startOfImage, endOfImage, startOfScan] = [0xd8, 0xd9, 0xda]
const [app1, app2, app14, app15, comment] = [0xe1, 0xe2, 0xee, 0xef, 0xfe]
const [firstApp, temporary] = [0xe0, 0x01]
const exifName = Buffer.from('Exif\0\0', 'latin1')
const profileName = Buffer.from('ICC_PROFILE\0', 'latin1')
const jfifName = Buffer.from('JFIF\0', 'latin1')
const jfifLength = 16

function cleanJpeg (bytes: Buffer): CleanImage {
  const pieces = [bytes.subarray(0, 2)]
  let size: { width: number, height: number } | undefined
  let orientation: number | undefined
  let [parts, scans, profile] = [0, 0, 0]
  let ending: Pick<CleanImage, 'isEnded'> = {}
  for (let at = 2; ;) {
    while (at < bytes.length && bytes[at] !== 0xff) at++
    while (at < bytes.length && bytes[at] === 0xff) at++
    const marker = bytes[at]
    if (marker === undefined) {
      // As some cameras write it.
      pieces.push(Buffer.from([0xff, endOfImage]))
      ending = { isEnded: false }
      break
    }
    const start = at - 1
    at++
    if (marker === 0 || isRestart(marker) || marker === startOfImage || marker === temporary) continue
    if (marker === endOfImage) {
      pieces.push(bytes.subarray(start, at))
      break
    }
    if (++parts > mostParts) throw new RangeError(`it has more than ${mostParts} segments`)
    const end = at + (at + 2 > bytes.length ? Infinity : Math.max(2, bytes.readUInt16BE(at)))
    if (end > bytes.length) throw new RangeError('it is cut off')
    const data = bytes.subarray(at + 2, end)
    const whole = bytes.subarray(start, end)
    at = end
    if (marker === startOfScan) {
      if (++scans > mostScans) throw new RangeError(`it has more than ${mostScans} scans`)
      at = endOfScan(bytes, end)
      pieces.push(bytes.subarray(start, at))
    } else if (marker === app1) {
      if (orientation !== undefined || !startsWith(data, exifName)) continue
      orientation = readOrientation(data.subarray(exifName.length))
      if (orientation !== 1) pieces.push(segment(app1, Buffer.concat([exifName, orientationExif(orientation)])))
    } else if (marker === app2) {
      if (!startsWith(data, profileName)) continue
      if ((profile += data.length) > largestProfile) {
        throw new RangeError(`its colour profile has more than ${largestProfile} bytes`)
      }
      pieces.push(whole)
    } else if (marker === firstApp) {
      if (startsWith(data, jfifName) && whole.length <= jfifLength + 2) pieces.push(whole)
    } else if (marker === app14 || !((marker > firstApp && marker <= app15) || marker === comment)) {
      pieces.push(whole)
      if (!isFrame(marker)) continue
      if (size !== undefined) throw new RangeError('it has several frames')
      if (data.length < 5) throw new RangeError('its frame is damaged')
      size = { height: data.readUInt16BE(1), width: data.readUInt16BE(3) }
    }
  }
  if (size === undefined || size.width === 0 || size.height === 0) throw new RangeError('it has no size')
  return {
    format: 'jpeg', ...size, orientation: orientation ?? 1, bytes: Buffer.concat(pieces), ...ending
  }
}

function isRestart (marker: number): boolean {
  return marker >= 0xd0 && marker <= 0xd7
}

/** SOF0…SOF15, without three numbers among them that have another meaning. */
function isFrame (marker: number): boolean {
  return marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc
}

/** Position of the marker that ends the compressed data. */
function endOfScan (bytes: Buffer, start: number): number {
  for (let at = start; at < bytes.length - 1; at++) {
    if (bytes[at] !== 0xff) continue
    const next = bytes[at + 1]!
    if (next !== 0 && next !== 0xff && !isRestart(next)) return at
  }
  return bytes.length
}

function segment (marker: number, data: Buffer): Buffer {
  const head = Buffer.from([0xff, marker, 0, 0])
  head.writeUInt16BE(data.length + 2, 2)
  return Buffer.concat([head, data])
}

function startsWith (data: Buffer, start: Buffer): boolean {
  return data.subarray(0, start.length).equals(start)
}

/** Chunks of an image with one frame; only the first of each is kept. */
const webpChunks = new Set(['VP8X', 'VP8 ', 'VP8L', 'ALPH', 'ICCP', 'ANIM', 'ANMF'])
/** Bits of VP8X. */
const [hasXmp, hasExif] = [0x04, 0x08]

function cleanWebp (bytes: Buffer): CleanImage {
  const end = 8 + bytes.readUInt32LE(4)
  if (end > bytes.length) throw new RangeError('it is cut off')
  const found = new Map<string, Buffer>()
  let orientation: number | undefined
  let parts = 0
  for (let at = riffHeaderLength; at + 8 <= end;) {
    const type = bytes.toString('latin1', at, at + 4)
    const length = bytes.readUInt32LE(at + 4)
    if (at + 8 + length > end) throw new RangeError('it is cut off')
    if (++parts > mostParts) throw new RangeError(`it has more than ${mostParts} chunks`)
    const data = bytes.subarray(at + 8, at + 8 + length)
    if (type === 'ICCP' && length > largestProfile) {
      throw new RangeError(`its colour profile has more than ${largestProfile} bytes`)
    }
    if (type === 'EXIF') {
      orientation ??= readOrientation(startsWith(data, exifName) ? data.subarray(exifName.length) : data)
    } else if (webpChunks.has(type) && !found.has(type)) found.set(type, data)
    at += 8 + length + length % 2
  }
  const [type = '', first = Buffer.alloc(0)] = [...found][0] ?? []
  const size = webpSize(type, first)
  if (size === undefined) throw new RangeError('it has no size')
  if (type !== 'VP8X') return { format: 'webp', ...size, orientation: 1, bytes: webpFile([[type, first]]) }
  const features = Buffer.from(first)
  features[0]! &= ~(hasXmp | hasExif)
  found.set('VP8X', features)
  if (orientation !== undefined && orientation !== 1) {
    features[0]! |= hasExif
    found.set('EXIF', orientationExif(orientation))
  }
  return { format: 'webp', ...size, orientation: orientation ?? 1, bytes: webpFile([...found]) }
}

/** @param type of the first chunk, which holds the size. */
function webpSize (type: string, data: Buffer): { width: number, height: number } | undefined {
  if (data.length < 10) return undefined
  switch (type) {
    case 'VP8X': return { width: data.readUIntLE(4, 3) + 1, height: data.readUIntLE(7, 3) + 1 }
    case 'VP8 ': return { width: data.readUInt16LE(6) & 0x3fff, height: data.readUInt16LE(8) & 0x3fff }
    case 'VP8L': {
      const sides = data.readUInt32LE(1)
      return { width: (sides & 0x3fff) + 1, height: ((sides >>> 14) & 0x3fff) + 1 }
    }
  }
}
