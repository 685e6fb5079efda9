import sharp from 'sharp'
import t from 'tap'
import { decodeImage } from '../../../lib/media/decode.ts'

const plain = () => sharp({ create: { width: 4, height: 3, channels: 3, background: '#336699' } })

t.test('decodes every format that clients may send', async (t) => {
  for (const bytes of [await plain().png().toBuffer(), await plain().webp({ lossless: true }).toBuffer()]) {
    const { data, ...size } = await decodeImage(bytes, { channels: 3 })
    t.match(size, { width: 4, height: 3, channels: 3 })
    t.strictSame([...data.subarray(0, 3)], [0x33, 0x66, 0x99])
  }
  t.match(await decodeImage(await plain().jpeg().toBuffer(), { channels: 1, width: 8, height: 8 }), {
    width: 8,
    height: 8,
    channels: 1
  })
})

t.test('names other formats, and has no reader for them', async (t) => {
  const tiff = await plain().tiff().toBuffer()
  for (const [bytes, message] of [
    [tiff, /its format is tiff$/],
    [Buffer.from('<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>'), /its format is svg$/],
    [await plain().gif().toBuffer(), /its format is gif$/],
    [await plain().avif().toBuffer(), /its format is avif$/],
    [Buffer.from('a poem'), /its format is unknown$/],
    [new Uint8Array(), /its format is unknown$/]
  ] as const) {
    await t.rejects(decodeImage(bytes, { channels: 3 }), { name: 'RangeError', message })
  }
  await t.rejects(sharp(tiff).metadata(), /unsupported image format/)
})
