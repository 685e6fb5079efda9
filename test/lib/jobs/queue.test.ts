import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { apiError } from '../../../errors.ts'
import { SqliteJobStore } from '../../../lib/jobs/store/sqlite/sqlite-job-store.ts'
import type { WaitOptions } from '../../../lib/jobs/schedule/engine-tasks.ts'
import type { Job, JobEvent, NewJob } from '../../../lib/jobs/job.ts'
import { drawingExecutors } from '../../../lib/generation/run/drawing.ts'
import { JobQueue, type JobQueueOptions } from '../../../lib/jobs/queue.ts'
import { ScriptedEngine } from './fixtures/scripted-engine.ts'
import { until } from './fixtures/until.ts'

const logger = { debug () {}, info () {}, warn () {}, error () {} }

interface Open {
  queue: JobQueue
  engine: ScriptedEngine
  dataDir: string
}

/** A queue that is not started yet. */
function open (t: Test, options: Partial<JobQueueOptions> = {}): Open {
  // Before the folder is made: tap deletes it ahead of the teardowns that were registered later.
  const queues: JobQueue[] = []
  t.teardown(() => queues[0]?.close())
  const engine = new ScriptedEngine()
  const dataDir = options.dataDir ?? t.testdir({})
  const queue = new JobQueue({
    dataDir,
    devices: [{ name: 'auto', engine }],
    logger,
    executors: drawingExecutors((job, attachments) => ({
      files: { model: job.model },
      options: {},
      parameters: { prompt: '', width: 1, height: 1, seed: 0, ...job.parameters },
      attachments
    })),
    backOff: 20,
    ...options
  })
  queues.push(queue)
  return { queue, engine, dataDir }
}

async function opened (t: Test, options: Partial<JobQueueOptions> = {}): Promise<Open> {
  const all = open(t, options)
  await all.queue.start()
  return all
}

function request (prompt: string, more: Partial<NewJob> = {}): NewJob {
  return {
    type: 'txt2img', owner: 'ann', model: 'checkpoint/a', parameters: { prompt, width: 3, height: 2, steps: 2 }, ...more
  }
}

/** A step of an engine that goes on when it is told to. */
function hold () {
  let release = () => {}
  const held = new Promise<void>(resolve => { release = resolve })
  return { step: { hold: held }, release }
}

const ended = (queue: JobQueue, { id }: Job) => queue.waitFor(id, 10_000)

t.test('a job is accepted, drawn and delivered', async t => {
  const { queue, engine } = open(t)
  const job = await queue.submit(request('a cat'))
  t.match(job, { status: 'queued', position: 1, owner: 'ann', attempts: 0, images: [], error: null, progress: null })
  await queue.start()
  const events: JobEvent[] = []
  for await (const event of await queue.subscribe(job.id)) events.push(event)
  t.match(events.at(-1), { name: 'done', data: { id: job.id, status: 'completed' } })
  t.ok(events.some(({ name }) => name === 'progress') && events.some(({ name }) => name === 'preview'))

  const finished = await queue.get(job.id)
  t.match(finished, {
    status: 'completed',
    attempts: 1,
    images: [{ index: 0, url: `/api/queue/job/${job.id}/images/0`, width: 3, height: 2, seed: job.parameters['seed'] }]
  })
  const image = await queue.openImage(finished, 0)
  const bytes = await image.bytes()
  t.equal(image.size, bytes.length)
  t.equal(finished.images[0]!.bytes, bytes.length)
  t.ok(bytes.includes('parameters\0a cat\nSteps: 2, '))
  await t.rejects(queue.openImage(finished, 1), { code: 'SDR_IMAGE_NOT_FOUND' })
  t.match(await queue.status(), {
    queued: 0, running: 0, completed: 1, capacity: 1000, scheduler: { state: 'idle', loaded_model: 'checkpoint/a' }
  })
  t.match(engine.calls, [
    { operation: 'load', parameters: { files: { model: 'checkpoint/a' }, options: {} } },
    { operation: 'generate', parameters: { prompt: 'a cat', seed: job.parameters['seed'] } }
  ])
})

t.test('a seed is chosen unless there is one', async t => {
  const { queue } = open(t)
  const seeds = []
  for (const seed of [undefined, null, -1]) {
    const { parameters } = await queue.submit(request('x', { parameters: { prompt: 'x', seed } }))
    seeds.push(parameters['seed'] as number)
  }
  t.ok(seeds.every(seed => Number.isInteger(seed) && seed >= 0 && seed < 2 ** 31))
  t.equal(new Set(seeds).size, 3)
  t.equal((await queue.submit(request('x', { parameters: { seed: 0 } }))).parameters['seed'], 0)
  t.notOk('seed' in (await queue.submit(request('x', { type: 'upscale', parameters: { repeats: 1 } }))).parameters)
})

t.test('what a job must not be', async t => {
  const { queue, dataDir } = open(t)
  const bad: Array<Partial<NewJob>> = [
    { type: 'txt3img' as 'txt2img' }, { owner: '' }, { model: 'x'.repeat(1025) },
    { priority: 11 }, { priority: 0.5 }, { priority: NaN }, { idempotencyKey: '' }, { idempotencyKey: 'x'.repeat(256) }
  ]
  for (const more of bad) {
    await t.rejects(queue.submit(request('x', more)), { code: 'SDR_INVALID_REQUEST', message: /^Expected that / })
  }
  const byte = Buffer.from('x')
  await t.rejects(queue.submit(request('x'), { '../x': byte }), { code: 'SDR_INVALID_REQUEST' })
  const many = Object.fromEntries(Array.from({ length: 17 }, (_, index) => [`ref_images.${index}`, byte]))
  await t.rejects(queue.submit(request('x'), many), { code: 'SDR_INVALID_REQUEST', message: /at most 16 images/ })
  await t.rejects(queue.submit(request('x'.repeat(256 * 1024))), { code: 'SDR_BODY_TOO_LARGE' })
  const large = Buffer.alloc(64 * 1024 * 1024 + 1)
  await t.rejects(queue.submit(request('x'), { init_image: large, mask: large }), { code: 'SDR_BODY_TOO_LARGE' })
  t.equal((await queue.status()).queued, 0)
  t.notOk(existsSync(join(dataDir, 'inputs')))
})

t.test("somebody else's job does not exist", async t => {
  const { queue } = await opened(t)
  const job = await ended(queue, await queue.submit(request('x')))
  const owner = 'bob'
  for (const { id } of [job, { id: 'unknown' }]) {
    await t.rejects(queue.get(id, { owner }), { code: 'SDR_JOB_NOT_FOUND', statusCode: 404 })
    await t.rejects(queue.subscribe(id, { owner }), { code: 'SDR_JOB_NOT_FOUND' })
    await t.rejects(queue.cancel(id, { owner }), { code: 'SDR_JOB_NOT_FOUND' })
    await t.rejects(queue.waitFor(id, 1, { owner }), { code: 'SDR_JOB_NOT_FOUND' })
  }
  t.same(await queue.list({ owner }), { jobs: [], next_cursor: null })
  t.match(await queue.get(job.id, { owner: 'ann' }), { id: job.id })
  t.same((await queue.list({ owner: 'ann' })).jobs, [job])
})

t.test('a crash of the engine is tried once more', async t => {
  const { queue, engine } = open(t)
  engine.script.generate = [{ fail: 'engine_crashed' }]
  const crashes = await queue.submit(request('crashes once'))
  const next = await queue.submit(request('next'))
  await queue.start()
  t.match(await ended(queue, crashes), { status: 'completed', attempts: 2, error: null })
  t.match(await ended(queue, next), { status: 'completed', attempts: 1 })
  t.same(engine.prompts, ['crashes once', 'crashes once', 'next'], 'at once, before the others')
  t.equal(engine.loads.length, 2, 'the model was gone with the engine')
})

t.test('the second crash fails the job and nothing else', async t => {
  const { queue, engine } = open(t)
  engine.script.generate = [
    { fail: 'engine_timeout' },
    { fail: 'engine_crashed', message: 'GGML_ASSERT(n > 0) failed' }
  ]
  const poison = await queue.submit(request('poison'), { init_image: Buffer.from('x') })
  const next = await queue.submit(request('next'))
  await queue.start()
  t.match(await ended(queue, poison), {
    status: 'failed', attempts: 2, images: [], error: { code: 'engine_crashed', message: 'GGML_ASSERT(n > 0) failed' }
  })
  t.match(await ended(queue, next), { status: 'completed' })
})

t.test('every other failure is final, and the next job runs', async t => {
  const { queue, engine } = open(t, {
    executors: drawingExecutors(job => {
      if (job.model === 'checkpoint/gone') throw apiError('SDR_MODEL_NOT_FOUND', 'It was deleted.')
      if (job.model === 'checkpoint/odd') throw null // eslint-disable-line no-throw-literal
      if (job.model === 'checkpoint/bug') throw new TypeError('secret path')
      const parameters = { prompt: '', width: 1, height: 1, seed: 0, ...job.parameters }
      return { files: { model: job.model }, options: {}, parameters, attachments: {} }
    })
  })
  engine.script.load = [{ fail: 'model_load_failed', message: 'wrong magic' }]
  engine.script.generate = [
    { fail: 'generation_failed' }, { fail: 'invalid_parameters' }, { fail: 'cancelled' }, 'no image', 'garbage'
  ]
  const expected: Array<[string, object]> = [
    ['checkpoint/a', { code: 'model_load_failed', message: 'wrong magic' }],
    ['checkpoint/a', { code: 'generation_failed' }],
    ['checkpoint/a', { code: 'invalid_parameters' }],
    ['checkpoint/a', { code: 'cancelled' }],
    ['checkpoint/a', { code: 'generation_failed', message: /0 of 1 images/ }],
    ['checkpoint/a', { code: 'generation_failed', message: /damaged image: Expected a PNG image/ }],
    ['checkpoint/gone', { code: 'model_not_found', message: 'It was deleted.' }],
    ['checkpoint/odd', { code: 'internal' }],
    ['checkpoint/bug', { code: 'internal', message: 'The server failed to do this job; its log says why.' }]
  ]
  await queue.start()
  for (const [model, error] of expected) {
    const job = await ended(queue, await queue.submit(request('x', { model })))
    t.match(job, { status: 'failed', attempts: 1, images: [], error }, JSON.stringify(error))
  }
  t.equal(engine.loads.length, 2, 'loaded again after the load that failed, and only then')
  t.match(await ended(queue, await queue.submit(request('x'))), { status: 'completed' })
})

t.test('models are swapped as seldom as the limit allows', async t => {
  const { queue, engine } = open(t, { overtakeLimit: 3 })
  const jobs = []
  for (const model of ['a', 'b', 'a', 'b', 'a', 'b', 'a', 'b', 'a']) {
    jobs.push(await queue.submit(request(`${model}${jobs.length}`, { model })))
  }
  await queue.start()
  for (const job of jobs) await ended(queue, job)
  t.same(engine.prompts, ['a0', 'a2', 'a4', 'a6', 'b1', 'b3', 'b5', 'b7', 'a8'])
  t.same(engine.loads, ['a', 'b', 'a'])
})

t.test('an engine that started anew has no model', async t => {
  const { queue, engine } = await opened(t)
  await ended(queue, await queue.submit(request('x')))
  await ended(queue, await queue.submit(request('x')))
  t.equal(engine.loads.length, 1)
  await engine.stop()
  t.equal((await queue.status()).scheduler.loaded_model, null)
  await ended(queue, await queue.submit(request('x')))
  t.equal(engine.generation, 2)
  t.equal(engine.loads.length, 2)
})

t.test('a model can be loaded and unloaded between jobs', async t => {
  const { queue, engine } = await opened(t)
  const held = hold()
  engine.script.generate = [held.step]
  const job = await queue.submit(request('x'))
  await until(async () => (await queue.status()).running === 1)
  const loading = queue.loadModel('checkpoint/b', async () => ({ files: { model: 'checkpoint/b' }, options: {} }))
  const next = await queue.submit(request('y', { model: 'checkpoint/b' }))
  held.release()
  await loading
  t.equal((await queue.get(job.id)).status, 'completed')
  await ended(queue, next)
  t.same(engine.loads, ['checkpoint/a', 'checkpoint/b'])
  await queue.unloadModel()
  await queue.unloadModel()
  t.equal(engine.calls.filter(({ operation }) => operation === 'unload').length, 1)
  t.equal((await queue.status()).scheduler.loaded_model, null)

  engine.script.load = [{ fail: 'model_load_failed' }]
  await t.rejects(queue.loadModel('checkpoint/c', async () => ({ files: { model: 'c' }, options: {} })), { code: 'model_load_failed' })
  await queue.drain(1000)
  await t.rejects(queue.unloadModel(), { code: 'SDR_DRAINING' })
})

t.test('who waited in vain to load or unload a model can be sure that it is never done', async t => {
  const { queue, engine } = await opened(t)
  const held = hold()
  engine.script.generate = [held.step]
  const job = await queue.submit(request('x'))
  await until(async () => (await queue.status()).running === 1)
  const load = (model: string, wait: WaitOptions) =>
    queue.loadModel(model, async () => ({ files: { model }, options: {} }), undefined, wait)
  const inVain = { code: 'SDR_UNAVAILABLE', statusCode: 503, retryAfter: 30, message: /within 0.05 s .* a job is running/ }
  const gone = new AbortController()
  const attempts = [
    t.rejects(load('checkpoint/late', { timeout: 50 }), inVain),
    t.rejects(queue.unloadModel(undefined, { timeout: 50 }), inVain),
    t.rejects(load('checkpoint/gone', { signal: gone.signal }), { name: 'AbortError' }),
    t.rejects(load('checkpoint/gone before', { signal: AbortSignal.abort() }), { name: 'AbortError' })
  ]
  const patient = load('checkpoint/b', { timeout: 20_000, signal: new AbortController().signal })
  gone.abort()
  await Promise.all(attempts)
  t.same((await queue.get(job.id)).status, 'running', 'the job did not notice')
  held.release()
  await patient
  t.match(await ended(queue, await queue.submit(request('y', { model: 'checkpoint/b' }))), { status: 'completed' })
  t.same(engine.loads, ['checkpoint/a', 'checkpoint/b'])
  t.notOk(engine.calls.some(({ operation }) => operation === 'unload'))

  const slow = hold()
  engine.script.load = [slow.step]
  const late = new AbortController()
  const loading = load('checkpoint/c', { timeout: 30, signal: late.signal })
  await until(() => engine.loads.includes('checkpoint/c'))
  await delay(60)
  late.abort()
  slow.release()
  await loading
  t.equal((await queue.status()).scheduler.loaded_model, 'checkpoint/c', 'what has begun takes its time')

  const starting = hold()
  await engine.stop()
  engine.script.start = [starting.step]
  await t.rejects(load('checkpoint/d', { timeout: 20 }), { code: 'SDR_UNAVAILABLE', message: /the engine is not ready/ }, 'waiting for the engine counts')
  starting.release()
  t.match(await ended(queue, await queue.submit(request('z'))), { status: 'completed' })
  t.notOk(engine.loads.includes('checkpoint/d'))
})

t.test('attachments reach the engine and go when the job has ended', async t => {
  const { queue, engine, dataDir } = open(t)
  const inputs = join(dataDir, 'inputs')
  const image = Buffer.from('an image')
  const job = await queue.submit(request('x', { type: 'upscale', parameters: { repeats: 2 } }), { init_image: image })
  const unwanted = await queue.submit(request('x'), { init_image: image })
  t.same(readdirSync(inputs).sort(), [job.id, unwanted.id].sort())
  await queue.cancel(unwanted.id)
  t.same(readdirSync(inputs), [job.id])
  await queue.start()
  t.match(await ended(queue, job), { status: 'completed' })
  t.match(engine.calls.at(-1), { operation: 'upscale', parameters: { repeats: 2 }, attachments: { init_image: image } })
  t.same(readdirSync(inputs), [])
})

t.test('cancelling', async t => {
  const { queue, engine, dataDir } = await opened(t)
  const held = hold()
  engine.script.generate = [held.step]
  const running = await queue.submit(request('runs'))
  const waiting = await queue.submit(request('waits'))
  const third = await queue.submit(request('third'))
  await until(() => engine.prompts.length === 1)

  const events = await queue.subscribe(waiting.id)
  t.match(await queue.cancel(waiting.id, { owner: 'ann' }), { status: 'cancelled', attempts: 0, position: null })
  await events.next()
  t.match(await events.next(), { value: { name: 'done', data: { status: 'cancelled' } } })
  t.equal((await queue.get(third.id)).position, 1)

  t.match(await queue.cancel(running.id), { status: 'running' })
  t.match(await ended(queue, running), { status: 'cancelled', images: [], error: null })
  t.match(await ended(queue, third), { status: 'completed' })
  for (const { id, status } of [await queue.get(running.id), await queue.get(waiting.id), await queue.get(third.id)]) {
    await t.rejects(queue.cancel(id), { code: 'SDR_JOB_NOT_CANCELLABLE', statusCode: 409, message: new RegExp(status) })
  }
  t.same(engine.prompts, ['runs', 'third'])
  t.equal(readdirSync(join(dataDir, 'outputs')).length, 1)
})

t.test('a cancel that comes too late for the engine counts all the same', async t => {
  const { queue, engine } = await opened(t)
  let cancelled: Promise<Job> | undefined
  engine.onImage = () => { cancelled = queue.list().then(async ({ jobs }) => queue.cancel(jobs[0]!.id)) }
  const job = await ended(queue, await queue.submit(request('x')))
  t.match(await cancelled, { status: 'running' })
  t.match(job, { status: 'cancelled', images: [] })
})

t.test('draining lets the running job finish', async t => {
  const { queue, engine } = await opened(t)
  const held = hold()
  engine.script.generate = [held.step]
  const running = await queue.submit(request('runs'))
  const waiting = await queue.submit(request('waits'))
  await until(() => engine.prompts.length === 1)
  const draining = queue.drain(10_000)
  t.equal((await queue.status()).scheduler.state, 'draining')
  await t.rejects(queue.submit(request('late')), { code: 'SDR_DRAINING', statusCode: 503 })
  held.release()
  await draining
  t.match(await queue.get(running.id), { status: 'completed' })
  t.match(await queue.get(waiting.id), { status: 'queued', position: 1 })
  t.equal((await queue.status()).scheduler.state, 'stopped')
})

t.test('draining gives back what takes too long, and the next server does it', async t => {
  const first = await opened(t)
  first.engine.script.generate = [hold().step]
  const running = await first.queue.submit(request('runs'), { init_image: Buffer.from('x') })
  const waiting = await first.queue.submit(request('waits', { owner: 'bob' }))
  await until(() => first.engine.prompts.length === 1)
  await first.queue.drain(20)
  t.match(await first.queue.get(running.id), { status: 'queued', attempts: 0, position: 1, started_at: null })
  await first.queue.close()
  await first.queue.close()

  const { queue, engine } = await opened(t, { dataDir: first.dataDir })
  t.match(await ended(queue, running), { status: 'completed', attempts: 1 })
  t.match(await ended(queue, waiting), { status: 'completed', attempts: 1 })
  t.same(engine.prompts, ['runs', 'waits'])
  t.match(engine.calls[1]?.attachments, { init_image: Buffer.from('x') })
})

t.test('a cancelled job does not come back because the server stops', async t => {
  const { queue, engine } = await opened(t)
  engine.script.generate = [hold().step]
  const job = await queue.submit(request('x'))
  await until(() => engine.prompts.length === 1)
  const draining = queue.drain(0)
  await queue.cancel(job.id)
  await draining
  t.match(await queue.get(job.id), { status: 'cancelled' })
})

t.test('a job can still be cancelled while the server stops', async t => {
  const { queue, engine } = await opened(t)
  const held = hold()
  engine.ignoresAborts = true
  engine.script.generate = [held.step]
  const job = await queue.submit(request('x'))
  await until(() => engine.prompts.length === 1)
  const draining = queue.drain(0)
  await delay(50)
  await queue.cancel(job.id)
  held.release()
  await draining
  t.match(await queue.get(job.id), { status: 'cancelled' })
})

t.test('what a killed server was doing is done again', async t => {
  const { queue: first, dataDir } = open(t)
  const once = await first.submit(request('once'), { init_image: Buffer.from('x') })
  const twice = await first.submit(request('twice'), { init_image: Buffer.from('x') })
  const cancelled = await first.submit(request('cancelled'))
  const waiting = await first.submit(request('waits'), { init_image: Buffer.from('x') })
  await first.close()
  // What a scheduler does until the moment at which its process dies.
  const store = new SqliteJobStore(join(dataDir, 'jobs.db'))
  for (let job = 0; job < 3; job++) await store.claim({ lane: 'engine' })
  for (let death = 1; death < 5; death++) {
    await store.recover()
    for (const { id } of [once, twice, cancelled]) t.match(await store.claim({ lane: 'engine' }), { id })
    if (death < 4) for (const { id } of [once, cancelled]) await store.giveBack(id)
  }
  await store.cancel(cancelled.id)
  await store.close()

  const { queue, engine } = await opened(t, { dataDir })
  t.same(readdirSync(join(dataDir, 'inputs')).sort(), [once.id, waiting.id].sort())
  t.match(await queue.get(twice.id), { status: 'failed', attempts: 5, error: { code: 'server_crashed' } })
  t.match(await queue.get(cancelled.id), { status: 'cancelled' })
  t.match(await ended(queue, once), { status: 'completed', attempts: 3 })
  t.match(await ended(queue, waiting), { status: 'completed', attempts: 1 })
  t.same(engine.prompts, ['once', 'waits'])
})

t.test('jobs wait for an engine that cannot be started, and say why', async t => {
  const log: string[] = []
  const { queue, engine } = open(t, { logger: { ...logger, error: (_details, message) => { log.push(message) } } })
  engine.script.start = Array(3).fill({ fail: 'engine_unavailable', message: 'libcuda.so.1: not found' })
  engine.script.generate = [{ fail: 'engine_unavailable', message: 'gone again' }]
  const job = await queue.submit(request('x'))
  await queue.start()
  await until(async () => (await queue.status()).scheduler.blocked !== null)
  const { state, blocked } = (await queue.status()).scheduler
  t.equal(state, 'blocked')
  t.equal(blocked?.reason, 'libcuda.so.1: not found')
  t.ok(Date.parse(blocked!.retry_at!) > Date.now() - 1000)
  t.match(await queue.get(job.id), { status: 'queued', attempts: 0, position: 1 })
  t.match(await ended(queue, job), { status: 'completed', attempts: 1 })
  t.same(log, [...Array(3).fill('Jobs have to wait: libcuda.so.1: not found'), 'Jobs have to wait: gone again'])
  await until(async () => (await queue.status()).scheduler.state === 'idle')
  t.equal((await queue.status()).scheduler.blocked, null)
})

t.test('while a crashed engine waits for its restart the status says why jobs wait', async t => {
  const { queue, engine } = open(t)
  await queue.submit(request('x'))
  t.match((await queue.status()).scheduler, { blocked: null })
  engine.state = 'backing_off'
  t.match((await queue.status()).scheduler.blocked, { reason: /^The engine crashed and is about to be started again\./, retry_at: null })
  engine.state = 'stopped'
  await queue.start()
  await until(async () => (await queue.status()).completed === 1)
  engine.state = 'backing_off'
  t.match((await queue.status()).scheduler, { state: 'idle', blocked: null }, 'no job waits')
})

t.test('draining ends a wait for the engine', async t => {
  const { queue, engine } = open(t, { backOff: 60_000 })
  engine.script.start = [{ fail: 'engine_unavailable' }]
  const job = await queue.submit(request('x'))
  await queue.start()
  await until(async () => (await queue.status()).scheduler.blocked !== null)
  await queue.drain(5000)
  t.match(await queue.get(job.id), { status: 'queued', attempts: 0 })
  t.equal((await queue.status()).scheduler.state, 'stopped')
})

t.test('how far a job is', async t => {
  const { queue, engine } = await opened(t)
  engine.steps = 4
  const first = hold()
  engine.script.generate = [first.step]
  const job = await queue.submit(request('x', { parameters: { prompt: 'x', width: 3, height: 2, steps: 4 } }))
  await until(async () => (await queue.get(job.id)).progress !== null && engine.prompts.length === 1)
  const progress = { phase: 'sampling', step: 0, steps: 4, eta_seconds: null }
  t.same((await queue.get(job.id)).progress, progress)
  t.same((await queue.list()).jobs[0]?.progress, progress)
  await delay(40)
  first.release()
  t.equal((await ended(queue, job)).progress, null)

  const second = hold()
  engine.script.generate = [second.step]
  const again = await queue.submit(request('x', { parameters: { prompt: 'x', width: 3, height: 2, steps: 4 } }))
  await until(() => engine.prompts.length === 2)
  const { eta_seconds: eta } = (await queue.get(again.id)).progress!
  t.ok(eta !== null && eta >= 0 && eta < 10, `${eta} seconds left`)
  second.release()
})

t.test('waiting for a job', async t => {
  const { queue, engine } = open(t, { maxStreams: 1, maxWaits: 1 })
  const job = await queue.submit(request('x'))
  const start = Date.now()
  t.match(await queue.waitFor(job.id, 50), { status: 'queued' })
  t.ok(Date.now() - start >= 45)
  t.match(await queue.waitFor(job.id, 60_000, { signal: AbortSignal.timeout(10) }), { status: 'queued' })
  const held = hold()
  engine.script.generate = [held.step]
  await queue.start()
  const waiting = queue.waitFor(job.id, 60_000, { owner: 'ann' })
  const events = await queue.subscribe(job.id, { caller: 'bob' })
  t.match(await queue.waitFor(job.id, 60_000), { id: job.id }, 'with too many waiting the answer comes at once')
  held.release()
  t.match(await waiting, { status: 'completed' })
  events.end()
  t.match(await queue.waitFor(job.id, 0), { status: 'completed' })
})

t.test('who follows a waiting job is told when it moves up', async t => {
  const { queue, engine } = await opened(t)
  const held = hold()
  engine.script.generate = [held.step]
  await queue.submit(request('runs'))
  await until(() => engine.prompts.length === 1)
  const second = await queue.submit(request('second'))
  const third = await queue.submit(request('third'))
  const events = await queue.subscribe(third.id)
  t.match(await events.next(), { value: { name: 'state', data: { position: 2 } } })
  await queue.cancel(second.id)
  const next = await Promise.race([events.next(), queue.waitFor(third.id, 10_000)])
  t.match(next, { value: { name: 'state', data: { position: 1 } } })
  held.release()
})

t.test('the same request twice', async t => {
  const { queue, dataDir } = open(t, { capacity: 2 })
  const key = { idempotencyKey: 'k' }
  const image = { init_image: Buffer.from('x') }
  const submit = () => queue.submit(request('x', key), image)
  const [job, same] = await Promise.all([submit(), submit()])
  t.same(same, job)
  t.equal((await queue.status()).queued, 1)
  t.same(readdirSync(join(dataDir, 'inputs')), [job!.id])

  const reordered = { steps: 2, height: 2, width: 3, prompt: 'x' }
  t.same(await queue.submit(request('x', { ...key, parameters: reordered }), image), job, 'in whatever order')
  const conflicts: Array<[Partial<NewJob>, Record<string, Buffer>]> = [
    [{ parameters: { prompt: 'y' } }, image], [{ model: 'checkpoint/b' }, image], [{ type: 'img2img' }, image],
    [{ priority: 1 }, image], [{}, {}], [{}, { init_image: Buffer.from('y') }], [{}, { mask: Buffer.from('x') }]
  ]
  for (const [more, attachments] of conflicts) {
    await t.rejects(queue.submit(request('x', { ...key, ...more }), attachments), { code: 'SDR_IDEMPOTENCY_CONFLICT' })
  }
  const sent = { request: { prompt: 'z' }, idempotencyKey: 'sent' }
  const first = await queue.submit(request('z', { ...sent, model: 'checkpoint/default' }))
  t.equal((await queue.submit(request('z', { ...sent, model: 'checkpoint/other default' }))).id, first.id)

  await t.rejects(queue.submit(request('y')), { code: 'SDR_QUEUE_FULL' })
  t.equal((await queue.submit(request('x', key), image)).id, job!.id, 'a retry finds its job in a full queue')
  await queue.drain(1000)
  t.equal((await queue.submit(request('x', key), image)).id, job!.id, 'and while the server stops')
})

t.test('old jobs go with their images', async t => {
  const { queue, dataDir } = await opened(t, { keepJobs: 2 })
  const jobs = []
  for (const prompt of ['a', 'b', 'c', 'd']) jobs.push(await ended(queue, await queue.submit(request(prompt))))
  await until(async () => (await queue.status()).completed === 2)
  t.same((await queue.list()).jobs.map(({ id }) => id), [jobs[3]!.id, jobs[2]!.id])
  const [day] = readdirSync(join(dataDir, 'outputs'))
  await until(() => readdirSync(join(dataDir, 'outputs', day!)).length === 2)
  t.same(readdirSync(join(dataDir, 'outputs', day!)).sort(), [jobs[2]!.id, jobs[3]!.id].sort())
  await queue.close()

  const nextMonth = Date.now() + 31 * 24 * 60 * 60 * 1000
  const later = await opened(t, { dataDir, now: () => nextMonth })
  await until(() => readdirSync(join(dataDir, 'outputs')).length === 0)
  t.equal((await later.queue.status()).completed, 0)
})

t.test('images that take too much room go, and their jobs stay', async t => {
  const { queue, dataDir } = await opened(t, { keepBytesPerOwner: 250, keepBytes: 350 })
  const draw = async (owner: string) => await ended(queue, await queue.submit(request('x', { owner })))
  const size = (await draw('ann')).images[0]!.bytes
  t.ok(size > 125 && size <= 175, `${size} bytes: two are too many for one owner, three for all`)
  const bobs = await draw('bob')
  const anns = await draw('ann')
  await until(async () => (await queue.list()).jobs.filter(({ images }) => images.length > 0).length === 2)
  t.same((await queue.list()).jobs.map(({ owner, images }) => [owner, images.length]), [['ann', 1], ['bob', 1], ['ann', 0]])
  const cids = await draw('cid')
  await until(async () => (await queue.get(bobs.id)).images.length === 0)
  t.same((await queue.list()).jobs.map(({ images }) => images.length), [1, 1, 0, 0])
  await t.rejects(queue.openImage(bobs, 0), { code: 'SDR_IMAGE_NOT_FOUND' })
  const [day] = readdirSync(join(dataDir, 'outputs'))
  await until(() => readdirSync(join(dataDir, 'outputs', day!)).length === 2)
  t.same(readdirSync(join(dataDir, 'outputs', day!)).sort(), [anns.id, cids.id].sort())
  await queue.close()

  // A crash between the database and the files leaves files that the next start deletes.
  const store = new SqliteJobStore(join(dataDir, 'jobs.db'))
  await store.retention.dropImages([anns.id])
  await store.close()
  const next = await opened(t, { dataDir, keepBytes: 1 })
  await until(() => readdirSync(join(dataDir, 'outputs', day!)).length === 1)
  t.same((await next.queue.get(cids.id)).images.length, 1, 'the newest one is kept whatever its size')
})

t.test('a clock that jumps loses neither jobs nor images', async t => {
  const year = 365 * 24 * 60 * 60 * 1000
  let now = Date.now()
  let uptime = 0
  const { queue, engine } = await opened(t, { now: () => now, uptime: () => uptime, keepDays: 30 })
  const before = await ended(queue, await queue.submit(request('before')))
  const held = hold()
  engine.script.generate = [held.step]
  const running = await queue.submit(request('running', { idempotencyKey: 'k' }))
  await until(() => engine.prompts.length === 2)
  const waiting = await queue.submit(request('waiting'))
  now += 10 * year
  const ahead = await queue.submit(request('ahead'))
  held.release()
  for (const job of [running, waiting, ahead]) t.match(await ended(queue, job), { status: 'completed', attempts: 1 })
  t.equal((await queue.get(before.id)).images.length, 1, 'ten years in one leap make nothing old')
  now -= 11 * year
  const behind = await queue.submit(request('behind'))
  t.match(await ended(queue, behind), { status: 'completed' })
  t.same((await queue.list()).jobs.map(({ parameters }) => parameters['prompt']), ['behind', 'ahead', 'waiting', 'running', 'before'])
  t.equal((await queue.submit(request('running', { idempotencyKey: 'k' }))).id, running.id)
  const again = await ended(queue, await queue.submit(request('again')))
  t.ok(Date.parse(again.finished_at!) < Date.parse(before.finished_at!))

  now += 12 * year
  uptime += 2 * 60 * 60 * 1000
  await ended(queue, await queue.submit(request('x')))
  t.equal((await queue.get(before.id)).images.length, 1, 'another leap')
  now += 2 * 60 * 60 * 1000
  uptime += 2 * 60 * 60 * 1000
  await ended(queue, await queue.submit(request('x')))
  await until(async () => (await queue.status()).completed === 2)
  await t.rejects(queue.get(before.id), { code: 'SDR_JOB_NOT_FOUND' }, 'a clock that was right for two hours is believed')
})

t.test('two servers cannot share a queue', async t => {
  const { dataDir } = await opened(t)
  t.throws(() => open(t, { dataDir }), { name: 'CommandError', exitCode: 4, message: /Another server/ })
})
