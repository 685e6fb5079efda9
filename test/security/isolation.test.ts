import t from 'tap'
import type { InjectOptions, LightMyRequestResponse } from 'fastify'
import { openAuthDatabase } from '../../lib/accounts/store/sqlite/database.ts'
import { settled } from '../../lib/storage/database-changes.ts'
import { as, build, expectError, password } from '../helper.ts'
import { listen } from './raw-http.ts'

/** What belongs to one user is not there for another: jobs, images, events, keys, sessions. */
const app = await build(t, { auth: 'optional', 'guest-permissions': 'models:read,queue:read,generate', 'login-rate-limit': '100000', 'rate-limit': '100000' })
const [alice, bob, admin] = [await as(app, 'alice'), await as(app, 'bob'), await as(app, 'admin', 'admin')]
const guest = (request: InjectOptions | string): Promise<LightMyRequestResponse> => app.inject(request as InjectOptions)
const request = { prompt: 'a fox', width: 64, steps: 1, seed: 1 }
const draw = { method: 'POST', url: '/api/generate/txt2img?wait=60', body: request } as const
type Caller = typeof guest

const jobs: Record<string, string> = {}
t.test('everybody draws', async t => {
  for (const [name, caller] of Object.entries({ alice, bob, guest }) as Array<[string, Caller]>) {
    const response = await caller(draw)
    t.match(response.json(), { status: 'completed', images: [{ index: 0 }] }, name)
    jobs[name] = response.json().id
  }
})

/** Every path under a job, with the methods that the document lists, so that a new one is tested, too. */
function jobOperations (id: string): Array<{ method: 'GET', url: string }> {
  const { paths } = app.swagger() as unknown as { paths: Record<string, Record<string, unknown>> }
  return Object.entries(paths).filter(([path]) => path.startsWith('/api/queue/job/{id}')).flatMap(([path, operations]) =>
    Object.keys(operations).map(method => ({ method: method.toUpperCase() as 'GET', url: path.replace('{id}', id).replace('{index}', '0') })))
}

t.test('jobs, images and events', async t => {
  t.ok(jobOperations('x').length >= 4)
  const never = '0190b5a0-0000-7000-8000-000000000000'
  for (const [owner, strangers] of [['alice', [bob, guest]], ['bob', [alice, guest]], ['guest', [alice, bob]]] as Array<[string, Caller[]]>) {
    for (const stranger of strangers) {
      for (const operation of jobOperations(jobs[owner]!)) {
        const response = await stranger(operation)
        t.equal(response.statusCode, 404, `${operation.method} ${operation.url} of ${owner}`)
        const unknown = await stranger({ ...operation, url: operation.url.replace(jobs[owner]!, never) })
        t.equal(unknown.json().error.code, response.json().error.code, 'the same as for a job that never was')
        t.equal(unknown.json().error.message.replace(never, ''), response.json().error.message.replace(jobs[owner]!, ''))
      }
    }
  }
  for (const [name, caller] of Object.entries({ alice, bob, guest }) as Array<[string, Caller]>) {
    t.equal((await caller(`/api/queue/job/${jobs[name]}`)).statusCode, 200)
    t.equal((await caller(`/api/queue/job/${jobs[name]}/images/0`)).headers['content-type'], 'image/png')
  }
  t.equal((await admin(`/api/queue/job/${jobs.alice}/images/0`)).statusCode, 200, 'who has jobs:all sees all')
})

t.test('lists', async t => {
  const ids = async (caller: Caller, query = '') => (await caller(`/api/queue/jobs${query}`)).json().jobs.map(({ id }: { id: string }) => id) as string[]
  for (const [name, caller] of Object.entries({ alice, bob, guest }) as Array<[string, Caller]>) {
    for (const query of ['', '?limit=200', '?status=completed', '?type=txt2img']) t.same(await ids(caller, query), [jobs[name]], `${name} ${query}`)
  }
  t.equal((await ids(admin)).length, 3)
  const { next_cursor: cursor } = (await admin('/api/queue/jobs?limit=1')).json()
  t.type(cursor, 'string')
  t.ok((await ids(alice, `?cursor=${encodeURIComponent(cursor)}`)).every(id => id === jobs.alice), "a cursor of somebody else's list shows nothing of it")
  for (const query of ['?owner=', `?owner=${bob.id}`, '?all=true', '?cursor=%00', '?cursor=x', '?limit=1000000', '?limit=-1', '?status=x']) {
    const response = await alice(`/api/queue/jobs${query}`)
    if (response.statusCode === 200) t.ok((await ids(alice, query)).every(id => id === jobs.alice))
    else t.equal(response.statusCode, query === `?owner=${bob.id}` ? 403 : 400, query)
  }
  t.notMatch((await guest('/api/status')).body, new RegExp(`${jobs.alice}|alice|minit2i|"pid"`), 'strangers see numbers only')
})

t.test('an Idempotency-Key is its owner\'s', async t => {
  const submit = (caller: Caller, prompt: string) => caller({ ...draw, body: { ...request, prompt }, headers: { 'idempotency-key': 'the same' } })
  const first = (await submit(alice, 'secret of alice')).json()
  const other = (await submit(bob, 'secret of alice')).json()
  t.not(other.id, first.id)
  t.equal((await submit(bob, 'something else')).json().error.code, 'SDR_IDEMPOTENCY_CONFLICT')
  t.equal((await submit(alice, 'secret of alice')).json().id, first.id)
})

t.test('sessions', async t => {
  const own = (await alice('/api/auth/sessions')).json().sessions
  t.equal(own.length, 1)
  for (const caller of [bob, admin]) {
    t.notMatch((await caller('/api/auth/sessions')).body, own[0].id)
    expectError(t, await caller({ method: 'DELETE', url: `/api/auth/sessions/${own[0].id}` }), 404, 'SDR_SESSION_NOT_FOUND')
  }
  for (const request of ['/api/auth/sessions', '/api/auth/keys', { method: 'DELETE', url: `/api/auth/sessions/${own[0].id}` }, { method: 'POST', url: '/api/auth/logout' },
    { method: 'POST', url: '/api/auth/password', body: { current_password: password, new_password: password } }, { method: 'POST', url: '/api/auth/keys', body: { name: 'x' } }, '/api/users'] as const) {
    expectError(t, await guest(request as string), 401, 'SDR_UNAUTHENTICATED', /guests have none/)
  }
  t.match((await guest('/api/auth/me')).json(), { role: 'guest', via: 'guest', permissions: ['models:read', 'queue:read', 'generate'] })
  t.equal((await alice('/api/auth/me')).statusCode, 200)
})

t.test('keys', async t => {
  const { id } = (await alice({ method: 'POST', url: '/api/auth/keys', body: { name: 'of alice' } })).json<{ id: string }>()
  t.same((await bob('/api/auth/keys')).json(), { keys: [], next_cursor: null })
  expectError(t, await bob({ method: 'DELETE', url: `/api/auth/keys/${id}` }), 404, 'SDR_KEY_NOT_FOUND')
  t.match((await admin('/api/auth/keys')).json(), { keys: [{ id, username: 'alice' }] })
  t.equal((await alice('/api/auth/keys')).json().keys.length, 1)
  t.equal((await admin({ method: 'DELETE', url: `/api/auth/keys/${id}` })).statusCode, 204)
  t.same((await alice('/api/auth/keys')).json(), { keys: [], next_cursor: null })
})

t.test('administration', async t => {
  for (const request of [{ url: '/api/users' }, { url: `/api/users/${alice.id}` }, { method: 'POST', url: '/api/users', body: { username: 'eve', password, role: 'admin' } },
    { method: 'PATCH', url: `/api/users/${alice.id}`, body: { role: 'admin' } }, { method: 'DELETE', url: `/api/users/${bob.id}` }, { method: 'POST', url: '/api/models/refresh' }] as const) {
    expectError(t, await alice(request as { url: string }), 403, 'SDR_FORBIDDEN')
  }
  t.equal((await alice('/api/auth/me')).json().role, 'user')
})

t.test('accounts and keys come in pages', async t => {
  for (const name of ['first', 'second', 'third']) await alice({ method: 'POST', url: '/api/auth/keys', body: { name } })
  const page = (await alice('/api/auth/keys?limit=2')).json()
  t.match(page, { keys: [{ username: 'alice' }, { username: 'alice' }], next_cursor: String })
  const rest = (await alice(`/api/auth/keys?limit=2&cursor=${page.next_cursor}`)).json()
  t.equal(rest.keys.length, 1)
  t.equal(rest.next_cursor, null)
  t.same((await bob(`/api/auth/keys?cursor=${page.next_cursor}`)).json(), { keys: [], next_cursor: null }, 'the cursor of somebody else shows nothing of theirs')
  t.same([...page.keys, ...rest.keys].map(({ name }) => name).sort(), ['first', 'second', 'third'])

  const { users: everybody } = (await admin('/api/users')).json()
  const first = (await admin('/api/users?limit=1')).json()
  t.match(first, { users: [{ username: 'admin' }], next_cursor: String })
  t.same((await admin(`/api/users?cursor=${first.next_cursor}`)).json(), { users: everybody.slice(1), next_cursor: null })

  for (const url of ['/api/users', '/api/auth/keys', '/api/queue/jobs', '/api/models']) {
    expectError(t, await admin(`${url}?cursor=nonsense`), 400, 'SDR_INVALID_REQUEST', /for cursor but received "nonsense"/)
    expectError(t, await admin(`${url}?limit=501`), 400, 'SDR_INVALID_REQUEST', /limit/)
    expectError(t, await admin(`${url}?page=2`), 400, 'SDR_INVALID_REQUEST', /page/)
  }
  for (const { id } of [...page.keys, ...rest.keys]) await alice({ method: 'DELETE', url: `/api/auth/keys/${id}` })
})

t.test('a key never does more than its owner, nor a narrow key more than it is for', async t => {
  const make = async (caller: typeof alice, body: object) => await caller({ method: 'POST', url: '/api/auth/keys', body })
  expectError(t, await make(alice, { name: 'wide', permissions: ['users:manage'] }), 403, 'SDR_FORBIDDEN', /users:manage/)
  expectError(t, await make(alice, { name: 'a\u202eb' }), 400, 'SDR_INVALID_REQUEST')
  expectError(t, await make(alice, { name: 'late', expires_at: '2001-01-01T00:00:00Z' }), 400, 'SDR_INVALID_REQUEST')

  const narrow = (await make(alice, { name: 'reader', permissions: ['models:read'] })).json<{ key: string, id: string }>()
  const withNarrow = (request: object) => app.inject({ ...request, headers: { 'x-api-key': narrow.key } })
  t.equal((await withNarrow({ url: '/api/models' })).statusCode, 200)
  t.match((await withNarrow({ url: '/api/auth/me' })).json(), { permissions: ['models:read'], via: 'api-key' })
  for (const request of [draw, { url: '/api/queue/jobs' }, { url: `/api/queue/job/${jobs.alice}` }, { url: `/api/queue/job/${jobs.alice}/images/0` }, { url: '/api/auth/keys' }, { url: '/api/auth/sessions' },
    { method: 'DELETE', url: `/api/auth/keys/${narrow.id}` }, { method: 'POST', url: '/api/auth/keys', body: { name: 'another' } }, { method: 'POST', url: '/api/auth/logout' },
    { method: 'POST', url: '/api/auth/password', body: { current_password: password, new_password: 'something else' } }]) {
    expectError(t, await withNarrow(request), 403, 'SDR_FORBIDDEN')
  }

  const soon = new Date(Date.now() + 3_600_000).toISOString()
  const short = (await make(alice, { name: 'an hour', expires_at: soon })).json<{ key: string }>()
  const withShort = (body: object) => app.inject({ method: 'POST', url: '/api/auth/keys', headers: { 'x-api-key': short.key }, body })
  expectError(t, await withShort({ name: 'for longer', expires_at: '2099-01-01T00:00:00Z' }), 403, 'SDR_FORBIDDEN', /ends with it/)
  t.match((await withShort({ name: 'heir' })).json(), { expires_at: soon }, 'a key for an hour makes no key for ever')

  const promoted = await as(app, 'promoted', 'admin')
  const { key } = (await make(promoted, { name: 'all' })).json<{ key: string }>()
  t.equal((await app.inject({ url: '/api/users', headers: { 'x-api-key': key } })).statusCode, 200)
  await admin({ method: 'PATCH', url: `/api/users/${promoted.id}`, body: { role: 'user' } })
  t.equal((await app.inject({ url: '/api/users', headers: { 'x-api-key': key } })).statusCode, 403, 'what its owner loses it loses')
  await admin({ method: 'PATCH', url: `/api/users/${promoted.id}`, body: { disabled: true } })
  t.equal((await app.inject({ url: '/api/models', headers: { 'x-api-key': key } })).statusCode, 401)
})

t.test('a key that names a permission several times is a narrow key', async t => {
  const repeated = await alice({ method: 'POST', url: '/api/auth/keys', body: { name: 'x', permissions: Array(3).fill('models:read') } })
  expectError(t, repeated, 400, 'SDR_INVALID_REQUEST', /permissions/)
  const { key, id, permissions } = await app.keys.create({ userId: alice.id, name: 'x', permissions: Array(3).fill('models:read') })
  t.same(permissions, ['models:read'])
  // As an older release stored it.
  const database = openAuthDatabase(app.folders.auth)
  database.prepare('UPDATE api_keys SET permissions = ? WHERE id = ?').run(JSON.stringify(Array(3).fill('models:read')), id)
  database.close()
  await settled()
  const withKey = (request: object) => app.inject({ ...request, headers: { 'x-api-key': key } })
  t.same((await withKey({ url: '/api/auth/me' })).json().permissions, ['models:read'])
  expectError(t, await withKey({ url: '/api/auth/sessions' }), 403, 'SDR_FORBIDDEN')
  expectError(t, await withKey({ method: 'POST', url: '/api/auth/keys', body: { name: 'all' } }), 403, 'SDR_FORBIDDEN')
})

t.test('a key that expires gives nobody a power that lasts', async t => {
  const made = async (body: object) => (await admin({ method: 'POST', url: '/api/auth/keys', body })).json<{ key: string }>().key
  const [brief, lasting] = [await made({ name: 'brief', expires_at: new Date(Date.now() + 3_600_000).toISOString() }), await made({ name: 'lasting' })]
  const send = (key: string, request: object) => app.inject({ ...request, headers: { 'x-api-key': key } })
  const { id } = await app.accounts.create({ username: 'puppet', password, role: 'user' })
  const requests = [
    { method: 'POST', url: '/api/users', body: { username: 'puppet2', password, role: 'admin' } },
    ...[{ password: 'something else' }, { role: 'admin' }, { disabled: false }].map(body => ({ method: 'PATCH', url: `/api/users/${id}`, body })),
    { method: 'DELETE', url: `/api/users/${id}` },
    { method: 'POST', url: '/api/auth/password', body: { current_password: password, new_password: 'something else' } }
  ]
  for (const request of requests) expectError(t, await send(brief, request), 403, 'SDR_FORBIDDEN', /expires/)
  t.match(await app.store.accounts.get(id), { role: 'user' })
  t.equal((await send(brief, { url: '/api/users' })).statusCode, 200, 'it may look')
  t.equal((await send(lasting, requests[0]!)).statusCode, 201, 'a key without an end may')
  for (const username of ['puppet', 'puppet2']) await app.store.accounts.remove((await app.store.accounts.find(username))!.id)
})

t.test('a stream ends with the session that opened it', async t => {
  const port = await listen(app)
  const carol = await as(app, 'carol')
  const { id } = (await carol({ method: 'POST', url: '/api/generate/txt2img', body: { ...request, width: 256, steps: 150 } })).json<{ id: string }>()
  const response = await fetch(`http://127.0.0.1:${port}/api/queue/job/${id}/events`, { headers: { authorization: `Bearer ${carol.token}` } })
  const reader = response.body!.getReader()
  t.notOk((await reader.read()).done)
  const began = performance.now()
  await carol({ method: 'POST', url: '/api/auth/logout' })
  const ended = (async () => {
    while (!(await reader.read()).done);
  })()
  await t.rejects(ended, 'the connection is cut')
  t.ok(performance.now() - began < 20_000)
  t.match((await admin(`/api/queue/job/${id}`)).json(), { status: /running|queued/ }, 'in the middle of the job')
  await admin({ method: 'DELETE', url: `/api/queue/job/${id}` })
})
