import type { Test } from 'tap'
import type { AcceptedJob, JobStore, JobStoreOptions } from '../../../../lib/jobs/store/job-store.ts'
import { jobStatuses, type Job, type JobFilter, type JobType } from '../../../../lib/jobs/job.ts'

/** Opens a new store, or the one at a place again; it closes when the test ends. */
export type OpenStore = (t: Test, options?: JobStoreOptions, place?: string) => Promise<{
  store: JobStore
  place: string
  close: () => Promise<void>
}>

let count = 0

export function request (more: Partial<AcceptedJob> = {}): AcceptedJob {
  return {
    id: `job ${++count}`,
    type: 'txt2img',
    owner: 'ann',
    model: 'checkpoint/a',
    priority: 0,
    parameters: { prompt: 'a cat' },
    ...more
  }
}

/** Starts the job that is next. */
async function startNext (store: JobStore): Promise<Job> {
  return (await store.claim({ lane: 'engine' }))!
}

async function position (store: JobStore, id: string): Promise<number | null> {
  return (await store.positions([id])).get(id) ?? null
}

const image = { index: 0, file: '2026-01-01/x/0.png', width: 3, height: 2, bytes: 100, seed: 7 }

/** Makes ended jobs: `a1+` has an image, `a1-` has none; the first letter is the owner. */
export async function end (
  store: JobStore, names: string[], parameters: Record<string, unknown> = {}
): Promise<void> {
  for (const name of names) {
    await store.accept(request({ id: name, owner: name[0]!, parameters }))
    await startNext(store)
    if (name.endsWith('+')) await store.complete(name, [image])
    else await store.fail(name, { code: 'generation_failed', message: 'no' })
  }
}

/** What every store has to do. */
export function testJobStore (t: Test, open: OpenStore): void {
  t.test('states change from where they may and nowhere else', async t => {
    const { store } = await open(t)
    const transitions = {
      complete: async (id: string) => await store.complete(id, [image]),
      fail: async (id: string) => await store.fail(id, { code: 'generation_failed', message: 'no' }),
      endCancelled: async (id: string) => await store.endCancelled(id),
      cancel: async (id: string) => await store.cancel(id),
      giveBack: async (id: string) => await store.giveBack(id),
      retryOrFail: async (id: string) => await store.retryOrFail(id, 'SIGSEGV')
    }
    const allowed: Record<string, Record<string, string>> = {
      queued: { cancel: 'cancelled' },
      running: {
        complete: 'completed',
        fail: 'failed',
        endCancelled: 'cancelled',
        cancel: 'running',
        giveBack: 'queued',
        retryOrFail: 'queued'
      },
      completed: {},
      failed: {},
      cancelled: {}
    }
    for (const status of jobStatuses) {
      for (const [name, transition] of Object.entries(transitions)) {
        const { id } = (await store.accept(request())).job
        if (status !== 'queued') await startNext(store)
        if (status === 'completed') await store.complete(id, [])
        if (status === 'failed') await store.fail(id, { code: 'x', message: 'y' })
        if (status === 'cancelled') await store.endCancelled(id)
        const before = await store.get(id)
        t.equal(before?.status, status)
        const after = await transition(id)
        const expected = allowed[status]![name]
        t.equal(after?.status, expected, `${status} → ${name}`)
        t.same(await store.get(id), after ?? before)
        await store.cancel(id)
        await store.endCancelled(id)
      }
    }
    t.equal(await store.claim({ lane: 'engine' }), undefined)
  })

  t.test('a job on its way', async t => {
    let now = Date.UTC(2026, 0, 2, 3, 4, 5)
    const { store, place, close } = await open(t, { now: () => now })
    const accepted = await store.accept(request({ id: 'x', priority: 3 }))
    t.same(accepted, {
      isNew: true,
      job: {
        id: 'x',
        type: 'txt2img',
        status: 'queued',
        owner: 'ann',
        model: 'checkpoint/a',
        position: 1,
        priority: 3,
        progress: null,
        parameters: { prompt: 'a cat' },
        images: [],
        result: null,
        error: null,
        attempts: 0,
        created_at: '2026-01-02T03:04:05.000Z',
        started_at: null,
        finished_at: null
      }
    })
    now += 1000
    t.match(await startNext(store), { status: 'running', position: null, attempts: 1, started_at: '2026-01-02T03:04:06.000Z' })
    now += 1000
    const completed = await store.complete('x', [image, { ...image, index: 1, file: '2026-01-01/x/1.png', seed: 8 }])
    t.match(completed, {
      status: 'completed',
      finished_at: '2026-01-02T03:04:07.000Z',
      images: [
        { index: 0, url: '/api/queue/job/x/images/0', width: 3, height: 2, format: 'png', bytes: 100, seed: 7 },
        { index: 1, url: '/api/queue/job/x/images/1', seed: 8 }
      ]
    })
    t.equal(await store.imageKey('x', 1), '2026-01-01/x/1.png')
    t.equal(await store.imageKey('x', 2), undefined)
    t.equal(await store.imageKey('y', 0), undefined)
    await close()
    t.same(await (await open(t, {}, place)).store.get('x'), completed, 'it is still there after a restart')
  })

  t.test('a crash, twice; giving back does not count', async t => {
    const { store } = await open(t)
    const { id } = (await store.accept(request())).job
    await store.accept(request())
    await startNext(store)
    t.match(await store.giveBack(id), { status: 'queued', attempts: 0, started_at: null, position: 1 })
    t.match(await startNext(store), { id, attempts: 1 })
    t.match(await store.retryOrFail(id, 'SIGSEGV'), { status: 'queued', attempts: 1, error: null, position: 1 })
    t.match(await startNext(store), { id, attempts: 2 })
    const failed = await store.retryOrFail(id, 'SIGSEGV '.repeat(1000))
    t.match(failed, { status: 'failed', attempts: 2, error: { code: 'engine_crashed' } })
    t.equal((await store.get(id))!.error!.message.length, 2000)
    t.equal((await store.get(id))!.images.length, 0)
  })

  t.test('what a dead server left', async t => {
    const first = await open(t)
    for (const id of ['waits', 'ran', 'ran twice', 'was being cancelled']) await first.store.accept(request({ id }))
    await first.store.cancel('waits')
    await first.store.accept(request({ id: 'still waits' }))
    for (let started = 0; started < 3; started++) await startNext(first.store)
    await first.store.giveBack('ran twice')
    await startNext(first.store)
    await first.store.retryOrFail('ran twice', 'SIGSEGV')
    await startNext(first.store)
    await first.store.cancel('was being cancelled')
    await first.close()

    const { store } = await open(t, {}, first.place)
    t.same(await store.counts(), { queued: 1, running: 3, completed: 0, failed: 0, cancelled: 1 })
    t.match(await store.recover(), [
      { id: 'ran', status: 'queued', attempts: 1, position: 1 },
      { id: 'ran twice', status: 'queued', attempts: 2, error: null },
      { id: 'was being cancelled', status: 'cancelled' }
    ])
    t.equal(await position(store, 'still waits'), 3)
    t.same(await store.counts(), { queued: 3, running: 0, completed: 0, failed: 0, cancelled: 2 })
    t.same(await store.recover(), [])
  })

  t.test('deaths of the server and crashes of the engine are counted apart', async t => {
    let { store, place, close } = await open(t)
    const { id } = (await store.accept(request())).job
    await store.accept(request({ id: 'poison' }))
    await startNext(store)
    t.match(await store.retryOrFail(id, 'SIGSEGV'), { status: 'queued' })
    for (let death = 1; death <= 5; death++) {
      t.match(await startNext(store), { id, attempts: death + 1 })
      await close();
      ({ store, close } = await open(t, {}, place))
      const error = { code: 'server_crashed', message: /^The server died 5 times while this job was running/ }
      t.match(await store.recover(), [{ id, attempts: death + 1, ...(death < 5 ? { status: 'queued', error: null } : { status: 'failed', error }) }])
    }
    await startNext(store)
    await close();
    ({ store, close } = await open(t, {}, place))
    await store.recover()
    await startNext(store)
    t.match(await store.retryOrFail('poison', 'SIGSEGV'), { status: 'queued' }, 'a death is not a crash')
    await startNext(store)
    t.match(await store.retryOrFail('poison', 'SIGSEGV'), { status: 'failed', attempts: 3, error: { code: 'engine_crashed', message: 'SIGSEGV' } })
  })

  t.test('turns and overtaking are remembered over a restart', async t => {
    const first = await open(t, { overtakeLimit: 2 })
    await first.store.accept(request({ id: 'a1' }))
    for (const id of ['a2', 'a3', 'a4']) await first.store.accept(request({ id, model: 'checkpoint/b' }))
    t.equal((await first.store.claim({ lane: 'engine', loadedModel: 'checkpoint/b' }))?.id, 'a2')
    await first.store.accept(request({ id: 'b1', owner: 'bob' }))
    t.equal(await position(first.store, 'b1'), 1)
    await first.close()

    const { store } = await open(t, { overtakeLimit: 2 }, first.place)
    t.equal(await position(store, 'b1'), 1)
    await store.cancel('b1')
    t.equal((await store.claim({ lane: 'engine', loadedModel: 'checkpoint/b' }))?.id, 'a3', 'the second job that overtakes')
    t.equal((await store.claim({ lane: 'engine', loadedModel: 'checkpoint/b' }))?.id, 'a1', 'a third one would be too many')
  })

  t.test('a full queue', async t => {
    const { store } = await open(t, { capacity: 3, capacityPerOwner: 2 })
    const first = (await store.accept(request())).job
    await store.accept(request())
    await t.rejects(store.accept(request()),
      { code: 'SDR_QUEUE_FULL', statusCode: 429, retryAfter: 10, message: /^2 of your jobs/ })
    await store.accept(request({ owner: 'bob' }))
    await t.rejects(store.accept(request({ owner: 'cyd' })), { code: 'SDR_QUEUE_FULL', message: /^3 jobs are waiting/ })
    t.equal((await store.counts()).queued, 3)
    await store.cancel(first.id)
    t.equal((await store.accept(request())).job.status, 'queued')
  })

  t.test('idempotency keys', async t => {
    let now = Date.now()
    const { store } = await open(t, { now: () => now, capacityPerOwner: 2 })
    const key = { key: 'k', requestHash: 'h' }
    const { job } = await store.accept(request({ idempotency: key }))
    t.same(await store.accept(request({ idempotency: key })), { isNew: false, job })
    await t.rejects(store.accept(request({ idempotency: { ...key, requestHash: 'i' } })),
      { code: 'SDR_IDEMPOTENCY_CONFLICT', statusCode: 409 })
    t.equal((await store.accept(request({ idempotency: key, owner: 'bob' }))).isNew, true, 'each owner has keys of their own')
    for (const caller of ['192.0.2.1', '192.0.2.2']) {
      const mine = { key: 'k', requestHash: caller }
      const { job } = await store.accept(request({ idempotency: mine, owner: 'guest', caller }))
      t.same(await store.accept(request({ idempotency: mine, owner: 'guest', caller })), { isNew: false, job }, 'each guest too')
    }
    await store.accept(request())
    t.equal((await store.accept(request({ idempotency: key }))).isNew, false, 'a retry needs no room in the queue')
    await store.cancel(job.id)
    now += 24 * 60 * 60 * 1000 - 1
    t.equal((await store.findByKey('ann', key))?.id, job.id)
    now += 2
    t.equal(await store.findByKey('ann', key), undefined, 'after a day the key means nothing')
    t.equal((await store.accept(request({ idempotency: { key: 'k', requestHash: 'another' } }))).isNew, true)
  })

  t.test('old jobs', async t => {
    let now = 1_000_000
    const { store } = await open(t, { now: () => now })
    for (const id of ['a', 'b', 'c', 'd', 'e']) {
      await store.accept(request({ id, idempotency: { key: id, requestHash: 'h' } }))
      if (id === 'e') continue
      await startNext(store)
      now += 1000
      await store.complete(id, [image])
    }
    const expired = async (keepJobs: number, keepAfter: number, limit = 10) =>
      (await store.retention.expired({ keepJobs, keepAfter, limit })).map(({ id }) => id)
    t.same(await expired(4, 0), [])
    t.same(await expired(3, 0), ['a'])
    t.same(await expired(4, 1_002_001), ['a', 'b'])
    t.same(await expired(0, 0), ['a', 'b', 'c', 'd'])
    t.same(await expired(0, 0, 2), ['a', 'b'])
    await store.retention.remove(['a', 'e', 'unknown'])
    t.equal(await store.get('a'), undefined)
    t.equal(await store.imageKey('a', 0), undefined)
    t.equal((await store.get('e'))?.status, 'queued', 'a job that has not ended is not removed')
    t.equal(await store.findByKey('ann', { key: 'a', requestHash: 'other' }), undefined)
    t.same(await store.counts(), { queued: 1, running: 0, completed: 3, failed: 0, cancelled: 0 })
  })

  t.test('what goes first', async t => {
    let now = 1_000_000
    const { store } = await open(t, { now: () => now++ })
    await end(store, ['a1-', 'b1+', 'b2-', 'b3+', 'b4-', 'b5-', 'b6+'])
    const expired = async (keepJobs: number, keepJobsPerOwner?: number, limit = 10) =>
      (await store.retention.expired({ keepJobs, keepJobsPerOwner, keepAfter: 0, limit })).map(({ id }) => id)
    t.same(await expired(7), [])
    t.same(await expired(6), ['b2-'], 'of the owner who has most, though another one has the oldest')
    t.same(await expired(5), ['b2-', 'b4-'], 'jobs without images')
    t.same(await expired(4), ['b2-', 'b4-', 'b1+'], 'but not the newest of them, whose error may still be asked for')
    t.same(await expired(2), ['b2-', 'b4-', 'b1+', 'b3+', 'b5-'], 'down to what the others have')
    t.same(await expired(1), ['b2-', 'b4-', 'b1+', 'b3+', 'b5-', 'b6+'])
    t.same(await expired(0), ['b2-', 'b4-', 'b1+', 'b3+', 'b5-', 'b6+', 'a1-'])
    t.same(await expired(10, 5), ['b2-'], 'a bound of one owner')
    t.same(await expired(10, 5, 1), ['b2-'])
    t.same(await expired(4, undefined, 2), ['b2-', 'b4-'])
    now = 999_000
    await end(store, ['c1+'])
    t.same(await expired(2), ['b2-', 'b4-', 'b1+', 'b3+', 'b5-', 'b6+'].slice(0, 6))

    t.same((await store.retention.overQuota({ keepBytes: 300, keepBytesPerOwner: 300, limit: 10 })).map(({ id }) => id), ['b1+'])
    t.same((await store.retention.overQuota({ keepBytes: 400, keepBytesPerOwner: 100, limit: 10 })).map(({ id }) => id), ['b1+', 'b3+'])
    await store.retention.remove(await expired(0))
    await end(store, ['d1+'])
    t.same(await expired(1), [], 'nothing is counted that is gone')
  })

  t.test('a job with long parameters counts as several', async t => {
    const { store } = await open(t)
    await end(store, ['a1+', 'a2+', 'a3+'], { prompt: 'x'.repeat(40_000) })
    await end(store, ['b1+', 'b2+', 'b3+'])
    t.same(await store.retention.expired({ keepJobs: 12, keepAfter: 0, limit: 10 }), [])
    t.match(await store.retention.expired({ keepJobs: 11, keepAfter: 0, limit: 10 }), [{ id: 'a1+' }])
  })

  t.test('images that came with jobs are bounded until these end', async t => {
    const options = { inputBytes: 250, inputBytesPerOwner: 120 }
    const { store, place, close } = await open(t, options)
    await store.accept(request({ id: 'a', inputBytes: 100 }))
    await store.accept(request({ id: 'b', owner: 'bob', inputBytes: 100 }))
    await t.rejects(store.checkRoom('ann', 21), { code: 'SDR_QUEUE_FULL', message: /take 100 bytes, these 21 more, and one caller may have 120/ })
    await t.rejects(store.accept(request({ inputBytes: 21 })), { code: 'SDR_QUEUE_FULL' })
    await t.rejects(store.checkRoom('cid', 51), { code: 'SDR_QUEUE_FULL', message: /of all jobs that have not ended may take 250 bytes/ })
    await t.rejects(store.checkRoom('cid', 121), { code: 'SDR_BODY_TOO_LARGE', message: /120 bytes together; these have 121/ })
    await store.checkRoom('ann')
    await startNext(store)
    await close()
    const { store: next } = await open(t, options, place)
    await t.rejects(next.checkRoom('ann', 21), { code: 'SDR_QUEUE_FULL' }, 'those of a running job, after a restart too')
    await next.complete('a', [image])
    await next.checkRoom('ann', 120)
    await next.cancel('b')
    await next.checkRoom('bob', 120)
  })

  t.test('the shares of guests are those of their addresses', async t => {
    const { store, place, close } = await open(t, { capacityPerOwner: 2 })
    for (const id of ['1', '2']) await store.accept(request({ id, owner: 'guest', caller: '192.0.2.1' }))
    await t.rejects(store.accept(request({ owner: 'guest', caller: '192.0.2.1' })), { code: 'SDR_QUEUE_FULL', message: /^2 of your jobs/ })
    await store.accept(request({ id: '3', owner: 'guest', caller: '192.0.2.2' }))
    t.equal(await position(store, '3'), 2, 'and so are their turns')
    await close()
    const { store: next } = await open(t, { capacityPerOwner: 2 }, place)
    t.equal(await position(next, '3'), 2)
    await t.rejects(next.checkRoom('192.0.2.1'), { code: 'SDR_QUEUE_FULL' })
    await next.checkRoom('192.0.2.2')
  })

  t.test('jobs of a time', async t => {
    let now = Date.parse('2026-01-01T00:00:00Z')
    const { store } = await open(t, { now: () => now })
    for (const id of ['first', 'second', 'third']) {
      await store.accept(request({ id }))
      now += 60_000
    }
    const ids = async (filter: JobFilter) => (await store.list(filter)).jobs.map(({ id }) => id)
    t.same(await ids({ created_after: '2026-01-01T00:01:00Z' }), ['third', 'second'])
    t.same(await ids({ created_before: '2026-01-01T01:01:00+01:00' }), ['first'])
    t.same(await ids({ created_after: '2026-01-01T00:00:30Z', created_before: '2026-01-01T00:02:00Z', owner: 'ann' }), ['second'])
    const { next_cursor: cursor } = await store.list({ created_after: '2026-01-01T00:01:00Z', limit: 1 })
    t.same(await ids({ created_after: '2026-01-01T00:01:00Z', cursor: cursor! }), ['second'])
  })

  t.test('a page of long jobs ends early', async t => {
    const { store } = await open(t)
    for (let index = 0; index < 12; index++) await store.accept(request({ id: `long ${index}`, parameters: { prompt: 'x'.repeat(200_000) } }))
    await store.accept(request({ id: 'huge', parameters: { prompt: 'x'.repeat(2_000_000) } }))
    const sizes: number[] = []
    const ids: string[] = []
    for (let cursor: string | null | undefined; cursor !== null;) {
      const before = process.cpuUsage() // other programs take no part of it
      const { jobs, next_cursor: next } = await store.list({ limit: 200, cursor })
      const { user, system } = process.cpuUsage(before)
      t.ok(user + system < 100_000, 'microseconds')
      sizes.push(jobs.length)
      ids.push(...jobs.map(({ id }) => id))
      cursor = next
    }
    t.same(sizes, [1, 6, 6])
    t.same(ids, ['huge', ...Array.from({ length: 12 }, (_, index) => `long ${11 - index}`)])
  })

  t.test('both kinds of jobs share the room, and have turns of their own', async t => {
    const { store } = await open(t, {
      capacity: 4, capacityPerOwner: 3, laneOf: type => type === 'upscale' ? 'files' : 'engine'
    })
    const accept = async (owner: string, type: JobType) => (await store.accept(request({ owner, type }))).job
    const files = await accept('ann', 'upscale')
    const second = await accept('ann', 'upscale')
    const anns = await accept('ann', 'txt2img')
    t.equal(anns.position, 1)
    await t.rejects(store.checkRoom('ann'), { code: 'SDR_QUEUE_FULL', message: /3 of your jobs/ })
    const bobs = await accept('bob', 'txt2img')
    await t.rejects(store.checkRoom('bob'), { code: 'SDR_QUEUE_FULL', message: /^4 jobs/ })
    t.same([await store.waiting('engine'), await store.waiting('files')], [2, 2])

    t.equal(await position(store, files.id), 1)
    t.match(await store.claim({ lane: 'files' }), { id: files.id })
    t.equal(await position(store, second.id), 1)
    await store.cancel(second.id)
    t.equal(await position(store, anns.id), 1, 'hers has waited for longer: the turn in the other lane costs her none here')
    await store.cancel(anns.id)
    const back = await accept('ann', 'txt2img')
    t.same([back.position, await position(store, bobs.id)], [2, 1])
    t.match(await store.claim({ lane: 'engine' }), { id: bobs.id })
  })

  t.test('operations at the same time do each job once', async t => {
    const { store } = await open(t, { capacity: 1000 })
    const key = { key: 'k', requestHash: 'h' }
    const accepted = await Promise.all([1, 2, 3, 4].map(async () => store.accept(request({ idempotency: key }))))
    t.equal(accepted.filter(({ isNew }) => isNew).length, 1, 'one job for one key')
    await Promise.all(Array.from({ length: 9 }, async () => store.accept(request())))
    const claims = await Promise.all(Array.from({ length: 12 }, async () => store.claim({ lane: 'engine' })))
    const ids = claims.flatMap(job => job?.id ?? [])
    t.equal(ids.length, 10)
    t.equal(new Set(ids).size, 10, 'no two lanes get the same job')
    const [first] = ids
    const ends = await Promise.all([store.complete(first!, []), store.fail(first!, { code: 'x', message: 'y' }), store.endCancelled(first!), store.giveBack(first!)])
    t.equal(ends.filter(job => job !== undefined).length, 1, 'a job ends once')

    const { job: { id } } = await store.accept(request())
    const [claimed, cancelled] = await Promise.all([store.claim({ lane: 'engine' }), store.cancel(id)])
    if (claimed === undefined) t.match(cancelled, { status: 'cancelled' })
    else t.match(cancelled, { status: 'running' }, 'a job that is claimed first is marked')
  })

  t.test('a job that is to be cancelled does not come back to the queue', async t => {
    const { store } = await open(t)
    for (const leave of [
      async (id: string) => store.giveBack(id), async (id: string) => store.retryOrFail(id, 'SIGSEGV')
    ]) {
      const { job: { id } } = await store.accept(request())
      await startNext(store)
      t.match(await store.cancel(id), { status: 'running' })
      t.match(await leave(id), { id, status: 'cancelled', error: null })
      t.equal(await position(store, id), null)
    }
  })

  t.test('webhooks are due when their job has ended, until they are removed', async t => {
    let now = 1_000_000
    const { store } = await open(t, { now: () => now, webhooksPerOwner: 2 })
    const url = 'http://receiver.example/'
    for (const id of ['a1', 'a2', 'b1']) await store.accept(request({ id, owner: id[0]!, webhookUrl: url }))
    await t.rejects(store.accept(request({ owner: 'a', webhookUrl: url })), { code: 'SDR_QUEUE_FULL', message: /^2 webhooks of your jobs/ })
    t.equal((await store.counts()).queued, 3, 'the job is not accepted without its webhook')
    t.same(await store.webhooks.dueCallers(now), [])
    t.equal(await store.webhooks.nextDue(now), undefined)
    for (const id of ['b1', 'a1', 'a2']) {
      now += 1000
      await store.cancel(id)
    }
    t.same(await store.webhooks.dueCallers(now), ['b', 'a'], 'who waits longest comes first')
    const [first] = await store.webhooks.due('a', now, 1)
    t.match(first, { id: 'a1', url, tries: 0 })
    await store.webhooks.postpone(first!.sequence, now + 500)
    t.match(await store.webhooks.due('a', now, 10), [{ id: 'a2' }])
    t.equal(await store.webhooks.nextDue(now), now + 500)
    t.match(await store.webhooks.due('a', now + 500, 10), [{ id: 'a2', tries: 0 }, { id: 'a1', tries: 1 }])
    await store.webhooks.remove(first!.sequence)
    t.match(await store.webhooks.due('a', now + 500, 10), [{ id: 'a2' }])
    t.equal(await store.webhooks.nextDue(now), undefined)
  })
}
