import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { writeCheckpoint } from '../../bin/support/demo-model/checkpoints.ts'
import { as, build, expectError } from '../helper.ts'
import { until } from '../lib/jobs/fixtures/until.ts'

const body = (model: string) => ({ method: 'POST', url: '/api/models/load', body: { model } } as const)

t.test('lists and gets models, types and directories, and refreshes', async t => {
  const app = await build(t, { auth: 'jwt' })
  const admin = await as(app, 'root', 'admin')
  const user = await as(app, 'alice')
  const folder = app.config.modelsDir[0]!

  t.match((await user('/api/models')).json(), { total: 1, next_cursor: null, models: [{ id: 'checkpoint/minit2i.safetensors', architecture: 'minit2i', loaded: false, sha256: null }] })
  t.notOk('path' in (await user('/api/models')).json().models[0], 'where it lies is for administrators')
  t.equal((await admin('/api/models')).json().models[0].path, join(folder, 'minit2i.safetensors'))
  for (const id of ['checkpoint/minit2i.safetensors', 'checkpoint%2Fminit2i.safetensors']) {
    t.match((await user(`/api/models/${id}`)).json(), { name: 'minit2i', defaults: { width: 64, steps: 20 }, limits: { square_only: true } }, id)
  }
  expectError(t, await user('/api/models/checkpoint/nothing'), 404, 'SDR_MODEL_NOT_FOUND')
  expectError(t, await user('/api/models?type=fish'), 400, 'SDR_INVALID_REQUEST', /one of checkpoint/)
  expectError(t, await user('/api/models?limit=0'), 400, 'SDR_INVALID_REQUEST', /from 1 to 500/)
  expectError(t, await user('/api/models?cursor=x'), 400, 'SDR_INVALID_REQUEST', /cursor/)
  t.match((await user('/api/models/types')).json().types.find(({ type }: { type: string }) => type === 'checkpoint'), { count: 1, unusable: 0 })
  t.equal((await user('/api/models/directories')).json().directories[0].path, undefined)
  t.equal((await admin('/api/models/directories')).json().directories[0].path, folder)

  writeCheckpoint('minit2i', join(folder, 'second.safetensors'), { seed: 2 })
  writeFileSync(join(folder, 'old.ckpt'), 'a pickle may run code')
  expectError(t, await user({ method: 'POST', url: '/api/models/refresh' }), 403, 'SDR_FORBIDDEN')
  t.match((await admin({ method: 'POST', url: '/api/models/refresh' })).json(), { models: 3 })
  t.match((await user('/api/models?search=old')).json().models, [{ blocked: String }])
  const page = (await user('/api/models?limit=2')).json()
  t.equal(page.models.length, 2)
  t.equal((await user(`/api/models?limit=2&cursor=${page.next_cursor}`)).json().models.length, page.total - 2)
})

t.test('loads and unloads models', async t => {
  const app = await build(t, { auth: 'jwt' })
  const admin = await as(app, 'root', 'admin')
  const folder = app.config.modelsDir[0]!
  expectError(t, await (await as(app, 'alice'))(body('minit2i')), 403, 'SDR_FORBIDDEN')
  t.match((await admin(body('minit2i'))).json(), { id: 'checkpoint/minit2i.safetensors', loaded: true })
  t.equal((await admin('/api/status')).json().engine.model, 'checkpoint/minit2i.safetensors')
  const drawn = await admin({ method: 'POST', url: '/api/generate/txt2img?wait=30', body: { prompt: 'a fox', steps: 1 } })
  t.match(drawn.json(), { status: 'completed', model: 'checkpoint/minit2i.safetensors' })

  t.equal((await admin({ method: 'POST', url: '/api/models/unload' })).statusCode, 204)
  t.equal((await admin('/api/status')).json().engine.model, null)
  t.equal((await admin({ method: 'POST', url: '/api/models/unload' })).statusCode, 204, 'nothing to unload is fine')

  expectError(t, await admin(body('nothing')), 404, 'SDR_MODEL_NOT_FOUND')
  writeFileSync(join(folder, 'damaged.safetensors'), readFileSync(join(folder, 'minit2i.safetensors')))
  await app.models.refresh()
  truncateSync(join(folder, 'damaged.safetensors'), 1_000_000)
  expectError(t, await admin(body('damaged')), 422, 'SDR_UNSUPPORTED_MODEL')
  rmSync(join(folder, 'damaged.safetensors'))
  expectError(t, await admin(body('checkpoint/damaged.safetensors')), 422, 'SDR_UNSUPPORTED_MODEL', /gone/)
  t.match((await admin(body('minit2i'))).json(), { loaded: true }, 'a failure does no harm')
})

t.test('load and unload wait for the running job, up to their limit or until the caller goes', async t => {
  const app = await build(t, {})
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  writeCheckpoint('minit2i', join(app.config.modelsDir[0]!, 'second.safetensors'), { seed: 2 })
  await app.models.refresh()
  const { id } = (await app.inject({ method: 'POST', url: '/api/generate/txt2img', body: { model: 'minit2i', prompt: 'a fox', width: 256, steps: 150, batch_count: 4 } })).json<{ id: string }>()
  await until(async () => (await app.jobs.get(id)).status === 'running')

  for (const request of [body('second'), { method: 'POST', url: '/api/models/unload' } as const]) {
    const refused = await app.inject({ ...request, query: { wait: '1' } })
    expectError(t, refused, 503, 'SDR_UNAVAILABLE', /within 1 s .* a job is running/)
    t.equal(refused.headers['retry-after'], '30')
    expectError(t, await app.inject({ ...request, query: { wait: '601' } }), 400, 'SDR_INVALID_REQUEST', /from 0 to 600 for wait/)
  }
  const gone = new AbortController()
  const left = t.rejects(fetch(`${url}/api/models/load`, {
    method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ model: 'second' }), signal: gone.signal
  }).then(async answer => answer.text()))
  setTimeout(() => gone.abort(), 300)
  await left
  await delay(300) // until the server has noticed
  t.equal((await app.jobs.get(id)).status, 'running')
  await app.inject({ method: 'DELETE', url: `/api/queue/job/${id}` })
  await app.jobs.waitFor(id, 30_000)
  t.match((await app.inject({ ...body('minit2i'), query: { wait: '30' } })).json(), { id: 'checkpoint/minit2i.safetensors', loaded: true })
  const { body: metrics } = await app.inject('/metrics')
  t.match(metrics, /^sdrest_model_load_seconds_count 1$/m, 'the second model was never loaded')
})
