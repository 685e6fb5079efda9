import t from 'tap'
import { buildApp } from '../../app.ts'
import { as, build, expectError, testOptions, workspace } from '../helper.ts'
import { until } from '../lib/jobs/fixtures/until.ts'

const model = 'checkpoint/minit2i.safetensors'
const post = (url: string, body?: object) => ({ method: 'POST', url, body } as const)

t.test('an engine process for each device, and one queue', async t => {
  const app = await build(t, { auth: 'jwt', devices: 'cpu,auto' })
  const admin = await as(app, 'root', 'admin')
  const status = async () => (await admin('/api/status')).json()

  const { engine, engines } = await status()
  t.match(engines, [{ device: 'cpu', state: 'idle', model: null }, { device: 'auto', state: 'idle', model: null }])
  t.equal(engine.pid, engines[0].pid)
  t.not(engines[0].pid, engines[1].pid)
  t.notOk('engines' in (await app.inject('/api/status')).json(), 'strangers see no details')

  t.match((await admin(post('/api/models/load', { model: 'minit2i', device: 'auto' }))).json(), { id: model, loaded: true })
  t.match((await status()).engines, [{ model: null }, { model }])
  t.match((await admin(`/api/models/${model}`)).json(), { loaded: true })
  expectError(t, await admin(post('/api/models/load', { model: 'minit2i', device: 'cuda0' })), 400, 'SDR_INVALID_REQUEST', /one of cpu, auto for device/)
  expectError(t, await admin(post('/api/models/unload', { device: 'cuda0' })), 400, 'SDR_INVALID_REQUEST', /one of cpu, auto for device/)
  expectError(t, await admin(post('/api/models/unload', { devices: 'cpu' })), 400, 'SDR_INVALID_REQUEST', /devices/)

  const jobs = await Promise.all(Array.from({ length: 6 }, async (_, seed) =>
    (await admin(post('/api/generate/txt2img', { prompt: 'a fox', steps: 20, seed: seed % 2 }))).json()))
  await until(async () => (await app.jobs.status()).scheduler.lanes.filter(({ state }) => state === 'running').length === 2)
  t.match((await admin('/api/queue/status')).json(), {
    running: 2, scheduler: { state: 'running', lanes: [{ device: 'cpu', state: 'running' }, { device: 'auto', state: 'running' }, { lane: 'files', device: null }] }
  })
  const bytes = await Promise.all(jobs.map(async ({ id }) => {
    t.match(await app.jobs.waitFor(id, 60_000), { status: 'completed', attempts: 1 })
    return (await admin(`/api/queue/job/${id}/images/0`)).rawPayload.toString('base64')
  }))
  t.equal(new Set(bytes).size, 2, 'the same seed draws the same on both')
  t.match((await status()).engines, [{ model }, { model }])

  t.equal((await admin(post('/api/models/unload', { device: 'cpu' }))).statusCode, 204)
  t.match((await status()).engines, [{ model: null }, { model }])
  t.equal((await admin(post('/api/models/unload'))).statusCode, 204)
  t.match((await status()).engines, [{ model: null }, { model: null }])
  t.match((await admin(`/api/models/${model}`)).json(), { loaded: false })

  process.kill((await status()).engines[0].pid, 'SIGKILL')
  await until(() => app.devices[0]!.engine.status.restarts === 1)
  t.match((await status()).engines, [{ restarts: 1, last_crash: { reason: /SIGKILL/ } }, { restarts: 0 }])
  const { id } = (await admin(post('/api/generate/txt2img', { prompt: 'a fox', steps: 1 }))).json()
  t.match(await app.jobs.waitFor(id, 60_000), { status: 'completed', attempts: 1 })
})

t.test('devices that cannot be', async t => {
  const { models, data } = workspace(t)
  for (const [options, message] of [
    [{ device: 'cpu', devices: 'auto' }, 'Expected --device or --devices but received both'],
    [{ devices: 'cpu,auto,CPU' }, 'Expected different names for --devices but received cpu twice'],
    [{ devices: Array.from({ length: 17 }, (_, index) => `cuda${index}`).join() }, 'Expected at most 16 names for --devices but received 17'],
    [{ devices: 'cpu,cuda77' }, /^The portable engine has no device "cuda77"; expected one of auto, cpu/],
    [{ device: 'cuda77' }, /^The portable engine has no device "cuda77"/]
  ] as const) {
    await t.rejects(buildApp(testOptions({ 'models-dir': [models], 'data-dir': data, ...options })), { exitCode: 2, message })
  }
})
