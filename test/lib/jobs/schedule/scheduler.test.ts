import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { uuidv7 } from 'uuidv7'
import { drawingExecutors } from '../../../../lib/generation/run/drawing.ts'
import { FolderBlobs } from '../../../../lib/storage/blobs.ts'
import { Inputs } from '../../../../lib/jobs/inputs.ts'
import { JobEvents } from '../../../../lib/jobs/job-events.ts'
import type { JobStore } from '../../../../lib/jobs/store/job-store.ts'
import { SqliteJobStore } from '../../../../lib/jobs/store/sqlite/sqlite-job-store.ts'
import { Outputs, type OutputOwner } from '../../../../lib/jobs/outputs.ts'
import { Scheduler, type SchedulerParts } from '../../../../lib/jobs/schedule/scheduler.ts'
import { ScriptedEngine } from '../fixtures/scripted-engine.ts'
import { until } from '../fixtures/until.ts'

const draw = drawingExecutors(() => ({
  files: {}, options: {}, parameters: { prompt: '', width: 2, height: 2, seed: 0, batch_count: 2 }, attachments: {}
}))

/** The parts of a scheduler in one folder; a test replaces the one that is to fail. */
function parts (t: Test) {
  const root = t.testdir({})
  const engine = new ScriptedEngine()
  const store = new SqliteJobStore(join(root, 'jobs.db'))
  t.teardown(() => store.close())
  const log: string[] = []
  const note = (_details: object, message: string) => { log.push(message) }
  const files = { inputs: new Inputs(new FolderBlobs(join(root, 'inputs'))), outputs: new Outputs(new FolderBlobs(join(root, 'outputs'))) }
  return {
    root,
    log,
    engine,
    devices: [{ name: 'auto', engine }],
    store,
    ...files,
    events: new JobEvents(),
    executors: draw(files),
    logger: { debug () {}, info () {}, warn: note, error: note },
    backOff: 5
  } satisfies SchedulerParts & { root: string, log: string[], engine: ScriptedEngine }
}

async function accept (store: JobStore): Promise<string> {
  const job = { id: uuidv7(), type: 'txt2img', owner: 'ann', model: 'm', priority: 0, parameters: {} } as const
  return (await store.accept(job)).job.id
}

const isCompleted = async (store: JobStore, id: string) => (await store.get(id))?.status === 'completed'

const diskFull = () => Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' })
const databaseFull = () => Object.assign(new Error('database or disk is full'), { errcode: 13 })

t.test('a full disk fails the job, leaves nothing behind, and the next one runs', async t => {
  const all = parts(t)
  const { store, root } = all
  let isFull = true
  class FullDisk extends Outputs {
    override keep (job: OutputOwner) {
      const kept = super.keep(job)
      if (!isFull) return kept
      kept.finish = async () => {
        await kept.settled()
        throw diskFull()
      }
      return kept
    }
  }
  const outputs = new FullDisk(new FolderBlobs(join(root, 'outputs')))
  const scheduler = new Scheduler({
    ...all,
    outputs,
    executors: draw({ ...all, outputs }),
    onEnded: () => { isFull = false }
  })
  const [first, second] = [await accept(store), await accept(store)]
  scheduler.start()
  await until(async () => isCompleted(store, second))
  t.match(await store.get(first), { status: 'failed', images: [], error: { code: 'storage_full', message: /no room/ } })
  const [day] = readdirSync(join(root, 'outputs'))
  t.same(readdirSync(join(root, 'outputs', day!)), [second])
  t.equal((await store.get(second))?.images.length, 2)
  await scheduler.drain(1000)
})

t.test('an end that cannot be stored is stored later', async t => {
  const all = parts(t)
  const { store, engine } = all
  const complete = store.complete.bind(store)
  let refusals = 3
  store.complete = async (...args) => {
    if (refusals-- > 0) throw databaseFull()
    return await complete(...args)
  }
  const scheduler = new Scheduler(all)
  const id = await accept(store)
  scheduler.start()
  await until(() => scheduler.status(true).blocked !== null)
  t.match(scheduler.status(true), { state: 'running', job: id, blocked: { reason: 'database or disk is full' } })
  await until(async () => isCompleted(store, id))
  t.equal(engine.prompts.length, 1, 'it is not drawn again')
  t.equal((await store.get(id))?.images.length, 2)
  await scheduler.drain(1000)
})

t.test('an end that the database refuses for good fails the job, and the lane goes on', async t => {
  const all = parts(t)
  const { store } = all
  const complete = store.complete.bind(store)
  // As when an engine gives a seed that is no whole number.
  store.complete = async (id, images, result) => complete(id, images.map(image => ({ ...image, seed: 1.5 })), result)
  const scheduler = new Scheduler(all)
  const [first, second] = [await accept(store), await accept(store)]
  scheduler.start()
  await until(async () => (await store.get(second))?.status === 'failed')
  for (const id of [first, second]) t.match(await store.get(id), { status: 'failed', images: [], error: { code: 'internal' }, attempts: 1 })
  t.same(all.log.filter(text => text === 'The state of a job cannot be stored').length, 2)
  t.notOk(all.log.some(text => text.startsWith('Jobs have to wait')))

  store.complete = complete
  const third = await accept(store)
  scheduler.wake()
  await until(async () => isCompleted(store, third))
  const fail = store.fail
  store.complete = async () => { throw new TypeError('not a number') }
  store.fail = async () => { throw new TypeError('not a number either') }
  const [fourth] = [await accept(store)]
  scheduler.wake()
  await until(() => all.log.filter(text => text === 'The state of a job cannot be stored').length === 4)
  Object.assign(store, { complete, fail })
  const fifth = await accept(store)
  scheduler.wake()
  await until(async () => isCompleted(store, fifth))
  t.equal((await store.get(fourth))?.status, 'running', 'the next start decides about it')
  await scheduler.drain(1000)
})

t.test('a start that cannot be stored is tried again, and the job is not lost', async t => {
  const all = parts(t)
  const { store } = all
  const claim = store.claim.bind(store)
  let refusals = 2
  store.claim = async claimant => {
    if (refusals-- > 0) throw databaseFull()
    return await claim(claimant)
  }
  const scheduler = new Scheduler(all)
  const id = await accept(store)
  scheduler.start()
  await until(async () => isCompleted(store, id))
  t.equal((await store.get(id))?.attempts, 1)
  t.same(all.log, Array(2).fill('Jobs have to wait: database or disk is full'))
  await scheduler.drain(1000)
})

t.test('a stop does not wait for a database that cannot be written', async t => {
  const all = parts(t)
  all.store.complete = async () => { throw databaseFull() }
  const scheduler = new Scheduler({ ...all, backOff: 60_000 })
  const id = await accept(all.store)
  scheduler.start()
  await until(() => scheduler.status(true).blocked !== null)
  await scheduler.drain(5000)
  t.equal(scheduler.status(true).state, 'stopped')
  t.equal((await all.store.get(id))?.status, 'running', 'the next start decides about it')
  t.match(await all.store.recover(), [{ id, status: 'queued', attempts: 1 }])
})

t.test('files that cannot be deleted stop nothing', async t => {
  const all = parts(t)
  all.inputs.remove = async () => { throw Object.assign(new Error('EACCES'), { code: 'EACCES' }) }
  const scheduler = new Scheduler(all)
  const ids = [await accept(all.store), await accept(all.store)]
  scheduler.start()
  await until(async () => (await Promise.all(ids.map(async id => isCompleted(all.store, id)))).every(Boolean))
  await scheduler.drain(1000)
  t.same(all.log, Array(2).fill('Files of a job cannot be deleted'))
})

t.test('an engine that never answers does not keep the server from stopping', async t => {
  const all = parts(t)
  const { store, engine, events } = all
  let release = () => {}
  engine.ignoresAborts = true
  engine.script.generate = [{ hold: new Promise(resolve => { release = resolve }) }]
  const scheduler = new Scheduler({ ...all, abortTimeout: 20 })
  const id = await accept(store)
  scheduler.start()
  await until(() => engine.prompts.length === 1)
  const start = Date.now()
  await scheduler.drain(20)
  t.ok(Date.now() - start < 5000)
  t.match(await store.get(id), { status: 'queued', attempts: 0, position: 1 })

  release()
  await until(() => scheduler.status(true).state === 'stopped')
  t.match(await store.get(id), { status: 'queued', images: [] }, 'what comes afterwards does not count')
  t.same(readdirSync(join(all.root, 'outputs')), [])
  t.same(events.watched(), [])
})

t.test('it can be woken, drained and started in any order', async t => {
  const all = parts(t)
  const scheduler = new Scheduler(all)
  scheduler.wake()
  t.equal(scheduler.status(true).state, 'stopped')
  scheduler.start()
  scheduler.start()
  const id = await accept(all.store)
  scheduler.wake()
  scheduler.cancel('unknown')
  t.equal(scheduler.progressOf('unknown'), null)
  await until(async () => isCompleted(all.store, id))
  t.equal(all.engine.prompts.length, 1)
  await Promise.all([scheduler.drain(1000), scheduler.drain(0)])
  await scheduler.drain(0)
  t.equal(scheduler.status(true).state, 'stopped')
})
