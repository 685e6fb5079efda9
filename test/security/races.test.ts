import { once } from 'node:events'
import { request as httpRequest } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { buildApp } from '../../app.ts'
import { PasswordHasher } from '../../lib/accounts/passwords.ts'
import { as, build, expectError, password, testOptions, testPasswordCost, workspace } from '../helper.ts'
import { runProgram, until } from '../server-process.ts'

/**
 * A new password, another role, disabling and removing win against what is under way: a password that is being checked
 * or hashed, a body that is still coming, an open stream, a job that waits or runs.
 */
const app = await build(t, { auth: 'jwt', 'rate-limit': '100000', 'login-rate-limit': '100000' })
const root = await as(app, 'root', 'admin')
const next = 'another correct horse'
const third = 'the third correct horse'

/** What happens once, when the next password has been checked or hashed, before its caller hears of it. */
let meanwhile: { at: 'verify' | 'hash', work: () => Promise<unknown> } | undefined
for (const at of ['verify', 'hash'] as const) {
  const original = PasswordHasher.prototype[at] as (...args: unknown[]) => Promise<unknown>
  Object.assign(PasswordHasher.prototype, {
    async [at] (...args: unknown[]) {
      const answer = await original.apply(this, args)
      if (meanwhile?.at === at) {
        const { work } = meanwhile
        meanwhile = undefined
        await work()
      }
      return answer
    }
  })
}

const patch = async (id: string, body: object) => {
  const answer = await root({ method: 'PATCH', url: `/api/users/${id}`, body })
  if (answer.statusCode !== 200) throw new Error(answer.body)
}
const remove = (id: string) => root({ method: 'DELETE', url: `/api/users/${id}` })
const login = (username: string, secret = password) =>
  app.inject({ method: 'POST', url: '/api/auth/login', body: { username, password: secret } })
const sessionsOf = async (id: string) => (await app.store.sessions.list(id)).length

let count = 0
async function newCaller (role: 'user' | 'admin' = 'user') {
  const username = `caller${++count}`
  return Object.assign(await as(app, username, role), { username })
}

t.test('a login whose password is being checked', async t => {
  const cases: Record<string, { change: (id: string) => Promise<unknown>, status: number }> = {
    'a new password': { change: id => patch(id, { password: next }), status: 401 },
    disabling: { change: id => patch(id, { disabled: true }), status: 401 },
    'disabling by another process': { change: async () => await runProgram(['user', 'disable', `caller${count}`, '--data-dir', app.folders.data]), status: 401 },
    removing: { change: remove, status: 401 },
    'another role': { change: id => patch(id, { role: 'admin' }), status: 200 }
  }
  for (const [name, { change, status }] of Object.entries(cases)) {
    const { id, username } = await newCaller()
    const before = await sessionsOf(id)
    meanwhile = { at: 'verify', work: () => change(id) }
    const answer = await login(username)
    t.equal(meanwhile, undefined)
    t.equal(answer.statusCode, status, `${name}: ${answer.body}`)
    if (status === 200) t.match(answer.json(), { user: { role: 'admin' } }, 'the answer says the role that it has now')
    else t.ok(await sessionsOf(id) <= (name === 'disabling' || name === 'a new password' ? 0 : before), 'no session is left that could count once the account is enabled')
  }
})

t.test('a change of the own password that is being checked, or hashed', async t => {
  const change = (caller: Awaited<ReturnType<typeof newCaller>>) =>
    caller({ method: 'POST', url: '/api/auth/password', body: { current_password: password, new_password: next } })
  for (const at of ['verify', 'hash'] as const) {
    const reset = await newCaller()
    meanwhile = { at, work: () => patch(reset.id, { password: third }) }
    expectError(t, await change(reset), 401, 'SDR_INVALID_TOKEN')
    t.equal((await login(reset.username, next)).statusCode, 401, 'what the administrator set stays')
    t.equal((await login(reset.username, third)).statusCode, 200)

    const revoked = await newCaller()
    const elsewhere = await as(app, revoked.username)
    const sid = (await revoked('/api/auth/sessions')).json().sessions.find((one: { current: boolean }) => one.current).id
    meanwhile = { at, work: () => elsewhere({ method: 'DELETE', url: `/api/auth/sessions/${sid}` }) }
    expectError(t, await change(revoked), 401, 'SDR_INVALID_TOKEN')
    t.equal((await login(revoked.username)).statusCode, 200, 'a session that has ended changes nothing')

    const { key } = (await revoked({ method: 'POST', url: '/api/auth/keys', body: { name: 'x' } })).json()
    t.equal(key, undefined)

    for (const end of [remove, (id: string) => patch(id, { disabled: true })]) {
      const gone = await newCaller()
      meanwhile = { at, work: () => end(gone.id) }
      expectError(t, await change(gone), 401, 'SDR_INVALID_TOKEN')
    }

    const withKey = await newCaller()
    const { key: full } = (await withKey({ method: 'POST', url: '/api/auth/keys', body: { name: 'full' } })).json<{ key: string }>()
    meanwhile = { at, work: () => patch(withKey.id, { password: third }) }
    const byKey = await app.inject({
      method: 'POST', url: '/api/auth/password', headers: { 'x-api-key': full }, body: { current_password: password, new_password: next }
    })
    expectError(t, byKey, 403, 'SDR_WRONG_PASSWORD')
    t.equal((await login(withKey.username, third)).statusCode, 200, 'a key outlives the reset, but the old password is wrong now')
  }
})

t.test('an administrator whose rights end while a password is being hashed', async t => {
  const cases: Array<[(id: string) => Promise<unknown>, number]> = [
    [id => patch(id, { role: 'user' }), 403], [id => patch(id, { disabled: true }), 401], [remove, 401], [id => patch(id, { password: next }), 401]
  ]
  for (const [change, status] of cases) {
    const maker = await newCaller('admin')
    meanwhile = { at: 'hash', work: () => change(maker.id) }
    const made = await maker({ method: 'POST', url: '/api/users', body: { username: `made${count}`, password, role: 'admin' } })
    t.equal(made.statusCode, status, made.body)
    t.equal(await app.store.accounts.find(`made${count}`), undefined)

    const target = await newCaller()
    const changer = await newCaller('admin')
    meanwhile = { at: 'hash', work: () => change(changer.id) }
    const changed = await changer({ method: 'PATCH', url: `/api/users/${target.id}`, body: { password: third, role: 'admin' } })
    t.equal(changed.statusCode, status, changed.body)
    t.equal((await login(target.username)).statusCode, 200)
    t.equal((await app.store.accounts.get(target.id)).role, 'user')
  }
  const target = await newCaller()
  meanwhile = { at: 'hash', work: () => remove(target.id) }
  expectError(t, await root({ method: 'PATCH', url: `/api/users/${target.id}`, body: { password: next } }), 404, 'SDR_USER_NOT_FOUND')
})

await app.listen({ port: 0, host: '127.0.0.1' })
const { port } = app.server.address() as AddressInfo

/** Sends a body of which the last character comes only after `change`. */
async function slowly (path: string, headers: Record<string, string>, body: string, change: () => Promise<unknown>) {
  const sent = httpRequest({
    port, host: '127.0.0.1', path, method: 'POST', headers: { 'content-type': 'application/json', ...headers, 'content-length': Buffer.byteLength(body) }
  })
  sent.write(body.slice(0, -1))
  const received = once(sent, 'response')
  await new Promise(resolve => setTimeout(resolve, 100)) // the guard has seen the headers
  await change()
  sent.end(body.slice(-1))
  const [response] = await received as [import('node:http').IncomingMessage]
  let text = ''
  for await (const chunk of response) text += String(chunk)
  return { status: response.statusCode, body: text === '' ? undefined : JSON.parse(text) }
}

t.test('a body that is still coming', async t => {
  const endings: Array<[string, (id: string) => Promise<unknown>]> = [
    ['a new password', id => patch(id, { password: next })], ['disabling', id => patch(id, { disabled: true })], ['removing', remove]
  ]
  const requests: Record<string, string> = {
    '/api/auth/keys': '{"name":"for ever"}',
    '/api/generate/txt2img': '{"prompt":"a fox","width":64,"height":64,"steps":1}',
    '/api/auth/password': JSON.stringify({ current_password: password, new_password: third }),
    '/api/auth/logout': '{}'
  }
  for (const [name, change] of endings) {
    for (const [path, body] of Object.entries(requests)) {
      const { id, token } = await newCaller()
      const answer = await slowly(path, { authorization: `Bearer ${token}` }, body, () => change(id))
      t.match(answer, { status: 401, body: { error: { code: 'SDR_INVALID_TOKEN' } } }, `${name}, ${path}: ${JSON.stringify(answer)}`)
      t.same(await app.store.keys.all(id), [], 'no key was made')
      t.same((await app.jobs.list({ owner: id })).jobs, [], 'no job was taken')
    }
    const { id, refreshToken } = await newCaller()
    const refreshed = await slowly('/api/auth/refresh', {}, JSON.stringify({ refresh_token: refreshToken }), () => change(id))
    t.match(refreshed, { status: 401, body: { error: { code: 'SDR_INVALID_TOKEN' } } }, `${name}, refresh`)
  }
  const { id, token } = await newCaller('admin')
  const key = await slowly('/api/auth/keys', { authorization: `Bearer ${token}` }, '{"name":"all"}', () => patch(id, { role: 'user' }))
  t.match(key, { status: 201, body: { permissions: ['models:read', 'generate', 'queue:read'] } }, 'a key has the permissions that its owner has now')
  const excess = await slowly('/api/auth/keys', { authorization: `Bearer ${(await newCaller('admin')).token}` }, '{"name":"all","permissions":["users:manage"]}',
    async () => patch((await app.store.accounts.find(`caller${count}`))!.id, { role: 'user' }))
  t.match(excess, { status: 403 })
  const made = await slowly('/api/users', { authorization: `Bearer ${(await newCaller('admin')).token}` }, JSON.stringify({ username: 'never', password }),
    async () => patch((await app.store.accounts.find(`caller${count}`))!.id, { role: 'user' }))
  t.match(made, { status: 403, body: { error: { code: 'SDR_FORBIDDEN' } } })
})

const long = { method: 'POST', url: '/api/generate/txt2img', body: { prompt: 'a fox', width: 256, height: 256, steps: 150 } } as const

/** Whether an answer that has begun before `change` is cut off; false when it comes to its end, or stays open. */
async function isCut (
  path: string, headers: Record<string, string>, change: () => Promise<unknown>, { patience = 20_000 } = {}
): Promise<boolean> {
  const response = await fetch(`http://127.0.0.1:${port}${path}`, { headers, signal: AbortSignal.timeout(patience) })
  const isCutOff = response.text().then(() => false, error => error.name !== 'TimeoutError')
  await change()
  return await isCutOff
}

t.test('open answers are decided again', async t => {
  const owner = await newCaller()
  const { id: job } = (await owner(long)).json<{ id: string }>()
  const events = `/api/queue/job/${job}/events`
  const { pid } = app.devices[0]!.engine.status
  process.kill(pid!, 'SIGSTOP') // it need not draw meanwhile
  t.teardown(() => process.kill(pid!, 'SIGCONT'))
  const fallen = await newCaller('admin')
  const { key } = (await fallen({ method: 'POST', url: '/api/auth/keys', body: { name: 'all' } })).json<{ key: string }>()
  const reset = await newCaller()
  const waits = async (headers: Record<string, string>) => (await fetch(`http://127.0.0.1:${port}/api/generate/txt2img?wait=60`, {
    method: 'POST', headers: { ...headers, 'content-type': 'application/json' }, body: JSON.stringify(long.body), signal: AbortSignal.timeout(20_000)
  })).status
  const waiting = Promise.all([waits({ 'x-api-key': key }), waits({ authorization: `Bearer ${reset.token}` })])
  await until(async () => (await app.jobs.list({ owner: reset.id })).jobs.length === 1)
  await patch(reset.id, { password: third })
  let open = 0
  const allOpen = async () => {
    open++
    await until(async () => open === 3)
  }
  const [byToken, byKey, own] = await Promise.all([
    isCut(events, { authorization: `Bearer ${fallen.token}` }, async () => {
      await allOpen()
      await patch(fallen.id, { role: 'user' })
    }),
    isCut(events, { 'x-api-key': key }, allOpen),
    isCut(events, { authorization: `Bearer ${owner.token}` }, allOpen, { patience: 12_000 }) // two looks of the guard
  ])
  t.same({ byToken, byKey, own }, { byToken: true, byKey: true, own: false }, 'the events of others end with the right to them, the own ones stay')
  t.same(await waiting, [202, 401], 'a wait ends with an answer: a lost right leaves the own job, a reset leaves nothing')
  const barred = await newCaller()
  const { id: another } = (await barred(long)).json<{ id: string }>()
  t.equal(await isCut(`/api/queue/job/${another}/events`, { authorization: `Bearer ${barred.token}` }, async () => { app.guard.accepts = ({ id }) => id !== barred.id }), true,
    'an account that is not admitted any more')
  delete (app.guard as Partial<typeof app.guard>).accepts
  process.kill(pid!, 'SIGCONT')
  for (const id of [job, another]) await root({ method: 'DELETE', url: `/api/queue/job/${id}` })
  for (const caller of [fallen, reset]) for (const { id } of (await app.jobs.list({ owner: caller.id })).jobs) await root({ method: 'DELETE', url: `/api/queue/job/${id}` })
})

t.test('the jobs of who was removed or disabled are cancelled', async t => {
  const ways: Record<string, (caller: { id: string, username: string }) => Promise<unknown>> = {
    removed: ({ id }) => remove(id),
    disabled: ({ id }) => patch(id, { disabled: true }),
    'removed by the command line': ({ username }) => runProgram(['user', 'remove', username, '--data-dir', app.folders.data])
  }
  const bystander = await newCaller()
  for (const [name, end] of Object.entries(ways)) {
    const caller = await newCaller()
    for (let count = 0; count < 3; count++) await caller(long)
    const { id: kept } = (await bystander(long)).json<{ id: string }>()
    await until(async () => (await app.jobs.list({ owner: caller.id, status: 'running' })).jobs.length === 1)
    await end(caller)
    const ended = await until(async () => {
      const { jobs } = (await root(`/api/queue/jobs?owner=${caller.id}`)).json<{ jobs: Array<{ status: string, owner: string }> }>()
      return jobs.every(({ status }) => status === 'cancelled') && jobs
    })
    t.same(ended.map(({ owner }) => owner), Array(3).fill(caller.id), name)
    t.match((await root(`/api/queue/job/${kept}`)).json(), { status: /queued|running/ }, 'those of others are not')
    await root({ method: 'DELETE', url: `/api/queue/job/${kept}` })
  }
})

t.test('jobs whose owner the accounts do not know stay', async t => {
  const { data, folder, models } = workspace(t)
  const start = async (options: object) => {
    const server = await buildApp(testOptions({ auth: 'jwt', 'models-dir': [models], 'data-dir': data, 'shutdown-timeout': '0', ...options }), { passwordCost: testPasswordCost })
    t.teardown(() => server.close())
    await server.ready()
    return server
  }
  const first = await start({})
  const names = ['alice', 'bob', 'carol'] as const
  const [alice, bob, carol] = await Promise.all(names.map(name => as(first, name)))
  const jobs: string[] = []
  for (const caller of [alice!, bob!, carol!]) jobs.push((await caller(long)).json<{ id: string }>().id)
  await first.close()

  const elsewhere = await start({ 'auth-data-dir': join(folder, 'other') })
  await elsewhere.cancelJobsOfGone()
  const statuses = async (server: typeof app) => Promise.all(jobs.map(async id => (await server.jobs.get(id)).status))
  for (const status of await statuses(elsewhere)) t.match(status, /queued|running/, 'another folder of accounts is no reason to cancel')
  await elsewhere.close()

  for (const words of [['remove', 'alice'], ['disable', 'bob']]) await runProgram(['user', ...words, '--data-dir', data])
  const back = await start({})
  await until(async () => (await statuses(back)).slice(0, 2).every(status => status === 'cancelled'))
  t.match((await statuses(back))[2], /queued|running/, 'who is still there keeps its job')
  await back.close()

  const open = await start({ auth: 'none' })
  const { id } = (await open.inject(long)).json<{ id: string }>()
  await open.cancelJobsOfGone()
  t.match([(await open.jobs.get(id)).status, (await statuses(open))[2]], [/queued|running/, /queued|running/], 'nor are the jobs of the operator cancelled')
})

t.test('only who sees all jobs can ask for those of another', async (t: Test) => {
  const caller = await newCaller()
  t.equal((await caller(`/api/queue/jobs?owner=${caller.id}`)).statusCode, 200)
  expectError(t, await caller(`/api/queue/jobs?owner=${root.id}`), 403, 'SDR_FORBIDDEN', /jobs:all/)
  t.same((await root('/api/queue/jobs?owner=none-of-that-id')).json().jobs, [])
  expectError(t, await root(`/api/queue/jobs?owner=${'x'.repeat(65)}`), 400, 'SDR_INVALID_REQUEST', /owner/)
})
