import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { drawingExecutors } from '../../../lib/generation/run/drawing.ts'
import { JobQueue, type JobQueueOptions } from '../../../lib/jobs/queue.ts'
import type { Job, NewJob } from '../../../lib/jobs/job.ts'
import type { JobStore } from '../../../lib/jobs/store/job-store.ts'
import { SqliteJobStore } from '../../../lib/jobs/store/sqlite/sqlite-job-store.ts'
import { ScriptedEngine } from './fixtures/scripted-engine.ts'
import { slowStore } from './fixtures/slow-store.ts'
import { until } from './fixtures/until.ts'

// Each await of the store is a place where something else may happen; here it does.

function open (t: Test, wrap: (store: SqliteJobStore) => JobStore = slowStore, options: Partial<JobQueueOptions> = {}) {
  const queues: JobQueue[] = []
  t.teardown(() => queues[0]?.close())
  const engines = [new ScriptedEngine(), new ScriptedEngine()]
  const dataDir = options.dataDir ?? t.testdir({})
  const queue = new JobQueue({
    dataDir,
    devices: engines.map((engine, index) => ({ name: `gpu${index}`, engine })),
    logger: { debug () {}, info () {}, warn () {}, error () {} },
    executors: drawingExecutors(({ model, parameters: { prompt } }) => ({
      files: { model },
      options: {},
      parameters: { prompt: prompt as string, width: 1, height: 1, seed: 0 },
      attachments: {}
    })),
    backOff: 5,
    openStore: storeOptions => wrap(new SqliteJobStore(join(dataDir, 'jobs.db'), storeOptions)),
    ...options
  })
  queues.push(queue)
  return { queue, engines, dataDir }
}

const request = (prompt: string, more: Partial<NewJob> = {}): NewJob =>
  ({ type: 'txt2img', owner: 'ann', model: 'checkpoint/a', parameters: { prompt }, ...more })

/** The states that a subscriber is told of until the end of the job. */
async function follow (queue: JobQueue, id: string): Promise<Job[]> {
  const states: Job[] = []
  let last = 0
  for await (const event of await queue.subscribe(id)) {
    if (event.id <= last) throw new Error(`Event ${event.id} came after ${last}`)
    last = event.id
    if (event.name === 'state' || event.name === 'done') states.push(event.data as Job)
  }
  return states
}

t.test('every subscriber of a job gets its end, whenever it subscribes', async t => {
  const { queue, dataDir } = open(t)
  await queue.start()
  const all = await Promise.all(Array.from({ length: 40 }, async (_, index) => {
    await delay(Math.random() * 100)
    const { id } = await queue.submit(request(`${index}`, { owner: `owner ${index % 5}` }), { init_image: Buffer.from('x') })
    const cancel = async () => {
      await delay(Math.random() * 150)
      return await queue.cancel(id).catch((error: { code: string }) => error.code)
    }
    const [cancelled, waited, ...streams] = await Promise.all([
      index % 2 === 0 ? cancel() : undefined,
      queue.waitFor(id, 20_000),
      ...Array.from({ length: 3 }, async () => {
        await delay(Math.random() * 100)
        return await follow(queue, id)
      })
    ])
    return { id, cancelled, waited, streams }
  }))
  for (const { id, cancelled, waited, streams } of all) {
    const { status } = await queue.get(id)
    t.match(status, /^(completed|cancelled)$/)
    t.equal(waited.status, status)
    for (const states of streams) {
      t.equal(states.at(-1)?.status, status)
      t.match(states.map(state => state.status).join(' '), /^(queued )*(running ){0,2}(completed|cancelled)$/)
    }
    if (cancelled === undefined) t.equal(status, 'completed')
    else if (typeof cancelled === 'string') t.equal(cancelled, 'SDR_JOB_NOT_CANCELLABLE')
    else if (cancelled.status === 'cancelled') t.equal(status, 'cancelled')
  }
  t.same(readdirSync(join(dataDir, 'inputs')), [])
  t.match(await queue.status(), { queued: 0, running: 0 })
})

/** A queue whose store gives the answers of one operation only when they are released; its effect comes at once. */
function openHeld (t: Test, operation: 'claim' | 'get' | 'retryOrFail') {
  let held: Promise<void> | undefined
  let answers = 0
  const all = open(t, store => {
    const run = store[operation].bind(store) as (...args: unknown[]) => Promise<Job | undefined>
    return Object.assign(store, {
      [operation]: async (...args: unknown[]) => {
        const job = await run(...args)
        if (job !== undefined && held !== undefined) {
          answers++
          await held
        }
        return job
      }
    })
  })
  return {
    ...all,
    /** How many answers are held. */
    answers: () => answers,
    hold () {
      let release = () => {}
      held = new Promise(resolve => {
        release = () => {
          held = undefined
          resolve()
        }
      })
      return release
    }
  }
}

t.test('a job that is cancelled while a lane claims it is not done', async t => {
  const { queue, engines, answers, hold } = openHeld(t, 'claim')
  const release = hold()
  await queue.start()
  const { id } = await queue.submit(request('x'))
  await until(() => answers() === 1)
  t.match(await queue.cancel(id), { status: 'running' })
  release()
  t.match(await queue.waitFor(id, 10_000), { status: 'cancelled', attempts: 1, images: [] })
  t.same(engines.flatMap(({ calls }) => calls), [])
})

t.test('a job that is claimed while the server stops goes back', async t => {
  const { queue, engines, answers, hold } = openHeld(t, 'claim')
  const release = hold()
  await queue.start()
  const { id } = await queue.submit(request('x'))
  await until(() => answers() === 1)
  const drained = queue.drain(10_000)
  release()
  await drained
  t.match(await queue.get(id), { status: 'queued', attempts: 0, position: 1 })
  t.same(engines.flatMap(({ calls }) => calls), [])
})

t.test('a subscriber hears of an end that comes while the job is read', async t => {
  const { queue, answers, hold } = openHeld(t, 'get')
  const { id } = await queue.submit(request('x'))
  const release = hold()
  const streams = [follow(queue, id), follow(queue, id)]
  const waiting = queue.waitFor(id, 20_000)
  await until(() => answers() === 3)
  await queue.start()
  await until(async () => (await queue.status()).completed === 1)
  release()
  for (const states of await Promise.all(streams)) t.match(states, [{ status: 'completed' }])
  t.match(await waiting, { status: 'completed' })
})

t.test('what a lane hears late of a job that it gave back is not published, and deletes nothing', async t => {
  const { queue, engines, answers, hold } = openHeld(t, 'retryOrFail')
  const release = hold()
  for (const { script } of engines) script.generate = [{ fail: 'engine_crashed' }]
  const { id } = await queue.submit(request('x'))
  const following = follow(queue, id)
  await queue.start()
  await until(() => answers() === 1)
  let draw = () => {}
  const held = new Promise<void>(resolve => { draw = resolve })
  for (const { script } of engines) script.generate = [{ hold: held }]
  await queue.submit(request('wakes the other lane'))
  await until(async () => (await queue.get(id)).progress !== null)
  release()
  await delay(50)
  draw()
  t.same((await following).map(({ status }) => status), ['queued', 'running', 'running', 'completed'])
  await until(async () => (await queue.status()).completed === 2)
  const job = await queue.get(id)
  t.equal((await (await queue.openImage(job, 0)).bytes()).length, job.images[0]!.bytes)
})

t.test('crashes and two lanes: each job ends once, in order', async t => {
  const { queue, engines } = open(t)
  for (const { script } of engines) script.generate = Array(5).fill({ fail: 'engine_crashed' })
  await queue.start()
  const ids: string[] = []
  const streams: Array<Promise<Job[]>> = []
  for (let index = 0; index < 20; index++) {
    const { id } = await queue.submit(request(`${index}`, { idempotencyKey: `${index}` }))
    t.equal((await queue.submit(request(`${index}`, { idempotencyKey: `${index}` }))).id, id)
    ids.push(id)
    streams.push(follow(queue, id))
  }
  for (const [index, states] of (await Promise.all(streams)).entries()) {
    const job = await queue.get(ids[index]!)
    t.match(job.status, /^(completed|failed)$/)
    t.same(states.at(-1), job)
    const attempts = states.map(state => state.attempts)
    t.same(attempts, attempts.toSorted((a, b) => a - b), 'no state comes after a later one')
  }
})

t.test('a stop at any time loses nothing', async t => {
  const dataDir = t.testdir({})
  for (let round = 0; round < 8; round++) {
    const { queue } = open(t, slowStore, { dataDir })
    await queue.start()
    const ids: string[] = []
    for (let index = 0; index < 4; index++) ids.push((await queue.submit(request(`${index}`))).id)
    await delay(Math.random() * 60)
    await queue.close()

    const store = new SqliteJobStore(join(dataDir, 'jobs.db'))
    t.match(await store.counts(), { running: 0 }, 'what was claimed at the last moment went back')
    for (const id of ids) {
      const job = (await store.get(id))!
      if (job.status === 'completed') t.equal(job.images.length, 1)
      else t.match(job, { status: 'queued', attempts: 0, images: [] })
    }
    await store.close()
  }
})
