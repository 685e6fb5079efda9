import { crc32, deflateSync } from 'node:zlib'
import fc from 'fast-check'
import sharp, { type Sharp } from 'sharp'
import t, { type Test } from 'tap'
import type { ApiError } from '../../../errors.ts'
import { ImageProcesses } from '../../../lib/media/image-processes.ts'
import { InputImage } from '../../../lib/media/input.ts'

const bounds = { maxBytes: 4 * 1024 * 1024, maxPixels: 8192 * 8192 }

const processes = new ImageProcesses(reason => t.comment(reason))
t.teardown(async () => processes.close())
const decoder = { processes, caller: 'alice' }

const open = async (source: string | Uint8Array, changes: Partial<typeof bounds> = {}) =>
  InputImage.open('init_image', source, { ...bounds, ...changes })

const plain = (width: number, height: number, background = 'red'): Sharp =>
  sharp({ create: { width, height, channels: 3, background } })

/** Red on the left, blue on the right. */
async function twoColours (width: number, height: number): Promise<Sharp> {
  const right = await plain(width / 2, height, 'blue')
    .png()
    .toBuffer()
  const both = await plain(width, height)
    .composite([{ input: right, left: width / 2, top: 0 }])
    .png()
    .toBuffer()
  return sharp(both)
}

async function refused (
  t: Test,
  source: string | Uint8Array,
  message: RegExp,
  changes: Partial<typeof bounds> = {}
): Promise<void> {
  await t.rejects(
    open(source, changes).then(image => image.toPng({ width: 64, height: 64, channels: 3 }, decoder)),
    {
      statusCode: /400|413/,
      message,
      details: [{ field: 'init_image' }]
    } as unknown as Error
  )
}

async function pixels (
  png: Buffer
): Promise<{ at: (x: number, y: number) => number[], width: number, height: number, channels: number }> {
  const image = sharp(png)
  const isGrey = (await image.metadata()).channels === 1
  const { data, info } = await image
    .toColourspace(isGrey ? 'b-w' : 'srgb')
    .raw()
    .toBuffer({ resolveWithObject: true })
  const at = (x: number, y: number) => [
    ...data.subarray((y * info.width + x) * info.channels, (y * info.width + x + 1) * info.channels)
  ]
  return { at, width: info.width, height: info.height, channels: info.channels }
}

/** Red, green or blue, whatever the compression did to it. */
function colour ([red = 0, green = 0, blue = 0]: number[]): string {
  return red > 180 && blue < 80 ? 'red' : blue > 180 && red < 80 ? 'blue' : `${red},${green},${blue}`
}

function pngChunk (type: string, data: Buffer): Buffer {
  const head = Buffer.alloc(8)
  head.writeUInt32BE(data.length, 0)
  head.write(type, 4, 'latin1')
  const sum = Buffer.alloc(4)
  sum.writeUInt32BE(crc32(Buffer.concat([head.subarray(4), data])), 0)
  return Buffer.concat([head, data, sum])
}

/** A PNG of one grey that claims a size, with any chunks between its header and its pixels. */
function greyPng (width: number, height: number, { pixels = Buffer.alloc(0), extra = [] as Buffer[] } = {}): Buffer {
  const header = Buffer.alloc(13)
  header.writeUInt32BE(width, 0)
  header.writeUInt32BE(height, 4)
  header[8] = 8
  return Buffer.concat([
    Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'),
    pngChunk('IHDR', header),
    ...extra,
    pngChunk('IDAT', pixels),
    pngChunk('IEND', Buffer.alloc(0))
  ])
}

t.test('accepts every way to send an image', async t => {
  for (const format of ['png', 'jpeg', 'webp'] as const) {
    const bytes = await plain(40, 30).toFormat(format).toBuffer()
    const text = bytes.toString('base64')
    const wrapped = text.replace(/.{76}/g, '$&\r\n')
    for (const source of [
      bytes,
      new Uint8Array(bytes),
      text,
      text.replaceAll('=', ''),
      wrapped,
      `${text}\n`,
      bytes.toString('base64url'),
      `data:image/${format};base64,${text}`,
      `DATA:;BASE64,${wrapped}`,
      ` \n data:image/${format};base64,${text}`,
      `data:image/${format};base64,${encodeURIComponent(text)}`,
      `data:image/${format},${[...bytes].map(byte => `%${byte.toString(16).padStart(2, '0')}`).join('')}`,
      `data:text/html;charset=utf-8;base64,${text}`
    ]) {
      const image = await open(source)
      t.match(image, { width: 40, height: 30, field: 'init_image' })
    }
  }
})

t.test('refuses what is not an image before decoding, with the reason', async t => {
  const gif = await plain(4, 4).gif().toBuffer()
  for (const [what, bytes, message] of [
    ['SVG', Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"/>'), /begin with "<svg xml" \(svg\)/],
    [
      'XML',
      Buffer.from('<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>'),
      /begin with "<\?xml ve" \(svg\)/
    ],
    ['GIF', gif, /begin with "GIF89a.*\(gif\)/],
    ['TIFF', await plain(4, 4).tiff().toBuffer(), /begin with "(II|MM).*\(tiff\)/],
    ['AVIF', await plain(4, 4).avif().toBuffer(), /begin with .*\(avif\)/],
    ['PDF', Buffer.from('%PDF-1.7 ...'), /begin with "%PDF-1\.7"$/],
    ['RIFF that is no WebP', Buffer.from('RIFF\0\0\0\0AVI LIST'), /begin with "RIFF/],
    ['zeros', Buffer.alloc(1000), /begin with "(\\u0000){8}"$/],
    ['nothing', Buffer.alloc(0), /received nothing/],
    ['PNG signature alone', Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'), /cannot/],
    ['JPEG signature alone', Buffer.from('\xff\xd8\xff', 'latin1'), /cannot/],
    ['WebP signature alone', Buffer.from('RIFF\0\0\0\0WEBP', 'latin1'), /cannot/]
  ] as const) {
    t.comment(what)
    await refused(t, bytes, message)
    if (bytes.length > 0) await refused(t, bytes.toString('base64'), message)
  }
  for (const [text, message] of [
    ['http://127.0.0.1/cat.png', /does not fetch/],
    ['HTTPS://example.org', /does not fetch/],
    ['file:///etc/passwd', /base64/],
    ['/etc/passwd', /begin with/], // which are letters of base64
    ['not base64!', /base64/],
    ['data:image/png,raw', /begin with "raw"/],
    ['data:image/png,%zz%8', /begin with "%zz%8"/],
    ['data:image/png;base64', /a comma after its type/],
    ['data:image/png;base64,%zz', /base64/],
    ['data:,', /received nothing/],
    ['data:image/png;base64,', /received nothing/],
    ['🦊', /base64/],
    ['iVBORw0KGgo=iVBORw0KGgo=', /base64|cannot/]
  ] as const) { await refused(t, text, message) }
})

t.test('refuses megabytes of almost base64 in linear time', async t => {
  const many = 3_000_000
  for (const text of [
    `${'='.repeat(many)}A`, `${'= '.repeat(many / 2)}A`, `${' '.repeat(many)}!`, `A${'='.repeat(many)}`, `${'A='.repeat(many / 2)}`,
    `data:;base64,${'%'.repeat(many)}`, `data:;base64,${'%zz'.repeat(many / 3)}`, `data:;base64,${'%21'.repeat(many / 3)}`, `data:;base64,${'\n='.repeat(many / 2)}`
  ]) {
    const start = performance.now()
    await refused(t, text, /base64/)
    t.ok(performance.now() - start < 2000, JSON.stringify(text.slice(0, 16)))
  }
})

t.test('refuses too many bytes or pixels', async t => {
  const png = await plain(64, 64).png().toBuffer()
  await refused(t, png, /at most 100 bytes \(--max-upload-size\) for init_image but received \d+/, { maxBytes: 100 })
  await refused(t, png.toString('base64'), /at most 100 bytes/, { maxBytes: 100 })
  await refused(t, 'A'.repeat(2000), /at most 100 bytes.*1363/, { maxBytes: 100 })
  await refused(t, png, /at most 4095 pixels \(--max-upload-pixels\).*64 × 64/, { maxPixels: 4095 })
  t.match(await open(png, { maxPixels: 4096, maxBytes: png.length }), { width: 64 })
  for (const [width, height] of [
    [100_000, 100_000],
    [2 ** 31 - 1, 2 ** 31 - 1],
    [1, 2 ** 31 - 1],
    [0, 10],
    [2 ** 32 - 1, 1]
  ]) {
    await refused(t, greyPng(width!, height!), /cannot|at most/)
  }
  const jpeg = await plain(64, 64).jpeg().toBuffer()
  const frame = jpeg.findIndex((byte, at) => byte === 0xff && jpeg[at + 1] === 0xc0)
  jpeg.writeUInt32BE(0xfde8fde8, frame + 5)
  await refused(t, jpeg, /at most 67108864 pixels.*65000 × 65000/)
})

t.test('decodes bombs in little memory and time, or refuses them', async t => {
  const row = Buffer.alloc(8193)
  const flat = deflateSync(Buffer.alloc(row.length * 8192), { level: 9 })
  t.ok(flat.length < 100_000, 'a hundred kilobytes of 67 megapixels')
  const before = process.memoryUsage().rss
  const start = performance.now()
  const image = await open(greyPng(8192, 8192, { pixels: flat }))
  const png = await image.toPng({ width: 64, height: 64, channels: 3 }, decoder)
  t.match(await pixels(png), { width: 64, height: 64, channels: 3 })
  t.ok(process.memoryUsage().rss - before < 512 * 1024 * 1024)
  t.ok(performance.now() - start < 25_000)

  await refused(t, greyPng(8192, 8192, { pixels: flat.subarray(0, 1000) }), /cannot/)
  const text = Buffer.concat([
    Buffer.from('Comment\0\0', 'latin1'),
    deflateSync(Buffer.alloc(64 * 1024 * 1024), { level: 9 })
  ])
  const pixel = deflateSync(Buffer.from([0, 128]))
  const withText = await open(greyPng(1, 1, { pixels: pixel, extra: [pngChunk('zTXt', text)] }))
  t.ok(await withText.toPng({ width: 64, height: 64, channels: 3 }, decoder), 'and text is not unpacked')
})

t.test('refuses an image that is cut off anywhere', async t => {
  const noise = await sharp(Buffer.from(Array.from({ length: 64 * 64 * 3 }, (_, n) => (n * 7919) % 256)), {
    raw: { width: 64, height: 64, channels: 3 }
  })
  for (const format of ['png', 'jpeg', 'webp'] as const) {
    const bytes = await noise.clone().toFormat(format).toBuffer()
    for (const part of [0.1, 0.3, 0.5, 0.7, 0.9]) {
      await refused(t, bytes.subarray(0, Math.floor(bytes.length * part)), /cannot/)
    }
  }
})

t.test('takes a JPEG image that lacks its end, and none that lacks pixels', async t => {
  const noise = sharp(Buffer.from(Array.from({ length: 64 * 64 * 3 }, (_, n) => (n * 7919) % 256)), {
    raw: { width: 64, height: 64, channels: 3 }
  })
  for (const progressive of [false, true]) {
    const bytes = await noise.clone().jpeg({ progressive }).toBuffer()
    const size = { width: 64, height: 64, channels: 3 as const }
    const whole = await (await open(bytes)).toPng(size, decoder)
    t.same(await (await open(bytes.subarray(0, -2))).toPng(size, decoder), whole)
    for (const missing of [30, bytes.length >> 1]) await refused(t, bytes.subarray(0, -missing), /cannot/)
  }
})

t.test('draws anew what is transparent in a mask, unless the rest is white', async t => {
  const dot = (left: string, right: string) => sharp(Buffer.from(
    `<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><rect width="32" height="64" ${left}/>` +
    `<rect x="32" width="32" height="64" ${right}/></svg>`)).png().toBuffer()
  const photo = 'fill="#a06030"'
  for (const [what, bytes, left, right] of [
    ['a photograph with a hole', await dot(photo, 'fill-opacity="0"'), 0, 255],
    ['black with a hole', await dot('fill="#000"', 'fill-opacity="0"'), 0, 255],
    ['half a hole', await dot(photo, `${photo} fill-opacity="0.5"`), 0, 127],
    ['white strokes on nothing', await dot('fill="#fff"', 'fill-opacity="0"'), 255, 0],
    ['black and white without a hole', await dot('fill="#fff"', 'fill="#000"'), 255, 0]
  ] as const) {
    const { at } = await pixels(await (await open(bytes)).toPng({ width: 64, height: 64, channels: 1 }, decoder))
    const roughly = (value: number) => Math.round(value / 4)
    t.same([at(8, 32)[0]!, at(56, 32)[0]!].map(roughly), [left, right].map(roughly), what)
  }
})

t.test('keeps nothing but the pixels', async t => {
  const script = '<script>alert(1)</script><?php system($_GET[0]) ?>PK\x03\x04'
  const jpeg = await plain(64, 64)
    .withExif({ IFD0: { ImageDescription: script }, IFD3: { GPSLatitude: '48/1 8/1 0/1' } })
    .jpeg()
    .toBuffer()
  const png = greyPng(64, 64, {
    pixels: deflateSync(Buffer.alloc(65 * 64)),
    extra: [pngChunk('tEXt', Buffer.from(`Comment\0${script}`, 'latin1')), pngChunk('pRVt', Buffer.from(script))]
  })
  for (const bytes of [
    jpeg,
    png,
    Buffer.concat([jpeg, Buffer.from(script)]),
    Buffer.concat([png, Buffer.from(script)])
  ]) {
    const clean = await (await open(bytes)).toPng({ width: 64, height: 64, channels: 3 }, decoder)
    t.notOk(clean.includes('script'))
    t.equal((await sharp(clean).metadata()).exif, undefined)
    t.ok(clean.subarray(-8).equals(Buffer.from('IEND\xae\x42\x60\x82', 'latin1')), 'and nothing follows')
  }
})

t.test('applies the orientation of the camera', async t => {
  // Where the left half, which is red, is seen.
  const seen: Record<number, string> = {
    1: 'left',
    2: 'right',
    3: 'right',
    4: 'left',
    5: 'top',
    6: 'top',
    7: 'bottom',
    8: 'bottom'
  }
  for (const [orientation, side] of Object.entries(seen)) {
    const bytes = await (
      await twoColours(80, 40)
    )
      .withMetadata({ orientation: Number(orientation) })
      .jpeg({ quality: 100 })
      .toBuffer()
    const image = await open(bytes)
    const isTurned = side === 'top' || side === 'bottom'
    t.match(image, isTurned ? { width: 40, height: 80 } : { width: 80, height: 40 })
    const { at } = await pixels(await image.toPng({ width: image.width, height: image.height, channels: 3 }, decoder))
    const [x, y] = [image.width - 5, image.height - 5]
    const at3 = { left: at(5, 5), right: at(x, 5), top: at(5, 5), bottom: at(5, y) }
    t.equal(colour(at3[side as keyof typeof at3]), 'red', `orientation ${orientation}`)
    t.equal(
      colour(side === 'left' ? at(x, y) : side === 'right' ? at(5, y) : side === 'top' ? at(x, y) : at(5, 5)),
      'blue'
    )
  }
})

t.test('scales the largest part in the middle', async t => {
  const wide = await open(await (await twoColours(200, 100)).png().toBuffer())
  const square = await pixels(await wide.toPng({ width: 64, height: 64, channels: 3 }, decoder))
  t.match(square, { width: 64, height: 64, channels: 3 })
  t.equal(colour(square.at(2, 32)), 'red')
  t.equal(colour(square.at(61, 32)), 'blue')
  t.equal(colour(square.at(29, 5)), 'red', 'the middle stays in the middle')
  t.equal(colour(square.at(35, 60)), 'blue')

  const tiny = await open(await plain(1, 1, 'blue').png().toBuffer())
  t.same((await pixels(await tiny.toPng({ width: 128, height: 64, channels: 3 }, decoder))).at(100, 60), [0, 0, 255])
  const line = await open(await plain(3000, 1, 'blue').png().toBuffer())
  t.same((await pixels(await line.toPng({ width: 64, height: 512, channels: 3 }, decoder))).at(60, 500), [0, 0, 255])
})

t.test('stretches a mask over its image and crops it with it', async t => {
  // The image is three times as wide as high, so the middle third is seen. The mask has other proportions, and is white
  // in its right half.
  const image = await open(await plain(300, 100).png().toBuffer())
  const white = await plain(20, 80, 'white').png().toBuffer()
  const mask = await open(
    await plain(40, 80, 'black')
      .composite([{ input: white, left: 20, top: 0 }])
      .png()
      .toBuffer()
  )
  const { at, channels } = await pixels(await mask.toPng({ width: 64, height: 64, channels: 1, over: image }, decoder))
  t.equal(channels, 1)
  t.same([at(2, 2), at(20, 60), at(44, 2), at(62, 62)], [[0], [0], [255], [255]])
})

t.test('converts every kind of pixel to 8 bits of grey or RGB', async t => {
  const clear = sharp({ create: { width: 64, height: 64, channels: 4, background: { r: 255, g: 0, b: 0, alpha: 0 } } })
  const half = sharp({
    create: { width: 64, height: 64, channels: 4, background: { r: 255, g: 255, b: 255, alpha: 0.5 } }
  })
  const images: Array<[string, Buffer, number[] | undefined, number[] | undefined]> = [
    ['transparent', await clear.clone().png().toBuffer(), [255, 255, 255], [0]],
    ['transparent WebP', await clear.clone().webp({ lossless: true }).toBuffer(), [255, 255, 255], [0]],
    ['half transparent', await half.png().toBuffer(), [255, 255, 255], [128]],
    ['16 bits', await plain(64, 64, '#fff').toColourspace('rgb16').png().toBuffer(), [255, 255, 255], [255]],
    ['grey of 16 bits', await plain(64, 64, '#000').toColourspace('grey16').png().toBuffer(), [0, 0, 0], [0]],
    ['palette', await plain(64, 64, '#00f').png({ palette: true }).toBuffer(), [0, 0, 255], undefined],
    ['grey JPEG', await plain(64, 64, '#fff').greyscale().jpeg().toBuffer(), [255, 255, 255], [255]],
    ['CMYK JPEG', await plain(64, 64, '#fff').toColourspace('cmyk').jpeg().toBuffer(), [255, 255, 255], [255]],
    ['progressive JPEG', await plain(64, 64, '#fff').jpeg({ progressive: true }).toBuffer(), [255, 255, 255], [255]],
    ['interlaced PNG', await plain(64, 64, '#fff').png({ progressive: true }).toBuffer(), [255, 255, 255], [255]]
  ]
  for (const [name, bytes, rgb, grey] of images) {
    const image = await open(bytes)
    for (const [channels, expected] of [
      [3, rgb],
      [1, grey]
    ] as const) {
      const png = await image.toPng({ width: 64, height: 64, channels }, decoder)
      t.match(await sharp(png).metadata(), { format: 'png', depth: 'uchar', channels, width: 64, height: 64 }, name)
      if (expected !== undefined) t.same((await pixels(png)).at(32, 32), expected, `${name}, ${channels}`)
    }
  }
})

t.test('accepts rare colour profiles, depths and channels', async t => {
  const iccp = (profile: Buffer) => pngChunk('iCCP', Buffer.concat([Buffer.from('p\0\0', 'latin1'), deflateSync(profile)]))
  const black = deflateSync(Buffer.alloc(65 * 64))
  for (const [what, profile] of [
    ['none', Buffer.alloc(0)], ['noise', Buffer.alloc(1000, 0x5a)], ['64 MB', Buffer.alloc(64 * 1024 * 1024)]
  ] as const) {
    const before = process.memoryUsage().rss
    const image = await open(greyPng(64, 64, { pixels: black, extra: [iccp(profile)] }))
      .catch((error: ApiError) => error)
    if (image instanceof InputImage) {
      t.same((await pixels(
        await image.toPng({ width: 64, height: 64, channels: 3 }, decoder)
      )).at(1, 1), [0, 0, 0], what)
    } else {
      t.equal(image.statusCode, 400, what)
    }
    t.ok(process.memoryUsage().rss - before < 400 * 1024 * 1024, `a profile of ${what} in little memory`)
  }

  /** A PNG of 64 × 64 equal pixels as its header says: grey with alpha, 16 bits, 1 bit, a palette without entries. */
  const typed = (depth: number, type: number, bytesPerRow: number, fill: number) => {
    const png = greyPng(64, 64, {
      pixels: deflateSync(Buffer.concat(Array.from({ length: 64 },
        () => Buffer.concat([Buffer.from([0]), Buffer.alloc(bytesPerRow, fill)]))))
    })
    png[24] = depth
    png[25] = type
    png.writeUInt32BE(crc32(png.subarray(12, 29)), 29)
    return png
  }
  for (const [what, png, expected] of [
    ['grey with alpha', typed(8, 4, 128, 0xff), [255, 255, 255]],
    ['grey with alpha, transparent', typed(8, 4, 128, 0), [255, 255, 255]],
    ['grey with alpha, 16 bits', typed(16, 4, 256, 0xff), [255, 255, 255]],
    ['colour of 16 bits with alpha', typed(16, 6, 512, 0xff), [255, 255, 255]],
    ['one bit', typed(1, 0, 8, 0), [0, 0, 0]]
  ] as const) {
    const clean = await (await open(png)).toPng({ width: 64, height: 64, channels: 3 }, decoder)
    t.match(await sharp(clean).metadata(), { channels: 3, depth: 'uchar' }, what)
    t.same((await pixels(clean)).at(5, 5), expected, what)
  }
  for (const [what, png] of [
    ['a palette without colours', typed(8, 3, 64, 7)], ['a depth that there is not', typed(7, 0, 64, 0)],
    ['a kind that there is not', typed(8, 5, 64, 0)], ['less than its rows', typed(16, 6, 4, 0)]
  ] as const) {
    t.comment(what)
    await refused(t, png, /cannot/)
  }
})

t.test('makes only an image of a file of several formats', async t => {
  const png = await plain(64, 64, 'blue').png().toBuffer()
  const others = ['<svg onload="alert(1)"/>', 'PK\x03\x04', '%PDF-1.7', 'GIF89a', '#!/bin/sh\n']
  for (const other of others) {
    const both = Buffer.concat([png, Buffer.from(other, 'latin1')])
    const clean = await (await open(both)).toPng({ width: 64, height: 64, channels: 3 }, decoder)
    t.same((await pixels(clean)).at(1, 1), [0, 0, 255], 'what is behind the image is not looked at')
    t.notOk(clean.includes(Buffer.from(other, 'latin1')), 'and not kept')
    await refused(t, Buffer.concat([Buffer.from(other, 'latin1'), png]), /begin with/)
  }
  // An APNG: its first frame, and the frames after it are not even unpacked.
  const control = Buffer.alloc(8)
  control.writeUInt32BE(0x7fff_ffff)
  const animated = Buffer.concat([png.subarray(0, 33), pngChunk('acTL', control), png.subarray(33)])
  t.same((await pixels(
    await (await open(animated)).toPng({ width: 64, height: 64, channels: 3 }, decoder)
  )).at(1, 1), [0, 0, 255])
})

t.test('uses the first frame of an animation', async t => {
  const frames = await Promise.all(
    ['blue', 'red', 'lime'].map(background => plain(64, 64, background).png().toBuffer())
  )
  const webp = await sharp(frames, { join: { animated: true } })
    .webp({ lossless: true })
    .toBuffer()
  t.equal((await sharp(webp, { pages: -1 }).metadata()).pages, 3)
  const image = await open(webp)
  t.match(image, { width: 64, height: 64 })
  t.same((await pixels(await image.toPng({ width: 64, height: 64, channels: 3 }, decoder))).at(32, 32), [0, 0, 255])
})

t.test('gives the same bytes for the same image', async t => {
  const bytes = await (await twoColours(333 * 2, 111)).jpeg().toBuffer()
  const [first, second] = await Promise.all(
    [1, 2].map(async () => await (await open(bytes)).toPng({ width: 128, height: 64, channels: 3 }, decoder))
  )
  t.same(first, second)
})

t.test('lets many images wait and refuses too many', async t => {
  const image = await open(await plain(512, 512).png().toBuffer())
  const outcomes = await Promise.allSettled(Array.from({ length: 60 }, () =>
    image.toPng({ width: 64, height: 64, channels: 3 }, decoder)))
  const refusals = outcomes.filter(outcome => outcome.status === 'rejected')
  t.ok(refusals.length > 0 && refusals.length < 60)
  t.ok(refusals.every(({ reason }) => reason.code === 'SDR_RATE_LIMITED' && reason.retryAfter > 0))
  t.ok(await image.toPng({ width: 64, height: 64, channels: 3 }, decoder))
})

t.test('answers any bytes without an internal error', async t => {
  const valid = await Promise.all(
    (['png', 'jpeg', 'webp'] as const).map(format => plain(64, 48, '#357').toFormat(format).toBuffer())
  )
  const changes = fc.array(fc.record({ at: fc.nat(), to: fc.integer({ min: 0, max: 255 }) }), {
    minLength: 1,
    maxLength: 8
  })
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...valid), changes, fc.boolean(), async (original, edits, isText) => {
      const bytes = Buffer.from(original)
      for (const { at, to } of edits) bytes[at % bytes.length] = to
      try {
        const image = await open(isText ? bytes.toString('base64') : bytes)
        const png = await image.toPng({ width: 64, height: 64, channels: 3 }, decoder)
        return (await sharp(png).metadata()).width === 64
      } catch (error) {
        return (error as ApiError).statusCode === 400
      }
    }),
    { numRuns: 300 }
  )
  await fc.assert(
    fc.asyncProperty(fc.oneof(fc.string(), fc.base64String(), fc.uint8Array()), async source => {
      await refused(t, source, /init_image/)
    }),
    { numRuns: 200 }
  )
})
