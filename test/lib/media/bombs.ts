import { deflateSync } from 'node:zlib'
import { chunk, signature } from '../../../lib/media/png.ts'

/** Images that keep a decoder busy or fill the memory, in the sizes that a test can bear when nothing stops them. */

function segment (marker: number, data: Buffer): Buffer {
  const head = Buffer.from([0xff, marker, 0, 0])
  head.writeUInt16BE(data.length + 2, 2)
  return Buffer.concat([head, data])
}

/** A grey PNG of 64 × 64 with chunks before its pixels. */
export function pngWith (...chunks: Buffer[]): Buffer {
  const header = Buffer.alloc(13)
  header.writeUInt32BE(64, 0)
  header.writeUInt32BE(64, 4)
  header[8] = 8
  return Buffer.concat([
    signature, chunk('IHDR', header), ...chunks, chunk('IDAT', deflateSync(Buffer.alloc(65 * 64))), chunk('IEND', Buffer.alloc(0))
  ])
}

/** Each text of 50 kilobytes becomes one of 50 megabytes. */
export function pngOfTexts (count: number): Buffer {
  const text = deflateSync(Buffer.alloc(50_000_000, 'A'), { level: 9 })
  return pngWith(...Array<Buffer>(count).fill(chunk('zTXt', Buffer.concat([Buffer.from('k\0\0'), text]))))
}

/** A progressive JPEG of 8192 × 4096, each scan of which changes nothing and takes as long as any other. */
export function jpegOfScans (count: number): Buffer {
  const scan = (n: number) => {
    const coefficient = 1 + n % 63
    return Buffer.concat([segment(0xda, Buffer.from([1, 1, 0, coefficient, coefficient, 0])), Buffer.alloc(60)])
  }
  return Buffer.concat([
    Buffer.from([0xff, 0xd8]),
    segment(0xdb, Buffer.concat([Buffer.alloc(1), Buffer.alloc(64, 1)])),
    segment(0xc2, Buffer.from([8, 16, 0, 32, 0, 1, 1, 17, 0])),
    segment(0xc4, Buffer.concat([Buffer.from([0, 1]), Buffer.alloc(15), Buffer.alloc(1)])),
    segment(0xda, Buffer.from([1, 1, 0, 0, 0, 0])),
    Buffer.alloc(65_536),
    segment(0xc4, Buffer.concat([Buffer.from([16, 1]), Buffer.alloc(15), Buffer.from([0xe0])])),
    ...Array.from({ length: count }, (_, n) => scan(n)),
    Buffer.from([0xff, 0xd9])
  ])
}

/** A JPEG with an EXIF whose directory names itself as the next one, and is longer than its data. */
export function withLoopingExif (jpeg: Buffer): Buffer {
  const entries = 5000
  const exif = Buffer.alloc(8 + 2 + entries * 12 + 4)
  exif.write('II*\0', 'latin1')
  exif.writeUInt32LE(8, 4)
  exif.writeUInt16LE(0xffff, 8)
  for (let at = 10; at < exif.length - 4; at += 12) {
    exif.writeUInt16LE(0x8769, at)
    exif.writeUInt16LE(4, at + 2)
    exif.writeUInt32LE(1, at + 4)
    exif.writeUInt32LE(8, at + 8)
  }
  return Buffer.concat([jpeg.subarray(0, 2), segment(0xe1, Buffer.concat([Buffer.from('Exif\0\0'), exif])), jpeg.subarray(2)])
}
