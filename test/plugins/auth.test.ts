import { statSync } from 'node:fs'
import { join } from 'node:path'
import type { InjectOptions } from 'fastify'
import t from 'tap'
import type { Permission } from '../../lib/options/permissions.ts'
import { readablePattern } from '../../lib/http/public-paths.ts'
import { as, build, expectError, password } from '../helper.ts'

t.test('with --auth jwt only health, status, logins are public', async t => {
  const app = await build(t, { auth: 'jwt' })
  t.same([...app.publicRoutes].map(readablePattern).sort(), [
    'GET /api/health', 'GET /api/status', 'GET /api/v1/images/files/{name}', 'GET /v1/images/files/{name}',
    'POST /api/auth/login', 'POST /api/auth/refresh', 'POST /api/auth/token', 'POST /sign-in'
  ])
  const document = app.swagger() as unknown as {
    paths: Record<string, Record<string, { security?: object[], operationId: string }>>
  }
  for (const [path, operations] of Object.entries(document.paths)) {
    for (const [method, { security, operationId }] of Object.entries(operations)) {
      const url = path.replace(/\{\w+\}/g, '0190b5a0-0000-7000-8000-000000000000')
      const response = await app.inject({ method: method.toUpperCase() as 'GET', url })
      const isPublic = app.publicRoutes.has(`${method.toUpperCase()} ${path.replace(/\{(\w+)\}/g, ':$1')}`)
      const { error } = String(response.headers['content-type']).startsWith('application/json') ? response.json() : {}
      t.equal(response.statusCode === 401 && ['SDR_UNAUTHENTICATED', 'invalid_api_key'].includes(error?.code ?? error), !isPublic, `${method} ${path}`)
      t.equal(security !== undefined && security.length === 0, isPublic, `the document says so of ${operationId}`)
    }
  }

  for (const url of ['/', '/api', '/api/nothing', '/api/docs', '/api/docs/static/index.html', '/api/openapi.json', '/robots.txt']) {
    const response = await app.inject(url)
    expectError(t, response, 401, 'SDR_UNAUTHENTICATED')
    t.match(response.headers['www-authenticate'], /^Bearer/)
  }
  expectError(t, await app.inject({ method: 'PUT', url: '/api/health' }), 401, 'SDR_UNAUTHENTICATED')
  t.equal((await app.inject({ method: 'HEAD', url: '/api/health' })).statusCode, 200, 'HEAD follows GET')
  t.equal((await app.inject({ method: 'HEAD', url: '/api/models' })).statusCode, 401)
  t.match((await app.inject('/api/health')).json(), { status: 'ok', timestamp: String, version: String })
  t.notOk('device' in (await app.inject('/api/status')).json().engine, 'strangers see no details')
})

t.test('login, me, validate, refresh, logout', async t => {
  const app = await build(t, { auth: 'jwt' })
  const alice = await as(app, 'alice', 'admin')
  t.match((await alice('/api/auth/me')).json(), { username: 'alice', role: 'admin', via: 'jwt' })
  t.equal((await alice('/api/auth/validate')).statusCode, 200)
  t.equal((await alice('/api/models')).statusCode, 200)
  t.type((await alice('/api/status')).json().engine.device, 'string')
  expectError(t, await alice('/api/nothing'), 404, 'SDR_NOT_FOUND')

  const refreshed = await app.inject({ method: 'POST', url: '/api/auth/refresh', body: { refresh_token: alice.refreshToken } })
  t.match(refreshed.json(), { token: String, token_type: 'Bearer', expires_at: String, refresh_token: String, user: { username: 'alice' } })
  const { token } = refreshed.json<{ token: string }>()
  const reused = await app.inject({ method: 'POST', url: '/api/auth/refresh', body: { refresh_token: alice.refreshToken } })
  expectError(t, reused, 401, 'SDR_INVALID_TOKEN', /used before/)
  expectError(t, await app.inject({ url: '/api/models', headers: { authorization: `Bearer ${token}` } }), 401, 'SDR_INVALID_TOKEN', /session .* ended/)

  const again = await as(app, 'alice')
  t.equal((await again({ method: 'POST', url: '/api/auth/logout' })).statusCode, 204)
  expectError(t, await again('/api/models'), 401, 'SDR_INVALID_TOKEN')
  expectError(t, await app.inject({ method: 'POST', url: '/api/auth/refresh', body: { refresh_token: again.refreshToken } }), 401, 'SDR_INVALID_TOKEN')

  const wrong = await app.inject({ method: 'POST', url: '/api/auth/login', body: { username: 'alice', password: 'wrong' } })
  const unknown = await app.inject({ method: 'POST', url: '/api/auth/login', body: { username: 'nobody', password: 'wrong' } })
  expectError(t, wrong, 401, 'SDR_INVALID_CREDENTIALS')
  t.equal(wrong.json().error.message, unknown.json().error.message, 'the answer does not tell which names exist')

  const nested = await app.inject({ method: 'POST', url: '/api/auth/login', headers: { 'content-type': 'application/json' }, payload: '['.repeat(5000) + ']'.repeat(5000) })
  expectError(t, nested, 400, 'SDR_INVALID_REQUEST', /at most 8 lists and objects within each other for body/)

  const stale = { authorization: 'Bearer stale.stale.stale' }
  t.equal((await app.inject({ method: 'POST', url: '/api/auth/login', headers: stale, body: { username: 'alice', password } })).statusCode, 200)
  expectError(t, await app.inject({ url: '/api/health', headers: stale }), 401, 'SDR_INVALID_TOKEN')
})

t.test('an account of a system that is not asked gets no next token', async t => {
  const app = await build(t, { auth: 'jwt' })
  const user = await app.store.accounts.addExternal('unix', 'mona', 'user')
  const { refreshToken, sessionId } = (await app.store.sessions.open({ user, hash: null }, '127.0.0.1', 'test'))!
  for (let count = 0; count < 2; count++) {
    const refreshed = await app.inject({ method: 'POST', url: '/api/auth/refresh', body: { refresh_token: refreshToken } })
    expectError(t, refreshed, 401, 'SDR_INVALID_TOKEN', /system account .* not let in/)
    t.notMatch(refreshed.body, 'token":')
  }
  t.match(await app.auditLog.list({ event: 'refresh', limit: 10 }), Array(2).fill({ outcome: 'failure', actor: 'mona', subject: sessionId, reason: 'not admitted' }))
})

t.test('a session survives a restart, and files are for their owner only', async t => {
  const app = await build(t, { auth: 'jwt' })
  const { token } = await as(app, 'alice')
  const { folders, config } = app
  await app.close()
  const { buildApp } = await import('../../app.ts')
  const next = await buildApp(config)
  t.teardown(() => next.close())
  t.equal((await next.inject({ url: '/api/models', headers: { authorization: `Bearer ${token}` } })).statusCode, 200)
  for (const [file, mode] of [['', 0o700], ['auth.db', 0o600], ['jwt-secret', 0o600]] as const) {
    t.equal(statSync(join(folders.auth, file)).mode & 0o777, mode, file)
  }
})

t.test('--public-paths opens and closes what it names', async t => {
  const app = await build(t, { auth: 'jwt', 'public-paths': '/api/models,/api/docs,!/api/status,POST:/api/models/refresh' })
  t.equal((await app.inject('/api/models')).statusCode, 200)
  t.equal((await app.inject('/api/models/types')).statusCode, 200)
  t.equal((await app.inject('/api/docs/static/swagger-ui.css')).statusCode, 200)
  t.equal((await app.inject({ method: 'POST', url: '/api/models/refresh' })).statusCode, 200)
  expectError(t, await app.inject('/api/status'), 401, 'SDR_UNAUTHENTICATED')
  expectError(t, await app.inject('/api/samplers'), 401, 'SDR_UNAUTHENTICATED')
  t.notOk('path' in (await app.inject('/api/models/directories')).json().directories[0], 'strangers do not see where files lie')
  expectError(t, await app.inject({ method: 'POST', url: '/api/generate/txt2img', body: { prompt: 'x' } }), 401, 'SDR_UNAUTHENTICATED')

  await t.rejects(build(t, { auth: 'jwt', 'public-paths': '/api/model' }), { exitCode: 2, message: /nearest is "\/api\/models"/ })
})

t.test('--public-paths / lets strangers draw as the guest, and see and cancel no jobs but those of guests', async t => {
  const app = await build(t, { auth: 'jwt', 'public-paths': '/', 'queue-per-owner': '2', 'shutdown-timeout': '0' })
  const alice = await as(app, 'alice')
  const draw = { method: 'POST', url: '/api/generate/txt2img', body: { prompt: 'a fox', width: 512, height: 512, steps: 100 } } as const
  const hers = (await alice(draw)).json().id
  const accepted = await app.inject(draw)
  t.equal(accepted.statusCode, 202, accepted.body)
  const { id } = accepted.json<{ id: string }>()
  t.equal((await app.inject(`/api/queue/job/${id}`)).statusCode, 200)
  t.same((await app.inject('/api/queue/jobs')).json().jobs.map((job: { id: string }) => job.id), [id])
  for (const method of ['GET', 'DELETE'] as const) expectError(t, await app.inject({ method, url: `/api/queue/job/${hers}` }), 404, 'SDR_JOB_NOT_FOUND')
  t.equal((await alice(`/api/queue/job/${id}`)).statusCode, 404, 'an account does not see those of guests')
  t.equal((await app.inject(draw)).statusCode, 202)
  expectError(t, await app.inject(draw), 429, 'SDR_QUEUE_FULL')
  expectError(t, await app.inject({ ...draw, body: { ...draw.body, priority: 5 } }), 403, 'SDR_FORBIDDEN')
  expectError(t, await app.inject({ ...draw, headers: { origin: 'https://evil.example' } }), 403, 'SDR_FORBIDDEN', /Pages of "https:\/\/evil.example"/)
  expectError(t, await app.inject({ ...draw, headers: { 'x-api-key': 'sdr_wrong' } }), 401, 'SDR_INVALID_TOKEN')
  expectError(t, await app.inject({ method: 'DELETE', url: '/api/models/minit2i.safetensors' }), 401, 'SDR_UNAUTHENTICATED')
  t.match((await app.inject({ method: 'DELETE', url: `/api/queue/job/${id}` })).statusCode, 200)
})

t.test('a permission to read cancels nothing', async t => {
  const app = await build(t, { auth: 'optional' })
  const alice = await as(app, 'alice', 'admin')
  const bob = await as(app, 'bob')
  const draw = { method: 'POST', url: '/api/generate/txt2img', body: { prompt: 'a fox', width: 512, height: 512, steps: 100 } } as const
  const keyOf = async (owner: typeof alice, ...permissions: Permission[]) => {
    const { key } = await app.keys.create({ userId: owner.id, name: permissions.join('.').replaceAll(':', '-'), permissions })
    return (request: InjectOptions) => app.inject({ ...request, headers: { 'x-api-key': key } })
  }
  const jobs: string[] = []
  for (let count = 0; count < 3; count++) jobs.push((await bob(draw)).json<{ id: string }>().id)
  const cancel = (index: number) => ({ method: 'DELETE', url: `/api/queue/job/${jobs[index]}` }) as const

  expectError(t, await (await keyOf(bob, 'queue:read', 'models:read'))(cancel(0)), 403, 'SDR_FORBIDDEN', /permission generate or models:manage or jobs:all/)
  expectError(t, await (await keyOf(alice, 'queue:read', 'system:read'))(cancel(0)), 403, 'SDR_FORBIDDEN')
  expectError(t, await app.inject(cancel(0)), 403, 'SDR_FORBIDDEN', /guest/)
  expectError(t, await (await keyOf(alice, 'generate'))(cancel(0)), 404, 'SDR_JOB_NOT_FOUND')
  t.equal((await (await keyOf(bob, 'generate'))(cancel(0))).statusCode, 200)
  t.equal((await (await keyOf(alice, 'jobs:all'))(cancel(1))).statusCode, 200)
  t.equal((await bob(cancel(2))).statusCode, 200)
})

t.test('WWW-Authenticate says whether other credentials would help (RFC 6750)', async t => {
  const app = await build(t, { auth: 'jwt' }, { models: false })
  const challengeOf = async (headers: Record<string, string>, url = '/api/users') => (await app.inject({ url, headers })).headers['www-authenticate']
  t.equal(await challengeOf({}), 'Bearer realm="stable-diffusion-rest"', 'nothing was tried, so nothing is wrong')
  t.equal(await challengeOf({ authorization: 'Bearer x.y.z' }), 'Bearer realm="stable-diffusion-rest", error="invalid_token"')
  t.equal(await challengeOf({ 'x-api-key': 'sdr_x' }), 'Bearer realm="stable-diffusion-rest", error="invalid_token"')
  const { token } = await as(app, 'bob')
  t.equal(await challengeOf({ authorization: `Bearer ${token}` }), 'Bearer realm="stable-diffusion-rest", error="insufficient_scope", scope="users:manage"')
  t.equal(await challengeOf({ authorization: `Bearer ${token}` }, '/api/models'), undefined)
})

t.test('--auth none lets everybody in, but not under a foreign host name', async t => {
  const app = await build(t)
  t.match((await app.inject('/api/auth/me')).json(), { username: 'operator', role: 'admin', via: 'none' })
  expectError(t, await app.inject('/api/nothing'), 404, 'SDR_NOT_FOUND')
  expectError(t, await app.inject({ url: '/api/models', headers: { host: 'rebound.example' } }), 421, 'SDR_HOST_NOT_ALLOWED')
  t.equal((await app.inject({ url: '/api/models', headers: { host: '127.0.0.1:8080' } })).statusCode, 200)
  t.equal((await app.inject({ url: '/api/models', headers: { host: '[::1]:8080' } })).statusCode, 200)
  expectError(t, await app.inject({ method: 'POST', url: '/api/auth/login', body: { username: 'a', password: 'b' } }), 409, 'SDR_CONFLICT')
})
