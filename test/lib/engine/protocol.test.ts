import fc from 'fast-check'
import t from 'tap'
import { capabilityNames, phases, type EngineInfo } from '../../../lib/engine/engine.ts'
import { readHostMessage } from '../../../lib/engine/host-message.ts'
import {
  FrameDecoder, ProtocolError, decodeServerMessage, encodeFrame, encodeHostMessage, encodeServerMessage, maximumBytes,
  maximumJson, maximumPreview, protocolVersion, type Frame, type HostMessage, type ProtocolErrorCode, type ServerMessage
} from '../../../lib/engine/protocol.ts'
import { emptyPng } from './helper.ts'

const info: EngineInfo = {
  engine: 'native', version: '1', device: 'CPU', capabilities: [], samplers: ['euler'], schedulers: ['discrete'], weight_types: []
}
const png = new Uint8Array(emptyPng(8, 8))

const hostMessages: HostMessage[] = [
  { type: 'hello', protocol: protocolVersion, info },
  { type: 'info', info },
  { type: 'progress', id: 1, progress: { phase: 'sampling', step: 1, steps: 2, index: 0 } },
  { type: 'preview', id: 1, preview: { step: 1, index: 0, width: 8, height: 8, png } },
  { type: 'image', id: 1, image: { index: 0, width: 8, height: 8, seed: 3, png } },
  { type: 'log', level: 'warn', text: 'näher — 画' },
  { type: 'done', id: 1, result: { generate_ms: 1 } },
  { type: 'error', id: 1, code: 'cancelled', message: '…' }
]
const serverMessages: ServerMessage[] = [
  {
    type: 'run',
    id: 4,
    operation: 'generate',
    parameters: { prompt: '猫' },
    attachments: { init_image: png, 'ref_images.0': new Uint8Array(0), mask: new Uint8Array(3000).fill(7) }
  },
  { type: 'cancel', id: 4 },
  { type: 'shutdown' }
]

const join = (pieces: Uint8Array[][]): Buffer => Buffer.concat(pieces.flat())

function split (bytes: Uint8Array, sizes: number[]): Uint8Array[] {
  const chunks: Uint8Array[] = []
  for (let position = 0, n = 0; position < bytes.length; n++) {
    const size = sizes[n % sizes.length]!
    chunks.push(bytes.subarray(position, position + size))
    position += size
  }
  return chunks
}

function read (chunks: Uint8Array[]): Frame[] {
  const decoder = new FrameDecoder()
  const frames = chunks.flatMap((chunk) => decoder.push(chunk))
  decoder.end()
  return frames
}

function throwsProtocolError (action: () => unknown, code: ProtocolErrorCode): void {
  try {
    action()
    t.fail(`expected ${code}`)
  } catch (error) {
    t.type(error, ProtocolError)
    t.match(error, { code, message: /\w/ })
  }
}

t.test('decodes every message, however the stream is cut', async (t) => {
  const fromHost = join(hostMessages.map(encodeHostMessage))
  const fromServer = join(serverMessages.map(encodeServerMessage))
  const check = (sizes: number[]): void => {
    t.strictSame(read(split(fromHost, sizes)).map(readHostMessage), hostMessages)
    t.strictSame(read(split(fromServer, sizes)).map(decodeServerMessage), serverMessages)
  }
  check([Infinity])
  check([1])
  const sizes = fc.array(fc.integer({ min: 1, max: 3000 }), { minLength: 1, maxLength: 20 })
  fc.assert(fc.property(sizes, check), { numRuns: 30 })
})

t.test('carries any JSON and any bytes', async (t) => {
  const frame = fc.tuple(fc.object({ maxDepth: 2 }), fc.uint8Array({ maxLength: 300 }))
  const sizes = fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 5 })
  fc.assert(fc.property(fc.array(frame, { maxLength: 5 }), sizes, (frames, sizes) => {
    const stream = join(frames.map(([json, bytes]) => encodeFrame(json, [bytes])))
    const expected = frames.map(([json, bytes]) => ({ json: JSON.parse(JSON.stringify(json)), bytes: [...bytes] }))
    t.same(read(split(stream, sizes)).map(({ json, bytes }) => ({ json, bytes: [...bytes] })), expected)
  }), { numRuns: 100 })
})

t.test('bounds lengths on both sides', async (t) => {
  const lengths = (json: number, bytes: number): Buffer => {
    const header = Buffer.alloc(8)
    header.writeUInt32LE(json, 0)
    header.writeUInt32LE(bytes, 4)
    return header
  }
  throwsProtocolError(() => new FrameDecoder().push(lengths(maximumJson + 1, 0)), 'json_too_large')
  throwsProtocolError(() => new FrameDecoder().push(lengths(0xffffffff, 0)), 'json_too_large')
  throwsProtocolError(() => new FrameDecoder().push(lengths(2, maximumBytes + 1)), 'bytes_too_large')
  t.same(new FrameDecoder().push(lengths(maximumJson, maximumBytes)), [], 'the bounds themselves are allowed')
  throwsProtocolError(() => encodeFrame({ text: 'x'.repeat(maximumJson) }), 'json_too_large')
  const half = new Uint8Array(maximumBytes / 2)
  t.equal(encodeFrame({}, [half, half]).length, 4)
  throwsProtocolError(() => encodeFrame({}, [half, half, new Uint8Array(1)]), 'bytes_too_large')
})

t.test('refuses a broken stream', async () => {
  throwsProtocolError(() => new FrameDecoder().push(Buffer.from([1, 0, 0, 0, 0, 0, 0, 0, 0x7b])), 'invalid_json')
  throwsProtocolError(() => new FrameDecoder().push(Buffer.from([0, 0, 0, 0, 0, 0, 0, 0])), 'invalid_json')
  const whole = join([encodeFrame({ type: 'shutdown' }, [png])])
  for (const length of [1, 7, 8, 9, whole.length - 1]) {
    throwsProtocolError(() => read([whole.subarray(0, length)]), 'truncated')
  }
})

t.test('refuses unknown messages', async () => {
  const bytes = new Uint8Array(0)
  const notFromHost = [null, 1, 'hello', [], {}, { type: 'run' }, { type: 'toString' }, { type: '__proto__' }, { type: ['log'] }]
  for (const json of notFromHost) throwsProtocolError(() => readHostMessage({ json, bytes }), 'invalid_message')
  throwsProtocolError(() => readHostMessage({ json: { type: 'hello', protocol: 2, info }, bytes }), 'wrong_version')
  const run = { type: 'run', id: 1, operation: 'generate', parameters: {} }
  const notFromServer = [
    { type: 'hello' }, { type: 'cancel' }, run, { ...run, attachments: {} }, { ...run, attachments: [['a']] },
    { ...run, attachments: [['a', -1]] }, { ...run, attachments: [['a', 1]] }, { ...run, attachments: [['a', 1.5]] }
  ]
  for (const json of notFromServer) throwsProtocolError(() => decodeServerMessage({ json, bytes }), 'invalid_message')
  throwsProtocolError(() => decodeServerMessage({ json: { ...run, attachments: [] }, bytes: png }), 'invalid_message')
})

t.test('checks type and bounds of each field of an engine, and names the wrong one', async (t) => {
  const wrong = [undefined, null, {}, [], true, '', 'x', -1, 1.5, 1e308, 2 ** 53, '1']
  const notText = wrong.filter(value => typeof value !== 'string')
  const numbers = { step: wrong, index: [...wrong, 64], width: [...wrong, 0, 65_537], height: [...wrong, 0] }
  const values: Record<string, Record<string, unknown[]>> = {
    hello: { protocol: wrong, info: wrong },
    info: {
      'info.engine': wrong,
      'info.version': notText,
      'info.device': notText,
      'info.capabilities': [...wrong, ['flying'], [1]].filter(value => !Array.isArray(value) || value.length > 0),
      'info.samplers': [null, 'euler', {}, [1], [null], Array(1001).fill('a'), [], ['euler', 'euler']],
      'info.schedulers': [null, [{}], [], ['a', 'b', 'a']],
      'info.weight_types': [null, [[]]],
      'info.devices': [null, 'CPU', [{ name: 'CPU' }], [null], [{ name: 1, description: 'x' }]]
    },
    progress: {
      id: [...wrong, 0],
      progress: wrong,
      'progress.phase': [...wrong, 'sleeping'],
      'progress.step': wrong,
      'progress.steps': wrong,
      'progress.index': [...wrong, 64]
    },
    preview: { id: wrong, preview: wrong, ...prefixed('preview', numbers) },
    image: { id: wrong, image: wrong, ...prefixed('image', { ...numbers, seed: [...wrong, 2 ** 53] }), 'image.step': [] },
    log: { level: [...wrong, 'fatal'], text: notText },
    done: { id: wrong, result: wrong.filter(value => value === null || typeof value !== 'object'), 'result.load_ms': [null, -1, '1', 1e13], 'result.generate_ms': [{}] },
    error: { id: wrong, code: [...wrong, 'engine_unavailable', 'engine_busy', 'engine_crashed'], message: notText }
  }
  let tried = 0
  for (const message of hostMessages) {
    const [json, bytes] = asJson(message)
    for (const [path, wrongOnes] of Object.entries(values[message.type]!)) {
      for (const value of wrongOnes) {
        // An empty object is a record without its fields, so the error names the first of these.
        if (Array.isArray(value) && value.length === 0 && path === 'info.capabilities') continue
        const changed = structuredClone(json)
        const [first, second] = path.split('.') as [string, string?]
        if (second === undefined) changed[first] = value
        else (changed[first] as Record<string, unknown>)[second] = value
        t.throws(() => readHostMessage({ json: changed, bytes }), { code: 'invalid_message', message: new RegExp(`for ${path}`.replace('[', '.')) }, `${message.type} ${path} ${JSON.stringify(value)}`)
        tried++
      }
    }
  }
  t.ok(tried > 200, `${tried} messages`)
})

t.test('returns bounded messages with the declared fields only', async (t) => {
  const bytes = new Uint8Array(0)
  const long = 'x'.repeat(1_000_000)
  const log = readHostMessage({ json: { type: 'log', level: 'warn', text: `a\nERROR forged\u001b[2J\u202e\ud800 ${long}`, extra: long }, bytes })
  t.match(log, { text: /^a\\nERROR forged\\u001b\[2J\\u202e\\ud800 x+…$/ })
  t.ok(JSON.stringify(log).length < 2200)
  const hello = { type: 'hello', protocol: 1, info: { ...info, __proto__: { x: 1 }, constructor: 'x', version: long } }
  const read = readHostMessage({ json: JSON.parse(JSON.stringify(hello)), bytes })
  t.same(Object.keys((read as { info: object }).info), Object.keys(info))
  t.match(readHostMessage({ json: { type: 'progress', id: 1, progress: { phase: 'sampling', step: 30, steps: 20, index: 0 } }, bytes }), { progress: { step: 20 } })
})

t.test('accepts only PNG images of the declared size', async (t) => {
  const image = (width: number, height: number, bytes: Uint8Array) => () =>
    readHostMessage({ json: { type: 'image', id: 1, image: { index: 0, width, height, seed: 0 } }, bytes })
  t.doesNotThrow(image(8, 8, png))
  for (const bytes of [new Uint8Array(0), Buffer.from('GIF89a'), Buffer.from([0xff, 0xd8, 0xff]), png.subarray(0, 20)]) {
    t.throws(image(8, 8, bytes), { code: 'invalid_message', message: /for image: .*PNG/ })
  }
  t.throws(image(8, 9, png), { message: /expected a PNG image of 8 × 9 pixels.*received "8 × 8"/ })
  const preview = { type: 'preview', id: 1, preview: { step: 1, index: 0, width: 8, height: 8 } }
  t.throws(() => readHostMessage({ json: preview, bytes: Buffer.concat([png, Buffer.alloc(maximumPreview)]) }), { message: /for preview/ })
  t.throws(() => readHostMessage({ json: { type: 'log', level: 'info', text: '' }, bytes: png }), { message: /none for the bytes of 'log'/ })
})

t.test('returns a message with declared types for any JSON, or refuses it', async (t) => {
  const anything = fc.anything({
    maxDepth: 3,
    values: [fc.integer(), fc.double(), fc.string(), fc.boolean(), fc.constant(null)]
  })
  const half = fc.record({
    type: fc.constantFrom('hello', 'info', 'progress', 'preview', 'image', 'log', 'done', 'error'),
    id: fc.oneof(fc.constant(1), anything),
    protocol: fc.oneof(fc.constant(1), anything),
    info: fc.oneof(fc.record({
      engine: fc.constant('native'),
      version: fc.string(),
      device: fc.string(),
      samplers: fc.uniqueArray(fc.string(), { minLength: 1 }),
      schedulers: fc.uniqueArray(fc.string(), { minLength: 1 }),
      weight_types: fc.array(fc.string()),
      capabilities: fc.oneof(fc.subarray([...capabilityNames]), anything)
    }), anything),
    progress: fc.oneof(fc.record({
      phase: fc.constantFrom(...phases),
      step: fc.oneof(fc.nat(), anything),
      steps: fc.nat(),
      index: fc.nat(70)
    }), anything),
    image: fc.oneof(fc.record({
      index: fc.nat(),
      seed: fc.oneof(fc.nat(), anything),
      width: fc.constant(8),
      height: fc.constant(8)
    }), anything),
    preview: anything,
    level: fc.oneof(fc.constant('warn'), anything),
    text: anything,
    code: anything,
    message: anything,
    result: anything
  }, { requiredKeys: ['type'] })
  let accepted = 0
  fc.assert(fc.property(fc.oneof(half, anything), fc.constantFrom(new Uint8Array(0), png), (value, bytes) => {
    const text = JSON.stringify(value)
    if (text === undefined) return
    try {
      const message = readHostMessage({ json: JSON.parse(text), bytes })
      accepted++
      if (message.type === 'progress') t.ok(Number.isInteger(message.progress.step) && message.progress.index < 64)
      if (message.type === 'image') t.ok(Number.isInteger(message.image.seed))
      if (message.type === 'log') t.notMatch(message.text, /[\p{C}\p{Zl}\p{Zp}]/u)
      if (message.type === 'done') t.ok(Object.values(message.result).every(Number.isFinite))
      if (message.type === 'hello') t.ok(Array.isArray(message.info.capabilities))
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error
    }
  }), { numRuns: 5000 })
  t.ok(accepted > 50, `${accepted} were messages`)
  const deep = JSON.parse(`${'['.repeat(100_000)}${']'.repeat(100_000)}`)
  throwsProtocolError(() => readHostMessage({ json: { type: 'log', level: 'warn', text: deep }, bytes: new Uint8Array(0) }), 'invalid_message')
})

/** A message as it travels. */
function asJson (message: HostMessage): [json: Record<string, unknown>, bytes: Uint8Array] {
  const [frame] = read([join([encodeHostMessage(message)])])
  return [frame!.json as Record<string, unknown>, frame!.bytes]
}

function prefixed (prefix: string, values: Record<string, unknown[]>): Record<string, unknown[]> {
  return Object.fromEntries(Object.entries(values).map(([name, list]) => [`${prefix}.${name}`, list]))
}
