import { createHash } from 'node:crypto'
import { execFileSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Job } from '../../lib/jobs/job.ts'
import { writeCheckpoint } from '../../bin/support/demo-model/checkpoints.ts'
import { safetensors, typical } from '../fixtures/headers.ts'
import { as, build, expectError, workspace } from '../helper.ts'
import { fileServer, sendFile } from '../lib/models/fixtures/file-server.ts'
import { startServer, until } from '../server-process.ts'

const model = safetensors({ ...typical.vae, padding: { shape: [4000, 512] } })
const sha256 = (content: Buffer) => createHash('sha256').update(content).digest('hex')
const post = (url: string, body: object) => ({ method: 'POST', url, body } as const)

async function setUp (t: Test, options: object = {}) {
  const app = await build(t, { auth: 'jwt', 'pull-hosts': '127.0.0.1', ...options })
  return { app, admin: await as(app, 'root', 'admin'), user: await as(app, 'alice'), folder: app.config.modelsDir[0]! }
}

t.test('finds a hash in a job and keeps it', async t => {
  const { admin, user, folder } = await setUp(t)
  expectError(t, await user(post('/api/models/hash', { model: 'minit2i' })), 403, 'SDR_FORBIDDEN')
  expectError(t, await admin(post('/api/models/hash', { model: 'minit2' })), 404, 'SDR_MODEL_NOT_FOUND', /minit2i/)
  expectError(t, await admin(post('/api/models/hash', { modle: 'minit2i' })), 400, 'SDR_INVALID_REQUEST')
  const answer = await admin(post('/api/models/hash?wait=60', { model: 'minit2i' }))
  t.equal(answer.statusCode, 200)
  const expected = sha256(readFileSync(join(folder, 'minit2i.safetensors')))
  const id = 'checkpoint/minit2i.safetensors'
  t.match(answer.json(), { type: 'hash', status: 'completed', model: id, parameters: { model: id }, images: [], result: { model: id, sha256: expected } })
  t.strictSame(answer.json().parameters, { model: id }, 'no seed')
  t.equal(answer.headers.location, `/api/queue/job/${answer.json().id}`)
  t.equal((await user(`/api/models/${id}`)).json().sha256, expected)
  t.match((await admin('/api/queue/jobs?type=hash')).json(), { jobs: [{ id: answer.json().id }] })
  expectError(t, await user(`/api/queue/job/${answer.json().id}`), 404, 'SDR_JOB_NOT_FOUND')
  t.equal((await admin(post('/api/models/hash', { model: id }))).statusCode, 202)
})

t.test('refuses features that the engine lacks', async t => {
  const { admin } = await setUp(t)
  expectError(t, await admin(post('/api/models/convert', { model: 'minit2i', weight_type: 'q8_0' })), 422, 'SDR_UNSUPPORTED_FEATURE', /portable engine lacks convert/)
})

t.test('pulls, cancels and refuses', async t => {
  const { app, admin, user, folder } = await setUp(t)
  let pause = 0
  const files = await fileServer(t, (request, response) => { sendFile(request, response, model, { pause }) })
  const request = { source: `${files.url}/new.safetensors`, type: 'vae', sha256: sha256(model) }
  expectError(t, await user(post('/api/models/pull', request)), 403, 'SDR_FORBIDDEN')
  for (const [body, field] of [
    [{ ...request, source: 'file:///etc/passwd' }, 'source'], [{ ...request, source: `${files.url}/x.gguf?token=abc` }, 'source'], [{ ...request, name: '../x.gguf' }, 'name'],
    [{ ...request, folder: '../../etc' }, 'folder'], [{ ...request, folder: '~/models' }, 'folder'], [{ ...request, type: 'fish' }, 'type'], [{ ...request, sha256: 'x' }, 'sha256'], [{ ...request, token: 'x' }, 'token']
  ] as const) expectError(t, await admin(post('/api/models/pull', body)), 400, 'SDR_INVALID_REQUEST', new RegExp(field))
  t.equal(files.requests.length, 0)

  const { id } = (await admin(post('/api/models/pull', request))).json<Job>()
  const progress: unknown[] = []
  for await (const { name, data } of await app.jobs.subscribe(id)) if (name === 'progress') progress.push(data)
  const done = (await admin(`/api/queue/job/${id}`)).json<Job>()
  const modelId = 'vae/new.safetensors'
  t.match(done, { type: 'pull', status: 'completed', model: request.source, result: { model: modelId, size: model.length, sha256: request.sha256 } })
  t.match(progress.at(-1), { phase: 'downloading', step: 4, steps: 4 })
  t.match((await user(`/api/models/${modelId}`)).json(), { type: 'vae', sha256: request.sha256 })
  expectError(t, await admin(post('/api/models/pull', request)), 409, 'SDR_CONFLICT', /new\.safetensors.*already/)

  // Two ask for one name before there is such a file: the second is told.
  pause = 2
  const twice = { ...request, name: 'twice.safetensors' }
  const [first, second] = [(await admin(post('/api/models/pull', twice))).json<Job>(), (await admin(post('/api/models/pull', { ...twice, source: `${files.url}/b.safetensors` }))).json<Job>()]
  t.match(await app.jobs.waitFor(second.id, 60_000), { status: 'failed', error: { code: 'conflict' } })
  t.match(await app.jobs.waitFor(first.id, 60_000), { status: 'completed' })

  pause = 20
  const slow = (await admin(post('/api/models/pull', { ...request, name: 'slow.safetensors' }))).json<Job>()
  const hidden = () => readdirSync(join(folder, 'vae')).filter(name => name.startsWith('.'))
  await until(async () => hidden().length === 1 && (await app.jobs.get(slow.id)).progress !== null)
  t.match((await admin('/api/queue/status')).json(), { scheduler: { state: 'idle' } }, 'the engine is free meanwhile')
  t.match((await admin({ method: 'POST', url: '/api/generate/txt2img?wait=60', body: { prompt: 'a fox', steps: 1 } })).json(), { status: 'completed' })
  await admin({ method: 'DELETE', url: `/api/queue/job/${slow.id}` })
  t.match(await app.jobs.waitFor(slow.id, 60_000), { status: 'cancelled' })
  await until(async () => hidden().length === 0)
  t.match((await admin(post('/api/models/pull?wait=60', { ...request, name: 'wrong.safetensors', sha256: 'a'.repeat(64) }))).json(), { status: 'failed', error: { code: 'download_failed', message: /SHA-256/ } })
  t.match(await app.auditLog.list({ event: 'model.pull', limit: 10 }), [{ actor: 'root', subject: request.source }])
})

t.test('continues a pull after kill -9, and stores no token', async t => {
  const { models, data } = workspace(t)
  const files = await fileServer(t, (request, response) => {
    if (request.headers.authorization !== 'Bearer hf_very-secret') response.writeHead(401).end()
    else sendFile(request, response, model, { pause: files.requests.length === 1 ? 30 : 0 })
  })
  const options = ['--models-dir', models, '--data-dir', data, '--hf-endpoint', files.url, '--pull-hosts', '127.0.0.1']
  const env = { SDREST_HF_TOKEN: 'hf_very-secret' }
  const first = await startServer(t, options, { env })
  const { body: job } = await first.json<Job>('/api/models/pull', { method: 'POST', body: JSON.stringify({ source: 'hf:owner/repo/a.safetensors' }) })
  await until(async () => ((await first.json<Job>(`/api/queue/job/${job.id}`)).body.progress?.step ?? 0) >= 2)
  await first.end('SIGKILL')
  t.notOk(existsSync(join(models, 'a.safetensors')))
  const second = await startServer(t, options, { env })
  const ended = await until(async () => {
    const { body } = await second.json<Job>(`/api/queue/job/${job.id}`)
    return body.finished_at !== null && body
  })
  t.match(ended, { status: 'completed', attempts: 2, result: { model: 'vae/a.safetensors', sha256: sha256(model) } })
  t.match(files.requests.at(-1)!.headers.range, /^bytes=\d{7}-$/, 'only the rest was fetched')
  await second.end()
  const kept = readdirSync(data, { recursive: true, withFileTypes: true }).filter(entry => entry.isFile())
  t.ok(kept.length > 2)
  for (const { parentPath, name } of kept) t.notOk(readFileSync(join(parentPath, name)).includes('very-secret'), name)
  t.notMatch(JSON.stringify([first.log, second.log]), /very-secret/)
})

t.test('deletes models', async t => {
  const { app, admin, user, folder } = await setUp(t)
  const remove = (id: string) => ({ method: 'DELETE', url: `/api/models/${id}` } as const)
  mkdirSync(join(folder, 'loras'))
  writeFileSync(join(folder, 'loras/a b.safetensors'), safetensors(typical.lora))
  symlinkSync('a b.safetensors', join(folder, 'loras/link.safetensors'))
  writeFileSync(join(folder, 'loras/kept.preview.png'), 'x')
  writeCheckpoint('minit2i', join(folder, 'other.safetensors'), { seed: 2 })
  writeFileSync(join(folder, 'both.model.yaml'), 'model: other.safetensors')
  await admin({ method: 'POST', url: '/api/models/refresh' })

  expectError(t, await user(remove('lora/a%20b.safetensors')), 403, 'SDR_FORBIDDEN')
  for (const id of ['nothing', 'lora/..%2Fminit2i.safetensors', '..%2F..%2Fetc%2Fpasswd', 'loras/a%20b.safetensors', '%2Fetc%2Fpasswd']) {
    expectError(t, await admin(remove(id)), 404, 'SDR_MODEL_NOT_FOUND')
  }
  t.equal((await admin(remove('lora/link.safetensors'))).statusCode, 204)
  t.strictSame(readdirSync(join(folder, 'loras')).sort(), ['a b.safetensors', 'kept.preview.png'], 'a link goes, and not what it leads to')
  t.equal((await admin(remove('lora%2Fa%20b.safetensors'))).statusCode, 204)
  expectError(t, await admin('/api/models/lora/a%20b.safetensors'), 404, 'SDR_MODEL_NOT_FOUND')

  t.equal((await admin(post('/api/models/load', { model: 'checkpoint/both.model.yaml' }))).statusCode, 200)
  for (const id of ['checkpoint/both.model.yaml', 'checkpoint/other.safetensors']) expectError(t, await admin(remove(id)), 409, 'SDR_CONFLICT', /in the memory/)
  await admin({ method: 'POST', url: '/api/models/unload' })
  expectError(t, await admin(remove('checkpoint/other.safetensors')), 409, 'SDR_CONFLICT', /is a part of checkpoint\/both\.model\.yaml/)
  t.equal((await admin(remove('checkpoint/both.model.yaml'))).statusCode, 204)
  t.ok(existsSync(join(folder, 'other.safetensors')), 'of a description the parts stay')

  app.models.close() // nothing notices what happens now
  utimesSync(join(folder, 'other.safetensors'), 1, 1)
  expectError(t, await admin(remove('checkpoint/other.safetensors')), 409, 'SDR_CONFLICT', /changed meanwhile/)
  await admin({ method: 'POST', url: '/api/models/refresh' })
  t.equal((await admin(remove('checkpoint/other.safetensors'))).statusCode, 204)
  t.match((await app.auditLog.list({ event: 'model.remove', limit: 10 })).map(({ subject }) => subject), ['lora/link.safetensors', 'lora/a b.safetensors', 'checkpoint/both.model.yaml', 'checkpoint/other.safetensors'])
})

t.test('refuses changes in a read-only models folder', async t => {
  const { app, admin, folder } = await setUp(t)
  const files = await fileServer(t, (request, response) => { sendFile(request, response, model) })
  const pull = { source: `${files.url}/new.safetensors` }
  expectError(t, await admin(post('/api/models/pull', { ...pull, folder: 'minit2i.safetensors/x' })), 409, 'SDR_CONFLICT', /A file lies where a folder is needed/)

  const isRoot = process.getuid?.() === 0 // whom modes do not stop
  if (isRoot) {
    execFileSync('mount', ['--bind', folder, folder])
    execFileSync('mount', ['-o', 'remount,ro,bind', folder])
  } else {
    chmodSync(folder, 0o555)
  }
  try {
    const why = isRoot ? /mounted read-only/ : /the user that the server runs as may not/i
    expectError(t, await admin(post('/api/models/pull', pull)), 409, 'SDR_CONFLICT', why)
    expectError(t, await admin(post('/api/models/pull', { ...pull, type: 'lora', folder: 'a/b' })), 409, 'SDR_CONFLICT', why)
    expectError(t, await admin({ method: 'DELETE', url: '/api/models/checkpoint/minit2i.safetensors' }), 409, 'SDR_CONFLICT', why)
    await t.rejects(app.puller.pull(pull), { code: 'SDR_CONFLICT', message: why }, 'also when it became so after the job was accepted')
    t.strictSame([files.requests.length, readdirSync(folder)], [0, ['minit2i.safetensors']])
    t.equal((await admin(post('/api/models/hash?wait=60', { model: 'minit2i' }))).json().status, 'completed')
  } finally {
    if (isRoot) execFileSync('umount', [folder])
    else chmodSync(folder, 0o755)
  }
})

t.test('shows the loaded model only to those who may see it', async t => {
  const { admin, app } = await setUp(t)
  t.equal((await admin('/api/status')).json().engines[0].residency, null)
  await admin(post('/api/models/load', { model: 'minit2i' }))
  const { model: loaded, residency } = (await admin('/api/status')).json().engines[0]
  t.match({ loaded, residency }, { loaded: 'checkpoint/minit2i.safetensors', residency: { loaded_at: String, idle_since: String, size: Number } })
  t.ok(Date.parse(residency.loaded_at) <= Date.parse(residency.idle_since) + 1000)
  t.equal((await app.inject('/api/status')).json().engines, undefined)
})
