import t from 'tap'
import type { Job } from '../../lib/jobs/job.ts'
import { as, build, expectError } from '../helper.ts'

t.setTimeout(120_000)

const drawing = { method: 'POST', url: '/api/generate/txt2img', body: { prompt: 'a fox', width: 512, steps: 150 } } as const
const guests = { auth: 'optional', 'guest-permissions': 'models:read,queue:read,generate', 'shutdown-timeout': '0' }

t.test('the image of a job that has not ended says when it will be there', async t => {
  const app = await build(t)
  const first = (await app.inject(drawing)).json<Job>()
  const second = (await app.inject(drawing)).json<Job>()
  const waiting = await app.inject(`/api/queue/job/${second.id}/images/0`)
  expectError(t, waiting, 404, 'SDR_IMAGE_NOT_FOUND')
  t.match(waiting.json().error.message, /^The job still waits \(position \d\), so it has no image yet; fetch it when the status of the job is completed/)
  while ((await app.jobs.get(first.id)).progress?.phase !== 'sampling') await new Promise(resolve => { setTimeout(resolve, 20) })
  const running = await app.inject(`/api/queue/job/${first.id}/images/0`)
  expectError(t, running, 404, 'SDR_IMAGE_NOT_FOUND')
  t.match(running.json().error.message, /^The job is still running \(sampling, step \d+ of 150\)/)
  for (const { id } of [second, first]) await app.inject({ method: 'DELETE', url: `/api/queue/job/${id}` })
  await app.jobs.waitFor(first.id, 30_000)
  t.match((await app.inject(`/api/queue/job/${first.id}/images/0`)).json().error.message, 'The job is cancelled and has no images.')
})

t.test('why jobs have to wait and an engine crashed is for those who run the server', async t => {
  const app = await build(t, { auth: 'jwt', 'public-paths': ['/api/queue/status', '/api/status'] })
  const [alice, bob] = [await as(app, 'alice', 'admin'), await as(app, 'bob')]
  const secret = 'SQLITE_CANTOPEN: /var/lib/secret/jobs.db'
  const blocked = { reason: secret, retry_at: null }
  const status = await app.jobs.status()
  const lanes = status.scheduler.lanes.map(lane => ({ ...lane, blocked }))
  Object.defineProperty(app.jobs, 'status', { value: async () => ({ ...status, scheduler: { ...status.scheduler, blocked, lanes } }) })
  const { engine } = app.devices[0]!
  Object.defineProperty(engine, 'status', { value: { ...engine.status, last_crash: { reason: secret, at: new Date().toISOString() } } })
  for (const url of ['/api/queue/status', '/api/status']) {
    t.match((await alice(url)).body, secret, url)
    for (const response of [await bob(url), await app.inject(url)]) {
      t.equal(response.statusCode, 200)
      t.notMatch(response.body, 'secret', url)
    }
  }
  t.match((await bob('/api/queue/status')).json().scheduler, { blocked: { reason: /its log says why/ } })
  t.match((await bob('/api/status')).json().engine, { last_crash: { reason: 'The engine crashed.' } })
})

t.test('guests of different addresses do not take the places of each other', async t => {
  const app = await build(t, { ...guests, 'queue-per-owner': 1 })
  const from = (remoteAddress: string) => app.inject({ ...drawing, remoteAddress })
  const statuses: number[] = []
  for (let count = 0; count < 3; count++) statuses.push((await from('192.0.2.1')).statusCode)
  t.equal(statuses.at(-1), 429, 'one runs at most, one waits')
  t.equal((await from('192.0.2.2')).statusCode, 202)
  t.equal((await from('2001:db8:1:1::1')).statusCode, 202)
  t.equal((await from('2001:db8:1:ffff::1')).statusCode, 429, 'the networks of one customer have one share')
  t.equal((await from('2001:db8:2:1::1')).statusCode, 202)
  for (const { id } of (await app.jobs.list()).jobs) await app.inject({ method: 'DELETE', url: `/api/queue/job/${id}`, remoteAddress: '192.0.2.1' })
})

t.test('guests of different addresses have Idempotency-Keys of their own', async t => {
  const app = await build(t, guests)
  const from = async (remoteAddress: string, prompt: string) => {
    const request = { ...drawing, body: { ...drawing.body, prompt }, headers: { 'idempotency-key': 'k' }, remoteAddress }
    const response = await app.inject(request)
    return response.statusCode === 202 ? response.json<{ id: string }>().id : response.statusCode
  }
  const first = await from('192.0.2.1', 'a fox')
  const second = await from('192.0.2.2', 'a cat')
  t.type(second, 'string')
  t.not(first, second)
  t.equal(await from('192.0.2.1', 'a fox'), first)
  t.equal(await from('192.0.2.1', 'a cat'), 409)
  t.equal(await from('192.0.2.2', 'a cat'), second)
  for (const id of [first, second]) await app.inject({ method: 'DELETE', url: `/api/queue/job/${id}`, remoteAddress: '192.0.2.1' })
})
