import { setImmediate as tick } from 'node:timers/promises'
import t from 'tap'
import { JobEvents } from '../../../lib/jobs/job-events.ts'
import type { Job, JobEvent } from '../../../lib/jobs/job.ts'

function job (more: Partial<Job> = {}): Job {
  return {
    id: 'x',
    type: 'txt2img',
    status: 'running',
    owner: 'ann',
    model: 'checkpoint/a',
    position: null,
    priority: 0,
    progress: null,
    parameters: {},
    images: [],
    result: null,
    error: null,
    attempts: 1,
    created_at: '2026-01-01T00:00:00.000Z',
    started_at: null,
    finished_at: null,
    ...more
  }
}

/** All that a stream has until it ends. */
async function all (stream: AsyncIterable<JobEvent>): Promise<JobEvent[]> {
  const events = []
  for await (const event of stream) events.push(event)
  return events
}

const names = (events: JobEvent[]) => events.map(({ name }) => name).join(' ')
const isGrowing = (events: JobEvent[]) => events.every(({ id }, index) => index === 0 || id > events[index - 1]!.id)

t.test('a stream begins with the state and ends with the job', async t => {
  const events = new JobEvents()
  const stream = events.subscribe(job())
  const other = events.subscribe(job({ id: 'y' }))
  const taken: JobEvent[] = []
  const reading = (async () => { for await (const event of stream) taken.push(event) })()
  for (let step = 0; step < 3; step++) {
    events.publish('x', 'progress', { step })
    await tick()
  }
  events.publish('x', 'preview', { step: 2 })
  events.publishJob(job({ status: 'completed' }))
  events.publish('x', 'progress', { step: 99 })
  await reading
  t.equal(names(taken), 'state progress progress progress preview done')
  t.ok(isGrowing(taken))
  t.match(taken[0]?.data, { status: 'running' })
  t.match(taken.at(-1)?.data, { status: 'completed' })
  events.close()
  t.equal(names(await all(other)), '', 'nothing of another job')
  t.equal(events.subscriberCount, 0)
})

t.test('who comes late to an ended job gets it and nothing else', async t => {
  const events = new JobEvents()
  const late = await all(events.subscribe(job({ status: 'failed' }), { lastEventId: 5 }))
  t.match(late, [{ name: 'done', data: { status: 'failed' } }])
  t.equal(late.length, 1)
  t.equal(events.subscriberCount, 0)
})

t.test('who comes back gets the newest of what was missed', async t => {
  const events = new JobEvents()
  const first = events.subscribe(job())
  events.publish('x', 'progress', { step: 1 })
  const seen = [(await first.next()).value, (await first.next()).value] as JobEvent[]
  t.equal(names(seen), 'state progress')
  await first.return!()
  events.publish('x', 'progress', { step: 2 })
  events.publish('x', 'preview', 'old')
  events.publish('x', 'preview', 'new')

  const lastEventId = seen[1]!.id
  const resumed = events.subscribe(job(), { lastEventId })
  const beforeThisChannel = events.subscribe(job(), { lastEventId: seen[0]!.id - 2 })
  const fromTheFuture = events.subscribe(job(), { lastEventId: lastEventId + 1_000_000 })
  const fresh = events.subscribe(job())
  t.match(await resumed.next(), { value: { name: 'progress', data: { step: 2 } } })
  events.publish('x', 'progress', { step: 3 })
  events.publishJob(job({ status: 'completed' }))

  const rest = await all(resumed)
  t.match(rest, [{ name: 'preview', data: 'new' }, { name: 'progress', data: { step: 3 } }, { name: 'done' }])
  t.ok(isGrowing(rest) && rest[0]!.id > lastEventId)
  for (const stream of [beforeThisChannel, fromTheFuture, fresh]) {
    t.equal(names(await all(stream)), 'state progress done')
  }
})

t.test('ids grow over a restart, and one from before it brings the state', async t => {
  let now = 1_700_000_000_000
  const before = new JobEvents({ now: () => now })
  const old = before.subscribe(job())
  for (let count = 0; count < 5000; count++) before.publish('x', 'progress', { count })
  before.publishJob(job({ status: 'failed' }))
  const last = (await all(old)).at(-1)!
  now += 10
  const events = new JobEvents({ now: () => now })
  const stream = events.subscribe(job({ status: 'queued' }), { lastEventId: last.id })
  events.publishJob(job({ status: 'completed' }))
  const after = await all(stream)
  t.equal(names(after), 'state done')
  t.ok(after[0]!.id > last.id)
})

t.test('a slow consumer gets the newest of each kind and cannot fill the memory', async t => {
  const events = new JobEvents()
  const slow = events.subscribe(job())
  for (let step = 0; step < 1000; step++) {
    events.publish('x', 'progress', { step })
    events.publish('x', 'preview', { step })
    if (step % 100 === 0) events.publishJob(job({ attempts: step }))
  }
  events.publish('x', 'progress', { step: 1000 })
  events.publishJob(job({ status: 'completed' }))
  const taken = await all(slow)
  t.equal(names(taken), 'state preview progress done')
  t.ok(isGrowing(taken))
  t.match(taken, [{ data: { attempts: 900 } }, { data: { step: 999 } }, { data: { step: 1000 } }, {}])
})

t.test('there are only so many streams', async t => {
  const events = new JobEvents({ maxStreams: 2 })
  const leave = new AbortController()
  const first = events.subscribe(job(), { signal: leave.signal })
  events.subscribe(job({ id: 'y' }))
  t.throws(() => events.subscribe(job(), { caller: 'bob' }), { code: 'SDR_UNAVAILABLE', statusCode: 503, retryAfter: 5 })
  events.subscribe(job(), { kind: 'wait' }).end()
  t.equal(names(await all(events.subscribe(job({ status: 'cancelled' })))), 'done', 'an ended job needs no place')
  leave.abort()
  t.equal(names(await all(first)), '', 'what was not taken is dropped')
  const aborted = events.subscribe(job(), { signal: leave.signal })
  t.same(await aborted.next(), { done: true, value: undefined })
  t.equal(events.subscriberCount, 1)
})

t.test('no caller takes the places of all', async t => {
  const events = new JobEvents({ maxStreams: 3, maxStreamsForOne: 2, maxWaits: 3, maxWaitsForOne: 2 })
  const streams = [1, 2].map(() => events.subscribe(job(), { caller: 'bob' }))
  t.throws(() => events.subscribe(job(), { caller: 'bob' }), { code: 'SDR_RATE_LIMITED', statusCode: 429, retryAfter: 5 })
  events.subscribe(job(), { caller: 'carol' })
  streams[0]!.end()
  streams[0]!.end()
  events.subscribe(job(), { caller: 'bob' })
  t.throws(() => events.subscribe(job(), { caller: 'carol' }), { code: 'SDR_UNAVAILABLE' }, 'a place is given back once')
  for (const kind of ['wait', 'wait'] as const) events.subscribe(job(), { caller: 'bob', kind })
  t.notOk(events.canWait('bob'))
  t.ok(events.canWait('carol'), 'who waits takes no place of a stream')
  t.equal(events.subscriberCount, 5)
})

t.test('whoever waits is told of the end, once', async t => {
  const events = new JobEvents()
  const stream = events.subscribe(job())
  await stream.next()
  const waiting = stream.next()
  await t.rejects(stream.next(), /waited for already/)
  events.close()
  t.same(await waiting, { done: true, value: undefined })
  t.same(await stream.next(), { done: true, value: undefined })
  t.same(await stream.return!(), { done: true, value: undefined })
  t.equal(events.subscriberCount, 0)
})

t.test('who is watched, and the place in the queue they know', async t => {
  const events = new JobEvents()
  const stream = events.subscribe(job({ status: 'queued', position: 4 }))
  events.publish('z', 'progress', {})
  t.same(events.watched(), [{ id: 'x', position: 4 }])
  events.publishJob(job({ status: 'queued', position: 3 }))
  t.same(events.watched(), [{ id: 'x', position: 3 }])
  t.ok(events.isWatched('x'))
  await stream.return!()
  t.same(events.watched(), [])
  t.notOk(events.isWatched('x') || events.isWatched('z') || events.isWatched('unknown'))
})
