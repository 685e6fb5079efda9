import sharp from 'sharp'
import t from 'tap'
import { cleanImage } from '../../../lib/media/container.ts'
import { chunk } from '../../../lib/media/png.ts'
import { jpegOfScans, pngOfTexts, pngWith, withLoopingExif } from './bombs.ts'

const photo = (width = 40, height = 30) => sharp({ create: { width, height, channels: 3, background: '#a04020' } })

/** How long the walk takes, in milliseconds. */
function timeOf (work: () => unknown): number {
  const start = performance.now()
  work()
  return performance.now() - start
}

t.test('keeps what the pixels need, and the pixels', async t => {
  for (const format of ['png', 'jpeg', 'webp'] as const) {
    for (const profile of ['srgb', 'p3']) {
      const bytes = await photo().withIccProfile(profile).withExif({ IFD0: { Copyright: 'a secret' } }).toFormat(format).toBuffer()
      const { bytes: clean, ...rest } = cleanImage(bytes)
      t.same(rest, { format, width: 40, height: 30, orientation: 1 })
      t.notOk(clean.includes('a secret'))
      t.equal((await sharp(clean).metadata()).exif, undefined)
      t.same(await sharp(clean).raw().toBuffer(), await sharp(bytes).raw().toBuffer(), `${format} ${profile}`)
    }
  }
  const grey = await photo().png({ palette: true }).toBuffer()
  t.same(await sharp(cleanImage(grey).bytes).raw().toBuffer(), await sharp(grey).raw().toBuffer(), 'a palette')
  const progressive = await photo(200, 100).jpeg({ progressive: true }).toBuffer()
  t.same(cleanImage(progressive).bytes, progressive, 'a progressive JPEG without metadata as it is')
  const clear = await sharp({ create: { width: 8, height: 8, channels: 4, background: '#ff000080' } }).webp({ quality: 50 }).toBuffer()
  t.same(await sharp(cleanImage(clear).bytes).raw().toBuffer(), await sharp(clear).raw().toBuffer(), 'transparency of a WebP')
})

t.test('keeps only the orientation of EXIF', async t => {
  for (const format of ['png', 'jpeg', 'webp'] as const) {
    for (let orientation = 2; orientation <= 8; orientation++) {
      const bytes = await photo().withExif({ IFD0: { Copyright: 'a secret' } }).withMetadata({ orientation }).toFormat(format).toBuffer()
      const clean = cleanImage(bytes)
      t.equal(clean.orientation, orientation, format)
      t.notOk(clean.bytes.includes('a secret'))
      t.match(await sharp(clean.bytes).metadata(), {
        orientation,
        autoOrient: (await sharp(bytes).metadata()).autoOrient
      })
    }
  }
})

t.test('drops or refuses expensive texts, frames and scans in linear time', async t => {
  const texts = pngOfTexts(4)
  t.ok(cleanImage(texts).bytes.length < 1000)
  t.throws(() => cleanImage(jpegOfScans(200)), { name: 'RangeError', message: 'it has more than 100 scans' })
  t.ok(cleanImage(jpegOfScans(90)))
  t.ok(timeOf(() => t.throws(() => cleanImage(jpegOfScans(40_000)))) < 2000)

  const frames = await Promise.all(['blue', 'red', 'lime'].map(background =>
    sharp({ create: { width: 16, height: 16, channels: 3, background } }).png().toBuffer()))
  const animation = await sharp(frames, { join: { animated: true } }).webp({ lossless: true }).toBuffer()
  const { bytes } = cleanImage(animation)
  t.equal((await sharp(bytes, { pages: -1 }).metadata()).pages ?? 1, 1)
  t.same([...(await sharp(bytes).raw().toBuffer()).subarray(0, 3)], [0, 0, 255], 'the first frame')

  const looping = withLoopingExif(await photo().jpeg().toBuffer())
  t.equal(cleanImage(looping).orientation, 1)
  t.ok(cleanImage(looping).bytes.length < 1000)
  const stuffed = Buffer.concat([jpegOfScans(0).subarray(0, -2), Buffer.alloc(20_000_000, Buffer.from([0xff, 0]))])
  for (const [what, large] of [
    ['empty chunks', pngWith(...Array<Buffer>(90_000).fill(chunk('tEXt', Buffer.alloc(0))))],
    ['stuffing', stuffed],
    ['fill bytes', Buffer.concat([jpegOfScans(0).subarray(0, -2), Buffer.alloc(20_000_000, 0xff)])]
  ] as const) {
    t.ok(timeOf(() => cleanImage(large)) < 2000, what)
  }
})

t.test('bounds the number of parts and the length of profiles', async t => {
  for (const [bytes, message] of [
    [pngWith(...Array<Buffer>(100_001).fill(chunk('tEXt', Buffer.alloc(0)))), 'it has more than 100000 chunks'],
    [pngWith(chunk('iCCP', Buffer.alloc(4 * 1024 * 1024 + 1))), 'its colour profile has more than 4194304 bytes'],
    [pngWith(chunk('ABCD', Buffer.alloc(1))), 'it has a chunk "ABCD"'],
    [pngWith().subarray(0, -12), 'it is cut off'],
    [pngWith(pngWith().subarray(8, 33)), 'it has several headers'],
    [Buffer.from('a poem'), 'it is not a PNG, JPEG or WebP image']
  ] as const) {
    t.throws(() => cleanImage(bytes), { name: 'RangeError', message })
  }
})
