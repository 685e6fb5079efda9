import t, { type Test } from 'tap'
import type { Executor, ExecutorParts, Executors } from '../../../../lib/jobs/executor.ts'
import type { Job, JobType, NewJob } from '../../../../lib/jobs/job.ts'
import { drawingExecutors } from '../../../../lib/generation/run/drawing.ts'
import { JobQueue, type JobQueueOptions } from '../../../../lib/jobs/queue.ts'
import { ScriptedEngine, type Step } from '../fixtures/scripted-engine.ts'
import { until } from '../fixtures/until.ts'

const draw = drawingExecutors(({ model, parameters: { prompt } }, attachments, { name }) => ({
  files: { model },
  options: { device: name },
  parameters: { prompt: prompt as string, width: 1, height: 1, seed: 0 },
  attachments
}))

/** A queue with two devices. */
async function opened (t: Test, options: Partial<JobQueueOptions> = {}) {
  const queues: JobQueue[] = []
  t.teardown(() => queues[0]?.close())
  const engines = [new ScriptedEngine(), new ScriptedEngine()] as const
  const [a, b] = engines
  const queue = new JobQueue({
    dataDir: t.testdir({}),
    devices: [{ name: 'gpu0', engine: a }, { name: 'gpu1', engine: b }],
    logger: { debug () {}, info () {}, warn () {}, error () {} },
    executors: draw,
    backOff: 20,
    ...options
  })
  queues.push(queue)
  for (const engine of engines) await engine.start()
  await queue.start()
  return { queue, a, b }
}

function request (prompt: string, model = 'checkpoint/a', more: Partial<NewJob> = {}): NewJob {
  return { type: 'txt2img', owner: 'ann', model, parameters: { prompt }, ...more }
}

function hold () {
  let release = () => {}
  const held = new Promise<void>(resolve => { release = resolve })
  return { step: { hold: held }, release }
}

const ended = (queue: JobQueue, { id }: Job) => queue.waitFor(id, 10_000)
const lanes = async (queue: JobQueue) => (await queue.status()).scheduler.lanes

t.test('two devices work at once, and each keeps its model', async t => {
  const { queue, a, b } = await opened(t)
  const [first, second] = [hold(), hold()]
  a.script.generate = [first.step]
  b.script.generate = [second.step]
  const jobs = [await queue.submit(request('1')), await queue.submit(request('2', 'checkpoint/b'))]
  await until(() => a.prompts.length === 1 && b.prompts.length === 1)
  t.same(a.calls.map(({ parameters }) => (parameters as { options?: object }).options).at(0), { device: 'gpu0' })
  t.same(b.calls.map(({ parameters }) => (parameters as { options?: object }).options).at(0), { device: 'gpu1' })
  t.match(await queue.status(), {
    running: 2,
    scheduler: {
      state: 'running',
      job: jobs[0]!.id,
      loaded_model: 'checkpoint/a',
      lanes: [
        { lane: 'engine', device: 'gpu0', state: 'running', job: jobs[0]!.id, loaded_model: 'checkpoint/a' },
        { lane: 'engine', device: 'gpu1', state: 'running', job: jobs[1]!.id, loaded_model: 'checkpoint/b' },
        { lane: 'files', device: null, state: 'idle', job: null, loaded_model: null }
      ]
    }
  })
  t.same(queue.loadedModels, ['checkpoint/a', 'checkpoint/b'])
  t.match((await queue.get(jobs[1]!.id)).progress, { phase: 'sampling' }, 'each tells how far it is')

  const later = [
    await queue.submit(request('3', 'checkpoint/b')), await queue.submit(request('4', 'checkpoint/a')),
    await queue.submit(request('5', 'checkpoint/b')), await queue.submit(request('6', 'checkpoint/a'))
  ]
  t.same(later.map(({ position }) => position), [1, 2, 3, 4])
  first.release()
  second.release()
  for (const job of [...jobs, ...later]) t.match(await ended(queue, job), { status: 'completed', attempts: 1 })
  t.same(a.prompts.slice(0, 2), ['1', '4'], 'a job for its model comes first')
  t.match(b.prompts[1], /3|5/)
  t.same(new Set([...a.prompts, ...b.prompts]), new Set(['1', '2', '3', '4', '5', '6']))
})

t.test('a job goes where its model is, or where none is', async t => {
  const { queue, a, b } = await opened(t)
  for (const model of ['checkpoint/a', 'checkpoint/b', 'checkpoint/a', 'checkpoint/b', 'checkpoint/a']) {
    t.match(await ended(queue, await queue.submit(request('x', model))), { status: 'completed' })
  }
  t.same([...a.loads, ...b.loads].sort(), ['checkpoint/a', 'checkpoint/b'], 'nothing is loaded twice')
  t.equal(a.prompts.length + b.prompts.length, 5)
})

t.test('the model is loaded on both devices when its jobs would have to wait', async t => {
  const { queue, a, b } = await opened(t)
  const held = hold()
  a.script.generate = [held.step]
  b.script.generate = [held.step]
  const jobs = [await queue.submit(request('1')), await queue.submit(request('2'))]
  await until(() => a.prompts.length === 1 && b.prompts.length === 1)
  held.release()
  for (const job of jobs) t.match(await ended(queue, job), { status: 'completed' })
})

t.test('owners take turns over all devices', async t => {
  const { queue, a, b } = await opened(t)
  const [first, second] = [hold(), hold()]
  a.script.generate = [first.step]
  b.script.generate = [second.step]
  for (const prompt of ['a1', 'a2', 'a3', 'a4']) await queue.submit(request(prompt))
  const bob = await queue.submit(request('b1', 'checkpoint/a', { owner: 'bob' }))
  const positions = (await queue.list({ status: 'queued' })).jobs.map(({ parameters: { prompt }, position }) => [prompt, position])
  t.same(positions, [['b1', 1], ['a4', 3], ['a3', 2]])
  await until(() => a.prompts.length === 1 && b.prompts.length === 1)
  first.release()
  t.match(await ended(queue, bob), { status: 'completed' })
  second.release()
})

t.test('a device that cannot be used leaves its jobs to the other, and comes back', async t => {
  const { queue, a, b } = await opened(t)
  a.state = b.state = 'stopped'
  // Until both jobs are done, however long that takes: it would get one of them otherwise.
  a.script.start = Array(1000).fill({ fail: 'engine_unavailable', message: 'no such device' })
  const held = hold()
  b.script.generate = [held.step]
  const jobs = [await queue.submit(request('1')), await queue.submit(request('2'))]
  await until(async () => (await lanes(queue))[0]!.blocked !== null)
  t.match((await lanes(queue))[0], { state: 'blocked', blocked: { reason: 'no such device', retry_at: String } })
  t.match((await queue.status()).scheduler, { blocked: null }, 'jobs go on')
  held.release()
  for (const job of jobs) t.match(await ended(queue, job), { status: 'completed', attempts: 1 })
  t.equal(b.prompts.length, 2)
  a.script.start = []
  await until(async () => (await lanes(queue))[0]!.state === 'idle')
  const [first, second] = [hold(), hold()]
  a.script.generate = [first.step]
  b.script.generate = [second.step]
  const later = [await queue.submit(request('3')), await queue.submit(request('4'))]
  await until(() => a.prompts.length === 1)
  first.release()
  second.release()
  for (const job of later) t.match(await ended(queue, job), { status: 'completed', attempts: 1 })
})

t.test('a crash on one device gives the job to whoever is free', async t => {
  const { queue, a, b } = await opened(t)
  a.script.generate = [{ fail: 'engine_crashed', message: 'a assertion' }]
  const job = await ended(queue, await queue.submit(request('1')))
  t.match(job, { status: 'completed', attempts: 2 })
  t.equal(a.prompts.length + b.prompts.length, 2)
  const crashes: Step[] = Array(2).fill({ fail: 'engine_crashed', message: 'assertion' })
  a.script.generate = [...crashes]
  b.script.generate = [...crashes]
  const poison = await ended(queue, await queue.submit(request('2')))
  t.match(poison, { status: 'failed', attempts: 2, error: { code: 'engine_crashed', message: 'assertion' } })
})

t.test('cancel finds the device of the job', async t => {
  const { queue, a, b } = await opened(t)
  const [first, second] = [hold(), hold()]
  a.script.generate = [first.step]
  b.script.generate = [second.step]
  const jobs = [await queue.submit(request('1')), await queue.submit(request('2'))]
  await until(() => a.prompts.length === 1 && b.prompts.length === 1)
  await queue.cancel(jobs[1]!.id)
  t.match(await ended(queue, jobs[1]!), { status: 'cancelled' })
  t.equal((await queue.get(jobs[0]!.id)).status, 'running')
  first.release()
  t.match(await ended(queue, jobs[0]!), { status: 'completed' })
})

t.test('a drain waits for all devices; what is late goes back', async t => {
  const { queue, a, b } = await opened(t)
  const [first, second] = [hold(), hold()]
  a.script.generate = [first.step]
  b.script.generate = [second.step]
  const jobs = [await queue.submit(request('1')), await queue.submit(request('2'))]
  await until(() => a.prompts.length === 1 && b.prompts.length === 1)
  const drained = queue.drain(3000)
  first.release()
  t.match(await ended(queue, jobs[0]!), { status: 'completed' })
  await until(async () => (await lanes(queue))[0]!.state === 'stopped')
  t.equal((await queue.status()).scheduler.state, 'draining', 'the other one is not through')
  await drained
  t.match(await queue.get(jobs[1]!.id), { status: 'queued', attempts: 0, position: 1 })
  t.equal((await queue.status()).scheduler.state, 'stopped')
})

t.test('load and unload, on one device or wherever it fits', async t => {
  const { queue, a, b } = await opened(t)
  const load = async (model: string, device?: string) =>
    queue.loadModel(model, async ({ name }) => ({ files: { model }, options: { device: name } }), device)
  await load('checkpoint/a', 'gpu1')
  t.same([a.loads, b.loads], [[], ['checkpoint/a']])
  await load('checkpoint/a')
  t.same([a.loads, b.loads], [[], ['checkpoint/a']], 'it is there already')
  await load('checkpoint/b')
  t.same([a.loads, b.loads], [['checkpoint/b'], ['checkpoint/a']], 'to the one that has nothing to lose')
  t.same(queue.loadedModels, ['checkpoint/b', 'checkpoint/a'])
  await queue.unloadModel('gpu1')
  t.same(queue.loadedModels, ['checkpoint/b'])
  await load('checkpoint/a')
  await queue.unloadModel()
  t.same(queue.loadedModels, [])
  await t.rejects(load('checkpoint/a', 'gpu2'), { code: 'SDR_INVALID_REQUEST', message: 'Expected one of gpu0, gpu1 for device but received "gpu2"' })
  await t.rejects(queue.unloadModel('x'), { code: 'SDR_INVALID_REQUEST' })
})

t.test('an unload that one device refuses is done on no device after the answer', async t => {
  const { queue, a, b } = await opened(t)
  const load = async (device: string) => queue.loadModel('checkpoint/a', async () => ({ files: { model: 'checkpoint/a' }, options: {} }), device)
  await Promise.all([load('gpu0'), load('gpu1')])
  const held = hold()
  a.script.generate = [held.step]
  b.script.generate = [held.step]
  const jobs = [await queue.submit(request('1')), await queue.submit(request('2'))]
  await until(() => a.prompts.length === 1 && b.prompts.length === 1)
  const waiting = Array.from({ length: 10 }, () => queue.unloadModel('gpu1', { timeout: 20_000 }))
  await t.rejects(queue.unloadModel(), { code: 'SDR_UNAVAILABLE', retryAfter: 10 }, 'too many wait at one')
  held.release()
  for (const job of jobs) await ended(queue, job)
  await Promise.all(waiting)
  t.same(queue.loadedModels, ['checkpoint/a'], 'the other one keeps its model')
  t.notOk(a.calls.some(({ operation }) => operation === 'unload'))
})

t.test('a hundred jobs for three models on two devices: each runs once, none is lost', async t => {
  const { queue, a, b } = await opened(t)
  const jobs: Job[] = []
  for (let index = 0; index < 100; index++) {
    jobs.push(await queue.submit(request(`${index}`, `checkpoint/${index % 3}`, { owner: `owner ${index % 4}` })))
  }
  for (const job of jobs) t.match(await ended(queue, job), { status: 'completed', attempts: 1 })
  t.same([...a.prompts, ...b.prompts].sort(), jobs.map((_, index) => `${index}`).sort())
  const loads = a.loads.length + b.loads.length
  t.ok(loads < 50, `${loads} loads`)
})

t.test('jobs that need no engine have a lane of their own', async t => {
  const { step: { hold: held }, release } = hold()
  const sums: string[] = []
  const hash: Executor = {
    lane: 'files',
    async execute ({ model }, { signal, progress }) {
      progress({ phase: 'saving', step: 1, steps: 2, eta_seconds: 3 })
      if (model === 'checkpoint/slow') await Promise.race([held, new Promise((_resolve, reject) => { signal.onabort = () => reject(signal.reason) })])
      if (model === 'checkpoint/gone') throw Object.assign(new Error('It is gone'), { code: 'SDR_MODEL_NOT_FOUND' })
      sums.push(model)
      return {}
    }
  }
  // No type of today is like that.
  const [type, unknown] = ['upscale', 'inpaint'] as JobType[] as [JobType, JobType]
  const executors = (parts: ExecutorParts): Executors => ({ ...draw(parts), [type]: hash, [unknown]: undefined })
  const dataDir = t.testdir({})
  const { queue, a, b } = await opened(t, { executors, dataDir })
  const drawing = hold()
  a.script.generate = [drawing.step]
  b.script.generate = [drawing.step]
  for (const prompt of ['1', '2', '3']) await queue.submit(request(prompt))
  const slow = await queue.submit(request('x', 'checkpoint/slow', { type }))
  const next = await queue.submit(request('x', 'checkpoint/x', { type }))
  await until(async () => (await queue.get(slow.id)).progress !== null)
  t.match(await queue.get(slow.id), { status: 'running', progress: { step: 1, steps: 2, eta_seconds: 3 } })
  t.equal((await queue.get(next.id)).position, 1, 'its place is among its like')
  t.match((await lanes(queue))[2], { lane: 'files', device: null, state: 'running', job: slow.id })
  await queue.cancel(slow.id)
  t.match(await ended(queue, slow), { status: 'cancelled' })
  t.match(await ended(queue, next), { status: 'completed', images: [] })
  t.same(sums, ['checkpoint/x'])
  const gone = await ended(queue, await queue.submit(request('x', 'checkpoint/gone', { type })))
  t.match(gone, { status: 'failed', error: { code: 'model_not_found', message: 'It is gone' } })
  drawing.release()
  const nobodys = await ended(queue, await queue.submit(request('x', 'checkpoint/x', { type: unknown })))
  t.match(nobodys, { status: 'failed', error: { code: 'unsupported_feature' } })

  await until(async () => {
    const { running, queued } = await queue.status()
    return running + queued === 0
  })
  const again = await queue.submit(request('x', 'checkpoint/slow', { type }))
  await until(async () => (await queue.get(again.id)).status === 'running')
  await queue.drain(20)
  t.match(await queue.get(again.id), { status: 'queued', attempts: 0 }, 'a drain gives it back')
  release()
})

t.test('a model that nobody needs for long is unloaded', async t => {
  const { queue, a, b } = await opened(t, { idleUnload: 150 })
  const { step, release } = hold()
  a.script.generate = [step]
  const job = await queue.submit(request('1'))
  await until(() => a.prompts.length === 1)
  t.match((await lanes(queue))[0], { residency: { loaded_at: String, idle_since: null } })
  await new Promise(resolve => setTimeout(resolve, 400))
  t.same(queue.loadedModels, ['checkpoint/a'], 'not while its job runs')
  t.same(queue.inUse, { files: ['checkpoint/a'], models: ['checkpoint/a'] })
  release()
  await ended(queue, job)
  t.match((await lanes(queue))[0], { residency: { idle_since: String } })
  await until(() => queue.loadedModels.length === 0)
  t.equal(a.calls.at(-1)!.operation, 'unload')
  t.same(b.calls, [])
  t.equal((await lanes(queue))[0]!.residency, null)
  t.match(await ended(queue, await queue.submit(request('2'))), { status: 'completed' }, 'the next job loads it again')
  t.same([...a.loads, ...b.loads], ['checkpoint/a', 'checkpoint/a'], 'on either device')

  const never = await opened(t)
  await ended(never.queue, await never.queue.submit(request('1')))
  await new Promise(resolve => setTimeout(resolve, 400))
  t.same(never.queue.loadedModels, ['checkpoint/a'])
})
