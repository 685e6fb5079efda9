import { execFile } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { constants, getPriority } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { engineEnvironment } from '../../../lib/engine/environment.ts'
import { OutputTail } from '../../../lib/engine/output-tail.ts'
import { EngineProcess, type EngineLogger, type EngineProcessOptions } from '../../../lib/engine/process.ts'
import { maximumBytes, maximumJson } from '../../../lib/engine/protocol.ts'
import { packageRoot } from '../../../lib/package-root.ts'
import { draw, failure, isAlive, until } from './helper.ts'

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

t.test('a process that does not start', async (t) => {
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

t.test('a process that does not keep to the protocol is killed, and replaced', async (t) => {
  const engine = await started(t, { firstBackoff: 1 })
  const sayings = {
    nonsense: /JSON; the most is/, // its first bytes are an absurd length
    'not json': /not JSON/,
    'no message': /unknown kind/,
    'half a message': /in the middle of a message/
  }
  for (const [prompt, reason] of Object.entries(sayings)) {
    const { pid } = engine.status
    await failure(t, draw(engine, { prompt }), 'engine_crashed', reason)
    t.ok(await until(() => !isAlive(pid!)))
    await draw(engine, { prompt: 'echo' })
    t.not(engine.status.pid, pid)
  }
  const { pid } = engine.status
  await draw(engine, { prompt: 'other id' })
  t.equal(engine.status.pid, pid, 'but a word about something else is no crime')
})

t.test('a crash says why', async (t) => {
  const engine = await started(t, { firstBackoff: 1 })
  const message = await failure(t, draw(engine, { prompt: 'abort with words' }), 'engine_crashed')
  t.match(message, /SIGABRT: ggml\.c:42: GGML_ASSERT\(a == b\) failed$/, 'without the folders of whoever built it')
  t.match(engine.status.last_crash, { reason: /GGML_ASSERT/, at: /Z$/ })
  await failure(t, draw(engine, { prompt: 'exit code 3' }), 'engine_crashed', /exit code 3/)
  await failure(t, draw(engine, { prompt: 'throw' }), 'generation_failed', /something broke/)
  await failure(t, engine.run('unload', {}), 'unsupported', /'unload'/)
})

t.test('restarts come less and less often', async (t) => {
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

t.test('work that succeeds makes up for crashes', async (t) => {
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

t.test('when it is this process that was stopped, the engine is not to blame', async (t) => {
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

t.test('an observer that fails ends the operation with its error', async (t) => {
  const engine = await started(t)
  const error = new Error('the disk is full')
  const progress = (): void => { throw error }
  await t.rejects(draw(engine, { prompt: 'two steps' }, { progress }), error)
  await draw(engine, { prompt: 'echo' })
})

t.test('progress that goes back is not told', async (t) => {
  const { progress } = await draw(await started(t), { prompt: 'two steps' })
  t.same(progress.map(({ phase, step }) => [phase, step]), [['sampling', 1], ['decoding', 0], ['decoding', 1]])
})

t.test('images pass through unchanged', async (t) => {
  const engine = await started(t)
  const large = Buffer.from(Array.from({ length: 5_000_000 }, (_, index) => index * 7))
  const attachments = { init_image: large, empty: Buffer.alloc(0), mask: Buffer.from('m') }
  const { images } = await draw(engine, { prompt: 'echo' }, { attachments })
  t.equal(images.length, 3)
  Object.values(attachments).forEach((bytes, index) => t.ok(bytes.equals(images[index]!.png)))
  await failure(t, draw(engine, { prompt: 'x'.repeat(maximumJson) }), 'invalid_parameters', /too large/)
  const tooLarge = { init_image: Buffer.alloc(maximumBytes + 1) }
  await failure(t, draw(engine, { prompt: 'echo' }, { attachments: tooLarge }), 'invalid_parameters', /too large/)
  await draw(engine, { prompt: 'echo' })
  t.equal(engine.status.restarts, 0)
})

t.test('output fills neither pipe nor memory', async (t) => {
  const engine = await started(t)
  await draw(engine, { prompt: 'loud' })
  const tail = new OutputTail()
  tail.add(Buffer.from('first\nsec'))
  tail.add(Buffer.from('ond\r\n\n  |===>   | 1/2\r  |======>| 2/2\rlast'))
  t.same(tail.lines, ['first', 'second', '|===>   | 1/2', '|======>| 2/2', 'last'])
  t.equal(tail.complaint, undefined)
  tail.add(Buffer.from("\nterminate called after throwing 'std::bad_alloc'\n"))
  t.match(tail.complaint, /bad_alloc/)
  tail.add(Buffer.from('/build/src/ops.cpp:136: unsupported types\n\n'))
  t.equal(tail.complaint, 'ops.cpp:136: unsupported types')
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
  const environment = JSON.parse(words[0]!) as Record<string, string>
  t.match(environment, { PATH: process.env.PATH, GGML_NO_BACKTRACE: '1', CUDA_VISIBLE_DEVICES: '' })
  t.notMatch(words[0], /do not tell/)
  const secrets = { NODE_OPTIONS: '--inspect', AWS_SECRET_ACCESS_KEY: 'x', SDREST_X: '' }
  t.same(engineEnvironment(secrets), { GGML_NO_BACKTRACE: '1' })
  const { pid } = engine.status
  t.ok(getPriority(pid!) >= constants.priority.PRIORITY_BELOW_NORMAL, 'polite')
  if (process.platform === 'linux') t.equal(readFileSync(`/proc/${pid}/oom_score_adj`, 'utf8').trim(), '500')
})

function silentLogger (parts: Partial<EngineLogger>): EngineLogger {
  return { debug: () => {}, info: () => {}, warn: () => {}, error: () => {}, ...parts }
}
