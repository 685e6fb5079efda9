import fc from 'fast-check'
import t from 'tap'
import type { EngineInfo } from '../../../lib/engine/engine.ts'
import {
  FrameDecoder, ProtocolError, decodeHostMessage, decodeServerMessage, encodeFrame, encodeHostMessage,
  encodeServerMessage, maximumBytes, maximumJson, protocolVersion, type Frame, type HostMessage, type ProtocolErrorCode,
  type ServerMessage
} from '../../../lib/engine/protocol.ts'

const info: EngineInfo = {
  engine: 'native', version: '1', device: 'CPU', capabilities: [], samplers: [], schedulers: [], weight_types: []
}
const png = new Uint8Array([1, 2, 3, 255])

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

t.test('every message survives the way, however the stream is cut', async (t) => {
  const fromHost = join(hostMessages.map(encodeHostMessage))
  const fromServer = join(serverMessages.map(encodeServerMessage))
  const check = (sizes: number[]): void => {
    t.strictSame(read(split(fromHost, sizes)).map(decodeHostMessage), hostMessages)
    t.strictSame(read(split(fromServer, sizes)).map(decodeServerMessage), serverMessages)
  }
  check([Infinity])
  check([1])
  const sizes = fc.array(fc.integer({ min: 1, max: 3000 }), { minLength: 1, maxLength: 20 })
  fc.assert(fc.property(sizes, check), { numRuns: 30 })
})

t.test('any JSON and any bytes', async (t) => {
  const frame = fc.tuple(fc.object({ maxDepth: 2 }), fc.uint8Array({ maxLength: 300 }))
  const sizes = fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 5 })
  fc.assert(fc.property(fc.array(frame, { maxLength: 5 }), sizes, (frames, sizes) => {
    const stream = join(frames.map(([json, bytes]) => encodeFrame(json, [bytes])))
    const expected = frames.map(([json, bytes]) => ({ json: JSON.parse(JSON.stringify(json)), bytes: [...bytes] }))
    t.same(read(split(stream, sizes)).map(({ json, bytes }) => ({ json, bytes: [...bytes] })), expected)
  }), { numRuns: 100 })
})

t.test('lengths have bounds, on both sides', async (t) => {
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

t.test('a broken stream', async () => {
  throwsProtocolError(() => new FrameDecoder().push(Buffer.from([1, 0, 0, 0, 0, 0, 0, 0, 0x7b])), 'invalid_json')
  throwsProtocolError(() => new FrameDecoder().push(Buffer.from([0, 0, 0, 0, 0, 0, 0, 0])), 'invalid_json')
  const whole = join([encodeFrame({ type: 'shutdown' }, [png])])
  for (const length of [1, 7, 8, 9, whole.length - 1]) {
    throwsProtocolError(() => read([whole.subarray(0, length)]), 'truncated')
  }
})

t.test('messages that are none', async () => {
  const bytes = new Uint8Array(0)
  const notFromHost = [
    null, 1, 'hello', [], {}, { type: 'run' }, { type: 'toString' }, { type: '__proto__' }, { type: 'hello', info },
    { type: 'hello', protocol: 1, info: null }, { type: 'progress', id: '1', progress: {} },
    { type: 'log', level: 'info' }
  ]
  for (const json of notFromHost) throwsProtocolError(() => decodeHostMessage({ json, bytes }), 'invalid_message')
  throwsProtocolError(() => decodeHostMessage({ json: { type: 'hello', protocol: 2, info }, bytes }), 'wrong_version')
  const run = { type: 'run', id: 1, operation: 'generate', parameters: {} }
  const notFromServer = [
    { type: 'hello' }, { type: 'cancel' }, run, { ...run, attachments: {} }, { ...run, attachments: [['a']] },
    { ...run, attachments: [['a', -1]] }, { ...run, attachments: [['a', 1]] }, { ...run, attachments: [['a', 1.5]] }
  ]
  for (const json of notFromServer) throwsProtocolError(() => decodeServerMessage({ json, bytes }), 'invalid_message')
  throwsProtocolError(() => decodeServerMessage({ json: { ...run, attachments: [] }, bytes: png }), 'invalid_message')
})
