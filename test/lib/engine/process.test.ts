import { execFile } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { constants, getPriority } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { engineEnvironment } from '../../../lib/util/environment.ts'
import { ExpectedImages } from '../../../lib/engine/expected-images.ts'
import { OutputTail } from '../../../lib/util/output-tail.ts'
import type { Logger } from '../../../lib/util/logger.ts'
import { EngineProcess, type EngineProcessOptions } from '../../../lib/engine/process.ts'
import { maximumBytes, maximumJson } from '../../../lib/engine/protocol.ts'
import { packageRoot } from '../../../lib/util/package-root.ts'
import { draw, emptyPng, failure, isAlive, until } from './helper.ts'

const double = join(packageRoot, 'dist', 'test', 'fixtures', 'engine-double.js')
if (!existsSync(double)) throw new Error(`${double} is missing: run npm run build`)

function make (t: Test, start: string, options: EngineProcessOptions = {}): EngineProcess {
  const engine = new EngineProcess({ engine: 'portable', file: process.execPath, args: [double, start] }, options)
  t.teardown(() => engine.stop())
  return engine
}

async function started (t: Test, options: EngineProcessOptions = {}): Promise<EngineProcess> {
  const engine = make(t, 'well', options)
  await engine.start()
  return engine
}

t.test('reports a process that does not start', async (t) => {
  await t.test('because there is no such file', async (t) => {
    const engine = new EngineProcess({ engine: 'native', file: '/nowhere/node', args: [] })
    await failure(t, engine.start(), 'engine_unavailable', /ENOENT/)
    t.match(engine.status, { state: 'stopped', pid: null })
    await engine.stop()
  })

  await t.test('because it dies, says how and why', async (t) => {
    const engine = make(t, 'dying')
    await failure(t, engine.start(), 'engine_unavailable', /exit code 127: error while loading shared.* libfoo/)
    t.equal(engine.status.restarts, 0, 'a first start is not tried again')
  })

  await t.test('because it says nothing, is killed', async (t) => {
    const engine = make(t, 'silent', { handshakeTimeout: 300 })
    const start = engine.start()
    t.ok(await until(() => engine.status.pid !== null))
    const { pid, state } = engine.status
    t.equal(state, 'starting')
    await failure(t, start, 'engine_unavailable', /nothing within 0\.3 seconds/)
    t.notOk(isAlive(pid!))
  })

  await t.test('because it is of another release', async (t) => {
    await failure(t, make(t, 'old').start(), 'engine_unavailable', /different releases/)
  })

  await t.test('can be given up while it tries', async (t) => {
    const engine = make(t, 'silent', { stopGrace: 50 })
    const start = failure(t, engine.start(), 'engine_unavailable')
    const run = failure(t, draw(engine), 'engine_unavailable')
    await until(() => engine.status.pid !== null)
    await engine.stop()
    await Promise.all([start, run])
    t.match(engine.status, { state: 'stopped', pid: null })
  })
})

t.test('kills and replaces a process that breaks the protocol', async (t) => {
  const engine = await started(t, { firstBackoff: 1 })
  const sayings = {
    nonsense: /JSON; the most is/, // its first bytes are an absurd length
    'not json': /not JSON/,
    'no message': /one of hello,.* for type but received "surprise"/,
    'half a message': /in the middle of a message/,
    'other id': /'done' out of turn/
  }
  for (const [prompt, reason] of Object.entries(sayings)) {
    const { pid } = engine.status
    await failure(t, draw(engine, { prompt }), 'engine_crashed', reason)
    t.ok(await until(() => !isAlive(pid!)))
    await draw(engine, { prompt: 'echo' })
    t.not(engine.status.pid, pid)
  }
})

const png = emptyPng(64, 64)
const picture = { index: 0, width: 64, height: 64, seed: 7 }
const image = (changes: object = {}, bytes = png): [object, string] =>
  [{ type: 'image', id: 1, image: { ...picture, ...changes } }, bytes.toString('base64')]
const raw = (...frames: Array<[object, string?]>): { prompt: string } => ({ prompt: `raw ${JSON.stringify(frames)}` })
const info = { engine: 'portable', version: '1', device: 'x', capabilities: [], samplers: ['euler'], schedulers: ['discrete'], weight_types: [] }

t.test('loses one operation to one wrong message', async (t) => {
  const done: [object] = [{ type: 'done', id: 1, result: {} }]
  const cases: Array<[frames: Array<[object, string?]>, reason: RegExp]> = [
    [[image({ seed: 1.5 })], /whole number from 0 to 9007199254740991 for image\.seed but received 1\.5/],
    [[image({ seed: {} })], /image\.seed but received an object/],
    [[image({ seed: undefined })], /image\.seed but received nothing/],
    [[image({ index: null })], /image\.index but received null/],
    [[image({ index: {} })], /image\.index/],
    [[image({ index: 1 })], /one of 1 images for image\.index but received 1/],
    [[image(), image()], /did not come yet/],
    [[image({}, Buffer.from('<svg/>'))], /PNG/],
    [[image({ width: 640 }, emptyPng(640, 64))], /64 × 64 pixels or a little more for image but received "640 × 64 pixels"/],
    [[image({ width: 32 }, emptyPng(32, 64))], /64 × 64/],
    [[image({}, emptyPng(64, 64, 100_000))], /at most \d+ bytes/],
    [[[{ type: 'hello', protocol: 1, info }]], /'hello' out of turn/],
    [[[{ type: 'info', info: { ...info, capabilities: null } }]], /info\.capabilities but received null/],
    [[[{ type: 'info', info: { ...info, engine: 'native' } }]], /info\.engine/],
    [[[{ type: 'progress', id: 1, progress: { phase: 'sampling', step: 1, steps: 1e308, index: 0 } }]], /progress\.steps/],
    [[[{ type: 'progress', id: 1, progress: { phase: 'sampling', step: 1, steps: 1, index: 1 } }]], /progress\.index/],
    [[[{ type: 'progress', id: 2, progress: { phase: 'sampling', step: 1, steps: 1, index: 0 } }]], /out of turn/],
    [[[{ type: 'preview', id: 1, preview: picture }, 'AAAA']], /preview/],
    [[[{ type: 'error', id: 1, code: 'engine_unavailable', message: 'again' }]], /for code but received "engine_unavailable"/],
    [[[{ type: 'error', id: 1, code: 'cancelled', message: '' }]], /'error' out of turn/]
  ]
  const engine = await started(t, { firstBackoff: 1 })
  let operation = 0
  const withId = (frames: Array<[object, string?]>): Array<[object, string?]> => frames.map(([json, bytes]) =>
    [{ ...json, ...('id' in json ? { id: operation + (json.id as number) } : {}) }, bytes])
  for (const [frames, reason] of cases) {
    await failure(t, draw(engine, raw(...withId(frames))), 'engine_crashed', reason)
    operation++
    await draw(engine, { prompt: 'nothing' })
    operation++
    t.match(engine.info, { capabilities: ['txt2img'] })
  }
  await failure(t, draw(engine, raw(...withId([done, done]))).then(async () => draw(engine, { prompt: 'hang' })), 'engine_crashed', /'done' out of turn/)
  operation += 2
  const { images } = await draw(engine, { ...raw(...withId([image(), image({ index: 1 })])), batch_count: 2 })
  t.equal(images.length, 2, 'and what was asked for passes')
  await draw(engine, raw([{ type: 'info', info: { ...info, device: 'GPU\n1' } }]))
  t.match(engine.info, { device: 'GPU\\n1', capabilities: ['txt2img'] }, 'of a description only the device may change')
})

t.test('checks number and size of images against the request', async (t) => {
  const engine = await started(t, { firstBackoff: 1 })
  const many = Array.from({ length: 3000 }, (_, index) => image({ index: index % 64 }))
  await failure(t, draw(engine, raw(...many)), 'engine_crashed', /images for image\.index|did not come yet/)
  const upscale = async (): Promise<unknown> => engine.run('upscale', { repeats: 1 }, {
    attachments: { image: emptyPng(10, 20) }, image: ({ png }) => t.ok(png)
  }).catch((error: unknown) => error)
  t.match(await upscale(), { code: 'unsupported' }, 'the double does not')
  const upscaled = (width: number, height: number) => () =>
    new ExpectedImages('upscale', {}, { image: emptyPng(10, 20) }).add({ index: 0, seed: 0, width, height, png })
  t.doesNotThrow(upscaled(40, 80))
  for (const [width, height] of [[40, 81], [15, 30], [5, 10], [65_530, 131_060]] as const) t.throws(upscaled(width, height), { code: 'invalid_message' })
  t.throws(() => new ExpectedImages('load', {}, {}).add({ ...picture, png }), { message: /no image of this operation/ })
  const hires = new ExpectedImages('generate', { width: 64, height: 64, hires: { scale: 2 } }, {})
  t.doesNotThrow(() => hires.add({ ...picture, width: 128, height: 128, png }))
})

t.test('reads a flood of lines, progress and previews at a bounded rate', async (t) => {
  const warned: string[] = []
  const engine = await started(t, { logger: silentLogger({ warn: (_details, text) => warned.push(text) }) })
  let late = 0
  let last = performance.now()
  const timer = setInterval(() => {
    late = Math.max(late, performance.now() - last)
    last = performance.now()
  }, 10)
  t.teardown(() => clearInterval(timer))
  const begin = performance.now()
  const { progress } = await draw(engine, { prompt: 'flood' })
  const seconds = (performance.now() - begin) / 1000
  t.ok(seconds > 1, 'of 30,000 messages 10,000 are read in a second')
  t.ok(progress.length <= 100 * (seconds + 2) && progress.length < 10_000, `${progress.length} steps were told in ${seconds} s`)
  t.match(progress.at(-1), { phase: 'decoding' })
  t.ok(await until(() => warned.some(text => /^The engine wrote \d+ more lines within a second, which are left out$/.test(text))))
  t.ok(warned.length <= 102 * (seconds + 3), `${warned.length} lines`)
  t.ok(warned.every(text => text.length <= 2001))
  t.ok(late < 1000, `the event loop stood still for ${late} ms at most`)
})

t.test('ends each operation whatever the engine sends, and does the next one', async (t) => {
  const engine = await started(t, { firstBackoff: 1, longestBackoff: 1, silenceTimeout: 2000 })
  const json = fc.oneof(fc.object({ maxDepth: 2 }), fc.record({
    type: fc.constantFrom('hello', 'info', 'progress', 'preview', 'image', 'log', 'done', 'error'),
    id: fc.oneof(fc.nat(100), fc.anything({ maxDepth: 1 })),
    image: fc.anything({ maxDepth: 2 }),
    progress: fc.anything({ maxDepth: 2 }),
    info: fc.anything({ maxDepth: 2 }),
    level: fc.constantFrom('warn', 'loud'),
    text: fc.string(),
    result: fc.object({ maxDepth: 1 }),
    code: fc.string(),
    message: fc.string()
  }, { requiredKeys: ['type'] }))
  const frames = fc.array(fc.tuple(json, fc.base64String({ maxLength: 40 })), { minLength: 1, maxLength: 4 })
    .map(frames => raw(...frames).prompt)
  const bytes = fc.uint8Array({ minLength: 1, maxLength: 60 }).map(bytes => `bytes ${Buffer.from(bytes).toString('base64')}`)
  await fc.assert(fc.asyncProperty(fc.oneof(frames, bytes), async (prompt) => {
    const outcome = await draw(engine, { prompt }).then(() => 'done', ({ code }: { code: string }) => code)
    t.ok(['done', 'engine_crashed', 'engine_timeout', 'generation_failed', 'unsupported', 'invalid_parameters', 'model_load_failed'].includes(outcome), outcome)
    await draw(engine, { prompt: 'nothing' }).catch(async () => draw(engine, { prompt: 'nothing' }))
  }), { numRuns: 25, endOnFailure: true })
})

t.test('gives the reason of a crash', async (t) => {
  const engine = await started(t, { firstBackoff: 1 })
  const message = await failure(t, draw(engine, { prompt: 'abort with words' }), 'engine_crashed')
  t.match(message, /SIGABRT: ggml\.c:42: GGML_ASSERT\(a == b\) failed$/, 'without the folders of whoever built it')
  t.match(engine.status.last_crash, { reason: /GGML_ASSERT/, at: /Z$/ })
  await failure(t, draw(engine, { prompt: 'exit code 3' }), 'engine_crashed', /exit code 3/)
  await failure(t, draw(engine, { prompt: 'throw' }), 'generation_failed', /something broke/)
  await failure(t, engine.run('unload', {}), 'unsupported', /'unload'/)
})

t.test('restarts with growing delays', async (t) => {
  const begins: number[] = []
  const logger = silentLogger({ error: () => begins.push(performance.now()) })
  const engine = make(t, 'brief', { firstBackoff: 100, longestBackoff: 400, logger })
  await engine.start()
  t.ok(await until(() => engine.status.state === 'backing_off'))
  t.ok(await until(() => begins.length === 6, 20_000))
  const gaps = begins.slice(1).map((time, index) => time - begins[index]!)
  const least = [100, 200, 400, 400, 400]
  t.ok(gaps.every((gap, index) => gap > least[index]!), `${gaps}`)
  t.ok(engine.status.restarts >= 5)
  t.ok(await until(() => engine.status.state === 'backing_off'))
  const { restarts } = engine.status
  const waiting = failure(t, engine.start(), 'engine_unavailable', /stopped/)
  await engine.stop()
  await waiting
  await new Promise((resolve) => setTimeout(resolve, 500))
  t.match(engine.status, { state: 'stopped', pid: null, restarts }, 'and end with stop')
})

t.test('forgets crashes after a success', async (t) => {
  const engine = await started(t, { firstBackoff: 100, longestBackoff: 60_000 })
  for (let round = 0; round < 4; round++) {
    await failure(t, draw(engine, { prompt: 'exit code 3' }), 'engine_crashed')
    const begin = performance.now()
    await until(() => engine.status.state !== 'backing_off')
    t.ok(performance.now() - begin < 600, 'the fourth in a row would have cost 800')
    await draw(engine, { prompt: 'echo' })
  }
})

t.test('a process that is told to cancel', async (t) => {
  await t.test('and does not listen, is ended after the grace period', async (t) => {
    const engine = await started(t, { cancelGrace: 100 })
    for (const prompt of ['hang', 'deaf']) {
      const { pid, restarts } = engine.status
      const controller = new AbortController()
      setTimeout(() => controller.abort(), 100)
      await failure(t, draw(engine, { prompt }, { signal: controller.signal }), 'cancelled')
      t.notOk(isAlive(pid!), prompt)
      await draw(engine, { prompt: 'echo' })
      t.match(engine.status, { restarts: restarts + 1, last_crash: null }, 'which is no crash')
    }
  })

  await t.test('while it starts, is not bothered', async (t) => {
    const engine = make(t, 'well')
    const start = engine.start()
    const controller = new AbortController()
    const run = draw(engine, { prompt: 'deaf' }, { signal: controller.signal })
    controller.abort()
    await failure(t, run, 'cancelled')
    await start
    await draw(engine, { prompt: 'echo' })
    t.equal(engine.status.restarts, 0)
  })
})

t.test('a process that falls silent', async (t) => {
  const engine = await started(t, { silenceTimeout: 400, firstBackoff: 1 })
  await draw(engine, { prompt: 'slow' }) // 500 ms, but it talks
  const { pid } = engine.status
  await failure(t, draw(engine, { prompt: 'hang' }), 'engine_timeout', /0\.4 seconds/)
  t.notOk(isAlive(pid!))
  await failure(t, draw(engine, { prompt: 'hang' }, { silenceTimeout: 100 }), 'engine_timeout', /0\.1 seconds/)
  await draw(engine, { prompt: 'echo' })
})

t.test('does not blame the engine when this process was stopped', async (t) => {
  const engine = await started(t, { silenceTimeout: 400 })
  const { pid } = engine.status
  // A loop that is merely blocked reads before it looks at its timers, so it takes a real stop.
  const stopped = promisify(execFile)('sh', ['-c', 'sleep 0.1; kill -STOP "$0"; sleep 2; kill -CONT "$0"', String(process.pid)])
  const startedAt = performance.now()
  await draw(engine, { prompt: 'slow' })
  t.ok(performance.now() - startedAt > 1500, 'it stood still in the middle of it')
  t.equal(engine.status.pid, pid)
  await stopped
})

t.test('fails the operation with the error of an observer', async (t) => {
  const engine = await started(t)
  const error = new Error('the disk is full')
  const progress = (): void => { throw error }
  await t.rejects(draw(engine, { prompt: 'two steps' }, { progress }), error)
  await draw(engine, { prompt: 'echo' })
})

t.test('does not report progress that goes back', async (t) => {
  const { progress } = await draw(await started(t), { prompt: 'two steps' })
  t.same(progress.map(({ phase, step }) => [phase, step]), [['sampling', 1], ['decoding', 0], ['decoding', 1]])
})

t.test('passes images unchanged', async (t) => {
  const engine = await started(t)
  const large = Buffer.concat([
    emptyPng(2048, 1024), Buffer.from(Array.from({ length: 5_000_000 }, (_, index) => index * 7))
  ])
  const attachments = { init_image: large, mask: emptyPng(2048, 1024) }
  const { images } = await draw(engine, { prompt: 'echo', width: 2048, height: 1024, batch_count: 2 }, { attachments })
  t.equal(images.length, 2)
  Object.values(attachments).forEach((bytes, index) => t.ok(bytes.equals(images[index]!.png)))
  await failure(t, draw(engine, { prompt: 'x'.repeat(maximumJson) }), 'invalid_parameters', /too large/)
  const tooLarge = { init_image: Buffer.alloc(maximumBytes + 1) }
  await failure(t, draw(engine, { prompt: 'echo' }, { attachments: tooLarge }), 'invalid_parameters', /too large/)
  await draw(engine, { prompt: 'echo' })
  t.equal(engine.status.restarts, 0)
})

t.test('bounds output in pipe and memory', async (t) => {
  const engine = await started(t)
  await draw(engine, { prompt: 'loud' })
  const tail = new OutputTail()
  tail.add(Buffer.from('first\nsec'))
  tail.add(Buffer.from('ond\r\n\n  |===>   | 1/2\r  |======>| 2/2\rlast'))
  t.same(tail.lines, ['first', 'second', '|===>   | 1/2', '|======>| 2/2', 'last'])
  t.equal(tail.crashReason, undefined)
  tail.add(Buffer.from("\nterminate called after throwing 'std::bad_alloc'\n"))
  t.match(tail.crashReason, /bad_alloc/)
  tail.add(Buffer.from('/build/src/ops.cpp:136: unsupported types\n\n'))
  t.equal(tail.crashReason, 'ops.cpp:136: unsupported types')
  for (let n = 0; n < 1000; n++) tail.add(Buffer.from(`${n} ${'x'.repeat(10_000)}\n`))
  t.ok(tail.lines.join('').length < 50_000)
  t.match(tail.lines.at(-1), /^999 x/)
})

t.test('the surroundings of the process', async (t) => {
  const words: string[] = []
  process.env.SDREST_JWT_SECRET = 'do not tell'
  process.env.CUDA_VISIBLE_DEVICES = ''
  t.teardown(() => {
    delete process.env.SDREST_JWT_SECRET
    delete process.env.CUDA_VISIBLE_DEVICES
  })
  const engine = await started(t, { logger: silentLogger({ warn: (_details, text) => words.push(text) }) })
  await draw(engine, { prompt: 'environment' })
  const environment = JSON.parse(words[0]!) as object
  t.match(environment, { PATH: process.env.PATH, GGML_NO_BACKTRACE: '1', CUDA_VISIBLE_DEVICES: '', ours: [], secret: false })
  const secrets = { NODE_OPTIONS: '--inspect', AWS_SECRET_ACCESS_KEY: 'x', SDREST_X: '' }
  t.same(engineEnvironment(secrets), { GGML_NO_BACKTRACE: '1' })
  const { pid } = engine.status
  t.ok(getPriority(pid!) >= constants.priority.PRIORITY_BELOW_NORMAL, 'polite')
  if (process.platform === 'linux') t.equal(readFileSync(`/proc/${pid}/oom_score_adj`, 'utf8').trim(), '500')
})

function silentLogger (parts: Partial<Logger>): Logger {
  return { debug: () => {}, info: () => {}, warn: () => {}, error: () => {}, ...parts }
}
