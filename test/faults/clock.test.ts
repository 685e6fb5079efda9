import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { drawingExecutors } from '../../lib/generation/run/drawing.ts'
import { JobQueue, type JobQueueOptions } from '../../lib/jobs/queue.ts'
import type { Job, NewJob } from '../../lib/jobs/job.ts'
import { ScriptedEngine } from '../lib/jobs/fixtures/scripted-engine.ts'

const hour = 3_600_000
const request: NewJob = { type: 'txt2img', owner: 'ann', model: 'checkpoint/a', parameters: { prompt: 'a fox', width: 2, height: 2 } }

/** A queue whose clock a test sets; the engines and timers keep the time of the machine. */
async function open (dataDir: string, clock: { now: number }, options: Partial<JobQueueOptions> = {}) {
  const engine = new ScriptedEngine()
  const queue = new JobQueue({
    dataDir,
    devices: [{ name: 'auto', engine }],
    logger: { debug () {}, info () {}, warn () {}, error () {} },
    executors: drawingExecutors(({ model }) => ({ files: { model }, options: {}, parameters: { prompt: '', width: 2, height: 2, seed: 1 }, attachments: {} })),
    now: () => clock.now,
    keepDays: 1,
    ...options
  })
  return { queue, engine }
}

for (const [name, jump] of [['forward', 400 * 24 * hour], ['back', -400 * 24 * hour]] as const) {
  t.test(`a clock that is set ${name} loses nothing and runs nothing twice`, async t => {
    const dataDir = t.testdir({})
    const clock = { now: Date.parse('2026-03-01T12:00:00Z') }
    const { queue, engine } = await open(dataDir, clock)
    const ended = (queue: JobQueue, { id }: Job) => queue.waitFor(id, 10_000)
    await queue.start()
    const before = await ended(queue, await queue.submit({ ...request, idempotencyKey: 'before' }))
    let release = () => {}
    engine.script.generate = [{ hold: new Promise(resolve => { release = resolve }) }]
    const during = await queue.submit(request)
    const waiting = await queue.submit({ ...request, priority: -1 })
    while (engine.prompts.length < 2) await delay(2)
    const events = await queue.subscribe(during.id)
    const { value: first } = await events.next()

    clock.now += jump
    const after = await queue.submit(request)
    t.same([(await queue.get(after.id)).position, (await queue.get(waiting.id)).position], [1, 2], 'the order is that of submission')
    release()
    const ids = [first.id]
    for await (const { id } of events) ids.push(id)
    t.same(ids, ids.toSorted((a, b) => a - b), 'events stay in order')
    for (const job of [during, after, waiting]) t.match(await ended(queue, job), { status: 'completed', attempts: 1 })
    await delay(50)
    t.same((await queue.list()).jobs.map(({ id }) => id), [after, waiting, during, before].map(({ id }) => id), 'none is deleted for its age, and lists keep their order')
    for (const { id } of [before, during, after]) await (await queue.openImage(await queue.get(id), 0)).bytes()
    if (jump < 0) t.equal((await queue.submit({ ...request, idempotencyKey: 'before' })).id, before.id, 'a retry is known')
    await queue.close()

    const again = await open(dataDir, clock)
    t.teardown(() => again.queue.close())
    const waited = await again.queue.submit(request)
    await again.queue.start()
    t.match(await ended(again.queue, waited), { status: 'completed' })
    t.equal(again.engine.prompts.length, 1, 'what was completed is not run again')
  })
}
