import { execFileSync } from 'node:child_process'
import { symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import t from 'tap'
import { ModelCatalog } from '../../../../lib/models/catalog.ts'
import { type Header, ModelFileError } from '../../../../lib/models/headers/header.ts'
import { limits } from '../../../../lib/models/headers/limits.ts'
import { readModelHeader, parseModelHeader } from '../../../../lib/models/headers/read-header.ts'
import {
  type GgufArray, type GgufTensor, gguf, safetensors, safetensorsText, sourceOf, typical
} from '../../../fixtures/headers.ts'
import { costlyFiles, hostileFiles } from '../../../fixtures/hostile-headers.ts'

async function read (bytes: Buffer): Promise<Header> {
  return await parseModelHeader(sourceOf(bytes))
}

/** What the parsers throw for files that they refuse. */
function refusal (message: RegExp): { name: string, message: RegExp } {
  return { name: 'ModelFileError', message }
}

t.test('reads safetensors headers and refuses damaged ones', async t => {
  const tensors = { 'a.weight': { dtype: 'F16', shape: [2, 3] }, scalar: { dtype: 'F32', shape: [] } }
  const header = await read(safetensors(tensors, { format: 'pt' }))
  t.equal(header.format, 'safetensors')
  t.strictSame([...header.tensors],
    [['a.weight', { dtype: 'F16', shape: [2, 3] }], ['scalar', { dtype: 'F32', shape: [] }]])
  t.strictSame([...header.metadata], [['format', 'pt']])

  const padded = await read(safetensorsText('{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}   \n\t ', 4))
  t.equal(padded.tensors.size, 1, 'space after the header is part of the format')
  t.equal((await read(safetensorsText('{}'))).tensors.size, 0)

  const tensor = '{"dtype":"F16","shape":[2],"data_offsets":[0,4]}'
  const one = (text: string): Buffer => safetensorsText(`{"a":${text}}`, 4)
  const refusals: Array<[string, Buffer, RegExp]> = [
    ['an empty file', Buffer.alloc(0), /too short/],
    ['nine bytes', Buffer.from('\x02\0\0\0\0\0\0\0{'), /too short/],
    ['no brace', Buffer.from('\x02\0\0\0\0\0\0\0[]'), /neither/],
    [
      'a header of 2⁶³ bytes', Buffer.from([0, 0, 0, 0, 0, 0, 0, 0x80, 0x7b, 0x7d]),
      /more than 33554432 bytes \(9223372036854775808\)/
    ],
    ['a header beyond the end', Buffer.from([100, 0, 0, 0, 0, 0, 0, 0, 0x7b, 0x7d]), /cut off/],
    ['weights beyond the end', one('{"dtype":"F16","shape":[4],"data_offsets":[0,8]}'), /cut off/],
    ['offsets in reverse', one('{"dtype":"F16","shape":[2],"data_offsets":[4,0]}'), /data_offsets/],
    ['one offset', one('{"dtype":"F16","shape":[2],"data_offsets":[4]}'), /data_offsets/],
    ['negative offsets', one('{"dtype":"F16","shape":[2],"data_offsets":[-4,0]}'), /whole number/],
    ['fractional offsets', one('{"dtype":"F16","shape":[2],"data_offsets":[0.0,4]}'), /comma/],
    ['a number in exponents', one('{"dtype":"F16","shape":[1e9],"data_offsets":[0,4]}'), /comma/],
    ['a leading zero', one('{"dtype":"F16","shape":[02],"data_offsets":[0,4]}'), /whole number/],
    ['a number beyond 2⁵³', one('{"dtype":"F16","shape":[9007199254740993],"data_offsets":[0,4]}'), /2⁵³/],
    [
      'a shape whose product wraps to 2 in 64 bits',
      one('{"dtype":"F16","shape":[4294967296,4294967296,2],"data_offsets":[0,4]}'), /impossible shape/
    ],
    ['a shape of another size', one('{"dtype":"F16","shape":[3],"data_offsets":[0,4]}'), /needs 6 bytes/],
    ['nine dimensions', one('{"dtype":"F16","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,4]}'), /more than 8/],
    ['an unknown dtype', one('{"dtype":"F17","shape":[2],"data_offsets":[0,4]}'), /unknown dtype "F17"/],
    ['no dtype', one('{"shape":[2],"data_offsets":[0,4]}'), /lacks/],
    [
      'a repeated field', one('{"dtype":"F16","dtype":"F32","shape":[2],"data_offsets":[0,4]}'),
      /repeated field "dtype"/
    ],
    [
      'an unknown field', one('{"dtype":"F16","shape":[2],"data_offsets":[0,4],"x":1}'),
      /unknown or repeated field "x"/
    ],
    ['a tensor that is null', one('null'), /an object/],
    ['a repeated tensor', safetensorsText(`{"a":${tensor},"a":${tensor}}`, 4), /"a" twice/],
    ['a tensor repeated in escapes', safetensorsText(`{"a":${tensor},"\\u0061":${tensor}}`, 4), /"a" twice/],
    ['repeated metadata', safetensorsText('{"__metadata__":{"a":"b","a":"c"}}'), /"a" twice/],
    ['metadata twice', safetensorsText('{"__metadata__":{},"__metadata__":{}}'), /"__metadata__" twice/],
    ['metadata that is text', safetensorsText('{"__metadata__":"x"}'), /an object/],
    ['deep metadata', safetensorsText(`{"__metadata__":{"a":${'['.repeat(100_000)}`), /more than 16 levels/],
    [
      'a wide value in the metadata',
      safetensorsText(`{"__metadata__":{"a":[${'[],'.repeat(limits.metadataValue)}[]]}}`),
      /more than 2097152 characters/
    ],
    ['a long name', safetensorsText(`{"${'n'.repeat(limits.name + 1)}":${tensor}}`, 4), /more than 1024/],
    ['text without an end', safetensorsText('{"a'), /damaged/],
    ['an escape at the end', safetensorsText('{"a\\'), /damaged/],
    ['an invalid escape', safetensorsText(`{"\\x":${tensor}}`, 4), /invalid escape/],
    ['a control character in a name', safetensorsText(`{"a\nb":${tensor}}`, 4), /damaged/],
    ['bytes that are no UTF-8', safetensorsText(Buffer.from('{"\xff":{}}', 'latin1')), /UTF-8/],
    ['something after the header', safetensorsText(`{"a":${tensor}} x`, 4), /end of the header/],
    ['a comma too many', safetensorsText(`{"a":${tensor},}`, 4), /quotes/]
  ]
  for (const [what, bytes, reason] of refusals) await t.rejects(read(bytes), refusal(reason), what)

  const many = Array.from({ length: limits.tensors + 1 },
    (_, index) => `"${index}":{"dtype":"U8","shape":[],"data_offsets":[0,1]}`)
  await t.rejects(read(safetensorsText(`{${many.join()}}`, 1)), refusal(/more than 100000 tensors/))

  const notes = '{"__proto__":"x","list":[1,{"a":null}],"n":-1.5e3,"t":true}'
  const odd = await read(safetensorsText(`{"__proto__":${tensor},"constructor":${tensor},"__metadata__":${notes}}`, 4))
  t.strictSame([...odd.tensors.keys()], ['__proto__', 'constructor'])
  t.strictSame([...odd.metadata], [['__proto__', 'x']], 'values that are no text are passed over')
  t.equal(({} as Record<string, unknown>).dtype, undefined)

  const large = await read(safetensors({}, { thumbnail: 'x'.repeat(limits.metadataValue + 1), title: 'kept' }))
  t.strictSame([...large.metadata.keys()], ['title'], 'long values are not kept')
})

t.test('reads GGUF headers and refuses damaged ones', async t => {
  const tensors = { 'a.weight': { dimensions: [3, 2] }, q: { dimensions: [256, 2], type: 12, offset: 32 } }
  const header = await read(gguf(tensors, {
    metadata: { 'general.name': 'tiny', 'general.file_type': 1, flag: true, list: { type: 8, values: ['a', 'b'] } }
  }))
  t.equal(header.format, 'gguf')
  t.strictSame([...header.tensors],
    [['a.weight', { dtype: 'F16', shape: [2, 3] }], ['q', { dtype: 'Q4_K', shape: [2, 256] }]])
  t.strictSame([...header.metadata], [['general.name', 'tiny'], ['general.file_type', 1], ['flag', true]])
  t.equal((await read(gguf({ a: { dimensions: [1] } }, { version: 2 }))).tensors.size, 1)

  const bigEndian = gguf({})
  bigEndian.writeUInt32BE(3, 4)
  /** A header with one metadata entry of this type and length; an array's length comes after the type of its values. */
  const oneEntry = (type: number, length: bigint): Buffer => {
    const entry = Buffer.alloc(64)
    entry.writeBigUInt64LE(1n)
    entry.write('a', 8)
    entry.writeUInt32LE(type, 9)
    entry.writeBigUInt64LE(length, type === 9 ? 17 : 13)
    return Buffer.concat([gguf({}, { metadataCount: 1n, weights: 0 }).subarray(0, 24), entry])
  }
  let deep: GgufArray = { type: 9, values: [] }
  for (let depth = 0; depth < 20; depth++) deep = { type: 9, values: [deep] }
  const one = (tensor: GgufTensor): Buffer => gguf({ a: tensor })
  const refusals: Array<[string, Buffer, RegExp]> = [
    ['a magic alone', Buffer.from('GGUF'), /cut off|too short/],
    ['version 1', gguf({}, { version: 1 }), /version 1/],
    ['version 4', gguf({}, { version: 4 }), /version 4/],
    ['big-endian', bigEndian, /big-endian/],
    ['2⁶⁴−1 tensors', gguf({}, { tensorCount: 2n ** 64n - 1n }), /2⁵³/],
    ['a million tensors', gguf({}, { tensorCount: 1_000_000n }), /tensors \(1000000\)/],
    ['a million metadata entries', gguf({}, { metadataCount: 1_000_000n }), /metadata entries \(1000000\)/],
    ['more tensors than there are', gguf({}, { tensorCount: 5n, weights: 0 }), /cut off/],
    ['an array of 2⁶³ bytes', oneEntry(9, 2n ** 63n), /2⁵³/],
    ['an array of 2⁵² bytes', oneEntry(9, 2n ** 52n), /cut off/],
    ['a deep array', gguf({}, { metadata: { deep } }), /more than 16 levels/],
    [
      'an unknown value type',
      oneEntry(99, 0n),
      /unknown type 99/
    ],
    [
      'a repeated tensor',
      Buffer.concat([
        gguf({ a: { dimensions: [1] } }, { tensorCount: 2n }).subarray(0, 57), one({ dimensions: [1] }).subarray(24)
      ]),
      /"a" twice/
    ],
    ['a long name', gguf({ ['n'.repeat(limits.name + 1)]: { dimensions: [1] } }), /more than 1024/],
    ['nine dimensions', one({ dimensions: [1, 1, 1, 1, 1, 1, 1, 1, 1] }), /more than 8 dimensions/],
    ['a shape that overflows', one({ dimensions: [2 ** 52, 2 ** 52] }), /impossible shape/],
    ['a removed type', one({ dimensions: [32], type: 4 }), /type 4, which ggml removed/],
    [
      'a row that blocks do not fill', one({ dimensions: [33], type: 8 }),
      /rows of 33, no multiple of the 32 of Q8_0/
    ],
    ['an offset off the grid', one({ dimensions: [1], offset: 1 }), /multiple of 32/],
    ['weights beyond the end', one({ dimensions: [65_537] }), /cut off/],
    ['an alignment of 3', gguf({}, { metadata: { 'general.alignment': 3 } }), /power of two/],
    ['an alignment of 0', gguf({}, { metadata: { 'general.alignment': 0 } }), /power of two/],
    ['an alignment that is text', gguf({}, { metadata: { 'general.alignment': '32' } }), /power of two/]
  ]
  for (const [what, bytes, reason] of refusals) await t.rejects(read(bytes), refusal(reason), what)

  const words = { type: 8, values: Array.from({ length: 200_000 }, (_, index) => `token${index}`) }
  const vocabulary = gguf({ 'blk.0.attn_q.weight': { dimensions: [32] } },
    { metadata: { words, 'general.name': 'after the words' } })
  t.equal((await read(vocabulary)).metadata.get('general.name'), 'after the words', 'arrays are passed over, in pieces')

  // 64 GB of claimed text between two entries: nothing of it may be read.
  const far = oneEntry(8, 2n ** 36n)
  await t.rejects(parseModelHeader(sourceOf(far, 2 ** 40)), refusal(/more than 33554432 bytes/))
})

t.test('refuses files that have hurt other readers', async t => {
  for (const { does, bytes, refusal: message } of hostileFiles) {
    const source = sourceOf(bytes)
    const reading = parseModelHeader(source)
    await t.rejects(reading, refusal(message), does)
    t.ok(source.bytesRead <= bytes.length, 'no byte is read twice')
  }
  // A folder of them is listed, each with its reason, beside a file that is none.
  const folder = t.testdir({ 'good.safetensors': safetensors(typical.vae) })
  for (const [index, { bytes }] of hostileFiles.entries()) {
    writeFileSync(join(folder, `${index}.${bytes.subarray(0, 2).equals(Buffer.from('GG')) ? 'gguf' : 'safetensors'}`), bytes)
  }
  const catalog = new ModelCatalog({ roots: [{ path: folder }] })
  await catalog.refresh()
  t.equal(catalog.size, hostileFiles.length + 1)
  const { models } = catalog.list({ limit: 500 })
  t.same(models.filter(({ error, blocked }) => error === undefined && blocked === undefined).map(({ id }) => id),
    ['vae/good.safetensors'])
})

t.test('reads a header at all limits in little time and memory', async t => {
  for (const [what, make] of Object.entries(costlyFiles)) {
    const source = sourceOf(make())
    const [cpu, memory] = [process.cpuUsage(), process.memoryUsage().rss]
    await parseModelHeader(source)
    const { user, system } = process.cpuUsage(cpu)
    // Under one second on a machine that has nothing else to do.
    t.ok(user + system < 8e6, `${what}: ${Math.round((user + system) / 1000)} ms`)
    t.ok(process.memoryUsage().rss - memory < 400 * 1024 * 1024, `${what}: memory`)
    t.ok(source.bytesRead <= limits.header + 128 * 1024)
  }
})

t.test('reads a header just below each limit and refuses one above it', async t => {
  const numbers = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, n) => [String(n), 'x']))
  t.equal((await read(safetensors({}, numbers(limits.metadataEntries)))).metadata.size, limits.metadataEntries)
  await t.rejects(read(safetensors({}, numbers(limits.metadataEntries + 1))), refusal(/more than 10000 metadata entries/))
  t.equal((await read(gguf({}, { metadata: numbers(limits.metadataEntries) }))).metadata.size, limits.metadataEntries)
  await t.rejects(read(gguf({}, { metadata: numbers(limits.metadataEntries + 1) })), refusal(/metadata entries \(10001\)/))

  const named = (length: number) => 'n'.repeat(length)
  for (const length of [limits.name, limits.name + 1]) {
    const outcomes = [
      read(safetensors({ [named(length)]: { shape: [1] } })), read(safetensors({}, { [named(length)]: 'x' })),
      read(gguf({ [named(length)]: { dimensions: [1] } })), read(gguf({}, { metadata: { [named(length)]: 'x' } }))
    ]
    for (const outcome of outcomes) {
      if (length === limits.name) await t.resolves(outcome)
      else await t.rejects(outcome, refusal(/more than 1024/))
    }
  }

  const eight = Array<number>(limits.dimensions).fill(1)
  t.equal((await read(safetensors({ a: { shape: eight } }))).tensors.get('a')?.shape.length, limits.dimensions)
  t.equal((await read(gguf({ a: { dimensions: eight } }))).tensors.get('a')?.shape.length, limits.dimensions)

  const nested = (levels: number): string => `${'['.repeat(levels)}${']'.repeat(levels)}`
  t.equal((await read(safetensorsText(`{"__metadata__":{"a":${nested(limits.depth)}}}`))).metadata.size, 0)
  await t.rejects(read(safetensorsText(`{"__metadata__":{"a":${nested(limits.depth + 1)}}}`)), refusal(/16 levels/))
  const arrays = (levels: number): GgufArray =>
    levels === 1 ? { type: 4, values: [1] } : { type: 9, values: [arrays(levels - 1)] }
  await t.resolves(read(gguf({}, { metadata: { a: arrays(limits.depth) } })))
  await t.rejects(read(gguf({}, { metadata: { a: arrays(limits.depth + 1) } })), refusal(/16 levels/))

  // Eight megabytes of metadata are kept, in values of at most two.
  const values = Object.fromEntries(Array.from({ length: 6 }, (_, n) => [`v${n}`, 'x'.repeat(limits.metadataValue)]))
  for (const bytes of [safetensors({}, values), gguf({}, { metadata: values })]) {
    const { metadata } = await read(bytes)
    t.same([...metadata.keys()], ['v0', 'v1', 'v2', 'v3'])
  }
  t.equal((await read(gguf({}, { metadata: { v: 'x'.repeat(limits.metadataValue + 1) } }))).metadata.size, 0)

  const spaced = (length: number) => safetensorsText('{}'.padEnd(length))
  t.equal((await read(spaced(limits.header))).tensors.size, 0)
  await t.rejects(read(spaced(limits.header + 1)), refusal(/more than 33554432 bytes/))
  t.match((await read(gguf({ '\ufffd\u0000': { dimensions: [1] } }))).tensors.size, 1, 'odd names are names')
})

t.test('judges a file by its content, and refuses pickles and links', async t => {
  const folder = t.testdir({
    'zip.safetensors': Buffer.concat([Buffer.from('PK\x03\x04'), Buffer.alloc(100)]),
    'pickle.gguf': Buffer.concat([Buffer.from([0x80, 2, 0x7d, 0x71]), Buffer.alloc(100)]),
    'model.ckpt': Buffer.concat([Buffer.from([0x80, 2, 0x7d, 0x71]), Buffer.alloc(100)]),
    'named.pt': safetensors(typical.vae),
    'length.safetensors': safetensorsText('{}'.padEnd(0x280)),
    'renamed.bin.gguf': safetensors(typical.vae)
  })
  for (const name of ['zip.safetensors', 'pickle.gguf', 'model.ckpt', 'named.pt']) {
    await t.rejects(readModelHeader(join(folder, name)), { name: 'ModelFileError', blocked: true, message: /pickle/ }, name)
  }
  t.equal((await readModelHeader(join(folder, 'length.safetensors'))).tensors.size,
    0, 'a length that looks like a pickle is a length')
  t.equal((await readModelHeader(join(folder, 'renamed.bin.gguf'))).format, 'safetensors', 'the content counts')

  symlinkSync(join(folder, 'named.pt'), join(folder, 'link.safetensors'))
  await t.rejects(readModelHeader(join(folder, 'link.safetensors')), { code: 'ELOOP' })
  execFileSync('mkfifo', [join(folder, 'pipe.safetensors')])
  await t.rejects(readModelHeader(join(folder, 'pipe.safetensors')),
    { message: /regular file/ }, 'a named pipe does not block')
  await t.rejects(readModelHeader(folder), { name: 'ModelFileError' })
})

t.test('names what is no model as what it is', async t => {
  const pointer = `version https://git-lfs.github.com/spec/v1\noid sha256:${'a'.repeat(64)}\nsize 4265146304\n`
  for (const [content, reason] of [
    [pointer, /pointer of Git LFS/],
    ['<!DOCTYPE html>\n<html><head><title>Sign in', /web page/],
    ['\n\n <html lang="en">'.padEnd(500), /web page/],
    ['<?xml version="1.0"?><Error><Code>AccessDenied', /web page/],
    ['{"error":"Access to model is restricted"}', /JSON/],
    ['{"errs":{"a":"the brace is where a header has one"}}', /JSON/],
    ['{}', /JSON/],
    [Buffer.alloc(4096), /begins with zeros/],
    ['not a model at all', /neither a safetensors nor a GGUF/],
    ['xx', /too short/]
  ] as const) {
    for (const named of ['safetensors', 'gguf'] as const) {
      const source = sourceOf(Buffer.from(content as string))
      await t.rejects(parseModelHeader(source, named), { message: reason }, String(reason))
    }
  }
  t.ok(await parseModelHeader(sourceOf(safetensorsText('{"__metadata__":{"a":"b"}}'.padEnd(0x7b)))), 'a length that begins with a brace')
  for (const type of [4, 36]) {
    await t.rejects(parseModelHeader(sourceOf(gguf({ a: { dimensions: [32], type } }))), { message: /ggml removed/ })
  }
})

t.test('does not read a pickle beyond its first bytes', async t => {
  const source = sourceOf(Buffer.concat([Buffer.from([0x80, 2, 0x7d]), Buffer.alloc(100_000)]))
  await t.rejects(parseModelHeader(source, 'pickle'), { name: 'ModelFileError', blocked: true })
  t.ok(source.bytesRead < 16, `${source.bytesRead} bytes`)
})

t.test('does not block the event loop for a large header', async t => {
  const tensors = Array.from({ length: 90_000 },
    (_, index) => `"${`layer.${index}.`.padEnd(200, 'x')}":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}`)
  const bytes = safetensorsText(`{${tensors.join()}}`, 1)
  let turns = 0
  const timer = setInterval(() => { turns++ }, 1)
  t.equal((await read(bytes)).tensors.size, 90_000)
  clearInterval(timer)
  t.ok(turns >= 3, `${turns} turns while reading ${bytes.length} bytes`)
})

const tensorNames = fc.oneof(fc.string({ unit: 'grapheme', maxLength: 40 }),
  fc.constantFrom('__proto__', 'constructor', 'toString', 'a"b\\c', ''))
  .filter(name => name !== '__metadata__')
const shapes = fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 5 })

t.test('property: reads what was written', async t => {
  const anyTensors = fc.dictionary(tensorNames, shapes)
  const anyMetadata = fc.dictionary(tensorNames, fc.string({ unit: 'grapheme' }))
  await fc.assert(fc.asyncProperty(anyTensors, anyMetadata, async (tensors, metadata) => {
    const described = Object.fromEntries(Object.entries(tensors).map(([name, shape]) => [name, { shape }]))
    const header = await read(safetensors(described, metadata))
    t.strictSame([...header.tensors], Object.entries(tensors).map(([name, shape]) => [name, { dtype: 'F16', shape }]))
    t.strictSame([...header.metadata], Object.entries(metadata))

    const dimensions = Object.entries(tensors).map(([name, shape]) => [name, { dimensions: shape.toReversed() }])
    const same = await read(gguf(Object.fromEntries(dimensions), { metadata }))
    t.strictSame([...same.tensors], [...header.tensors])
    t.strictSame([...same.metadata], Object.entries(metadata))
  }), { numRuns: 100 })
})

t.test('property: refuses any damage', async t => {
  const valid = [
    safetensors(typical.sd1, { 'modelspec.title': 'x', nested: { a: [1, 2, { b: null }] } }),
    gguf({ a: { dimensions: [32, 3], type: 8 }, b: { dimensions: [4] } },
      {
        metadata: {
          'general.alignment': 32,
          words: { type: 8, values: ['a', 'b'] },
          deep: { type: 9, values: [{ type: 4, values: [1] }] }
        }
      })
  ]
  const byte = fc.oneof(fc.nat(255), fc.constantFrom(...Buffer.from('"\\{}[],:0\0\xff', 'latin1')))
  const edits = fc.array(fc.record({ at: fc.nat(1200), byte }), { minLength: 1, maxLength: 4 })
  const length = fc.option(fc.nat(1200))
  let refusals = 0
  await fc.assert(fc.asyncProperty(fc.constantFrom(...valid), edits, length, async (bytes, edits, length) => {
    const damaged = Buffer.from(bytes.subarray(0, length ?? bytes.length))
    for (const { at, byte } of edits) if (damaged.length > 0) damaged[at % damaged.length] = byte
    const start = process.cpuUsage()
    try {
      await read(damaged)
    } catch (error) {
      if (!(error instanceof ModelFileError)) throw error
      refusals++
    }
    // Time of the CPU, because other programs run beside it, and generous: a hang takes seconds.
    const { user, system } = process.cpuUsage(start)
    if (user + system > 1_000_000) throw new Error('The parser was slow.')
  }), { numRuns: 3000 })
  t.ok(refusals > 1000, `${refusals} refusals`)
})
