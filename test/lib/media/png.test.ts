import { inflateSync, crc32 } from 'node:zlib'
import sharp from 'sharp'
import t from 'tap'
import { addText, readPngHeader, readText as readAddedText } from '../../../lib/media/png.ts'

interface Chunk {
  type: string
  data: Buffer
}

/** Every chunk of a PNG image, after a check of its checksum. */
function chunks (png: Buffer): Chunk[] {
  const found: Chunk[] = []
  for (let at = 8; at < png.length;) {
    const end = at + 8 + png.readUInt32BE(at)
    if (crc32(png.subarray(at + 4, end)) !== png.readUInt32BE(end)) throw new Error(`wrong checksum at ${at}`)
    found.push({ type: png.toString('latin1', at + 4, at + 8), data: png.subarray(at + 8, end) })
    at = end + 4
  }
  return found
}

/** Keyword and text of a tEXt or iTXt chunk, read as the PNG specification says. */
function readText ({ type, data }: Chunk): [keyword: string, text: string] {
  const keyword = data.subarray(0, data.indexOf(0))
  const rest = data.subarray(keyword.length + 1)
  if (type === 'tEXt') return [keyword.toString('latin1'), rest.toString('latin1')]
  const [isCompressed, method] = rest
  const languageEnd = rest.indexOf(0, 2)
  const text = rest.subarray(rest.indexOf(0, languageEnd + 1) + 1)
  if (method !== 0) throw new Error(`unknown compression ${method}`)
  return [keyword.toString('latin1'), (isCompressed ? inflateSync(text) : text).toString('utf8')]
}

const picture = () => sharp({ create: { width: 5, height: 3, channels: 3, background: '#804020' } }).png().toBuffer()

t.test('reads the size of an image', async t => {
  t.same(readPngHeader(await picture()), { width: 5, height: 3, depth: 8, colorType: 2 })
  const offset = Buffer.concat([Buffer.alloc(7), await picture()]).subarray(7)
  t.equal(readPngHeader(new Uint8Array(offset.buffer, offset.byteOffset, offset.byteLength)).width, 5)
})

t.test('refuses what is not a PNG image', async t => {
  const png = await picture()
  const changed = (at: number, byte: number) => {
    const copy = Buffer.from(png)
    copy[at] = byte
    return copy
  }
  const zero = Buffer.from(png)
  zero.writeUInt32BE(0, 16)
  zero.writeUInt32BE(crc32(zero.subarray(12, 29)), 29)
  const cases: Array<[Uint8Array, RegExp]> = [
    [Buffer.alloc(0), /something else/],
    [Buffer.from('GIF89a'.padEnd(100)), /something else/],
    [png.subarray(0, 32), /something else/],
    [changed(0, 0x88), /something else/],
    [changed(11, 14), /starts with its header/],
    [changed(12, 'i'.charCodeAt(0)), /starts with its header/],
    [changed(19, 6), /damaged/],
    [changed(32, png[32]! ^ 1), /damaged/],
    [zero, /0×3/]
  ]
  for (const [bytes, message] of cases) {
    t.throws(() => readPngHeader(bytes), { name: 'RangeError', message })
    t.throws(() => addText(bytes, 'parameters', 'x'), { name: 'RangeError', message })
  }
})

t.test('keeps texts in any script, and the image', async t => {
  const png = await picture()
  const before = await sharp(png).raw().toBuffer()
  const texts: Array<[type: string, text: string]> = [
    ['tEXt', ''],
    ['tEXt', 'a cat\nNegative prompt: dog, "quoted"\nSteps: 20'],
    ['tEXt', 'Ein Mädchen im Café, ½ £ ÿ'],
    ['iTXt', 'кошка на крыше'],
    ['iTXt', '屋根の上の猫 🐈‍⬛'],
    ['iTXt', 'قطة على السطح'],
    ['iTXt', 'a tab\there and a dash – there'],
    ['iTXt', 'x'.repeat(100_000) + 'ы']
  ]
  for (const [type, text] of texts) {
    const marked = addText(png, 'parameters', text)
    const all = chunks(marked)
    t.same(all.map(({ type }) => type).slice(0, 2), ['IHDR', type], text.slice(0, 40))
    t.same(readText(all[1]!), ['parameters', text])
    t.equal(readAddedText(marked, 'parameters'), text)
    t.equal(readAddedText(marked, 'parameter'), undefined)
    t.equal(all.at(-1)?.type, 'IEND')
    t.ok((await sharp(marked).raw().toBuffer()).equals(before))
  }
})

t.test('refuses keywords and texts that cannot be stored', async t => {
  const png = await picture()
  for (const keyword of ['', ' parameters', 'parameters ', 'x'.repeat(80), 'a\0b', 'ключ']) {
    t.throws(() => addText(png, keyword, 'x'), { name: 'RangeError', message: /keyword of 1 to 79/ })
  }
  t.equal(readText(chunks(addText(png, 'x'.repeat(79), 'y'))[1]!)[0].length, 79)
  t.throws(() => addText(png, 'parameters', 'a\0b'), { name: 'RangeError', message: /NUL/ })
})
