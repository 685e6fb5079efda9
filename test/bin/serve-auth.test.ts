import { createHmac, randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { makeAccount, noPam, noRoot, setPassword, system } from '../fixtures/pam/system.ts'
import { password, workspace } from '../helper.ts'
import { runProgram, startServer, until, type RunningServer } from '../server-process.ts'

/** A started server for each --auth, with the options of the guide. */

const bearer = (token: string) => ({ headers: { authorization: `Bearer ${token}` } })
const login = async (server: RunningServer, username: string, secret: string) =>
  await server.json('/api/auth/login', { method: 'POST', body: JSON.stringify({ username, password: secret }) })
const status = async (server: RunningServer, path: string, init?: RequestInit & { body?: string }) =>
  (await server.json(path, init)).status

/** Makes an account; where, is up to `place`. */
async function addUser (name: string, ...place: string[]): Promise<void> {
  const { code, stderr } = await runProgram(['user', 'add', name, '--role', 'admin', '--password-stdin', ...place], { input: password })
  if (code !== 0) throw new Error(stderr)
}

/** Whether that secret signed the token. */
function isSignedBy (token: string, secret: string): boolean {
  const [header, payload, signature] = token.split('.')
  return createHmac('sha256', secret).update(`${header}.${payload}`).digest('base64url') === signature
}

/** Sees the one line that --verbose has for a request. */
async function seesAccess (server: RunningServer, wanted: object): Promise<void> {
  const isSame = (entry: Record<string, unknown>) => entry.msg === 'access' && Object.entries(wanted).every(([name, value]) => entry[name] === value)
  await until(async () => server.log.some(isSame)).catch(() => { throw new Error(`No line ${JSON.stringify(wanted)} in ${JSON.stringify(server.log)}`) })
}

t.test('--auth none, by SDREST_AUTH too', async t => {
  const { models, data } = workspace(t)
  const server = await startServer(t, ['--models-dir', models, '--data-dir', data, '--verbose'], { env: { SDREST_AUTH: 'none' } })
  t.match((await server.json('/api/auth/me')).body, { username: 'operator', role: 'admin', via: 'none' })
  t.match((await server.json('/api/models')).body, { total: 1 })
  t.equal((await login(server, 'alice', password)).status, 409)
  await seesAccess(server, { route: '/api/models', method: 'GET', public: false, auth: 'none', principal: 'operator', decision: 'allow', reason: 'every caller is the operator' })
})

t.test('--auth jwt with every option of the guide', async t => {
  const { folder, models, data } = workspace(t)
  const accounts = join(folder, 'accounts')
  const secret = randomBytes(32).toString('hex')
  await addUser('alice', '--auth-data-dir', accounts)
  const options = ['--models-dir', models, '--data-dir', data, '--auth', 'jwt', '--jwt-expiration', '5', '--enable-guest-access', '--auth-data-dir', accounts, '--public-paths', '/api/docs,!/api/status', '--verbose']
  const server = await startServer(t, [...options, '--jwt-secret', secret])
  const { body } = await login(server, 'alice', password)
  const lifetime = Date.parse(body.expires_at) - Date.now()
  t.ok(lifetime > 4 * 60_000 && lifetime <= 5 * 60_000, `--jwt-expiration: ${lifetime} ms`)
  t.ok(isSignedBy(body.token, secret), '--jwt-secret')
  t.ok(existsSync(join(accounts, 'auth.db')), '--auth-data-dir')
  t.notOk(existsSync(join(data, 'auth')))
  t.notOk(existsSync(join(accounts, 'jwt-secret')), 'none is made when one is given')
  t.match((await server.json('/api/models', bearer(body.token))).body, { total: 1 }, '--models-dir')
  t.match((await server.json('/api/auth/me')).body, { username: 'guest', permissions: ['models:read', 'queue:read'] }, '--enable-guest-access')
  t.equal(await status(server, '/api/models'), 200)
  t.equal(await status(server, '/api/generate/txt2img', { method: 'POST', body: '{"prompt":"a fox"}' }), 403, 'the guest draws nothing')
  t.equal(await status(server, '/api/models', bearer('of.old.days')), 401)
  t.equal(await status(server, '/api/nothing'), 401)
  t.equal((await fetch(`${server.url}/api/docs/`)).status, 200, '--public-paths')
  for (const line of [
    { route: '/api/models', public: false, credential: 'token', principal: 'alice', decision: 'allow', reason: 'valid token' },
    { route: '/api/models', public: false, credential: null, principal: 'guest', decision: 'allow', reason: 'guests are let in' },
    { route: '/api/models', public: false, credential: 'token', principal: null, decision: 'refuse', reason: 'The token is not valid.' },
    { route: '/api/generate/txt2img', method: 'POST', principal: 'guest', decision: 'refuse' },
    { route: null, public: false, principal: null, decision: 'refuse' }
  ]) await seesAccess(server, { auth: 'jwt', ...line })
  t.match(server.log.find(({ msg }) => msg === 'Routes that need no credentials'), { public: /GET \/api\/docs/ })
  t.notMatch(JSON.stringify(server.log), secret)
  await server.end()

  t.comment('the same secret from a file, then from the environment: sessions go on; another one: they do not')
  const file = join(folder, 'secret')
  writeFileSync(file, `${secret}\n`, { mode: 0o600 })
  const fromFile = await startServer(t, [...options, '--jwt-secret-file', file])
  t.equal(await status(fromFile, '/api/auth/me', bearer(body.token)), 200, '--jwt-secret-file')
  await fromFile.end()
  const fromEnvironment = await startServer(t, options, { env: { SDREST_JWT_SECRET: secret } })
  t.equal(await status(fromEnvironment, '/api/auth/me', bearer(body.token)), 200, 'SDREST_JWT_SECRET')
  await fromEnvironment.end()
  const withItsOwn = await startServer(t, options)
  t.equal(await status(withItsOwn, '/api/auth/me', bearer(body.token)), 401)
  t.ok(existsSync(join(accounts, 'jwt-secret')), 'now one is made')
})

t.test('--auth api-key', async t => {
  const { models, data } = workspace(t)
  await addUser('alice', '--data-dir', data)
  const key = (await runProgram(['key', 'create', '--user', 'alice', '--data-dir', data])).stdout.trim()
  const server = await startServer(t, ['--models-dir', models, '--data-dir', data, '--auth', 'api-key'])
  for (const headers of [{ 'x-api-key': key }, { authorization: `Bearer ${key}` }, { authorization: `Basic ${Buffer.from(`x:${key}`).toString('base64')}` }] as Array<Record<string, string>>) {
    t.match((await server.json('/api/auth/me', { headers })).body, { username: 'alice', via: 'api-key' })
  }
  t.equal(await status(server, '/api/models'), 401)
  t.match(await server.json('/api/models', bearer('a.b.c')), { status: 401, body: { error: { message: /takes no token/ } } })
  t.match(await login(server, 'alice', password), { status: 409, body: { error: { message: /--auth api-key, which has no logins/ } } })
})

t.test('--auth optional', async t => {
  const { models, data } = workspace(t)
  await addUser('alice', '--data-dir', data)
  const server = await startServer(t, ['--models-dir', models, '--data-dir', data, '--auth', 'optional', '--guest-permissions', 'models:read,generate'])
  t.match((await server.json('/api/auth/me')).body, { username: 'guest', permissions: ['models:read', 'generate'] })
  t.equal(await status(server, '/api/queue/jobs'), 403)
  t.match((await server.json('/api/generate/txt2img?wait=60', { method: 'POST', body: '{"prompt":"a fox","width":64,"steps":1}' })).body, { status: 'completed' })
  t.equal(await status(server, '/api/models', bearer('a.b.c')), 401, 'no silent guest')
  const { body } = await login(server, 'alice', password)
  t.match((await server.json('/api/auth/me', bearer(body.token))).body, { username: 'alice', via: 'jwt' })
})

/** What --auth unix and pam share: a real account of this system comes in, and goes. */
const noSystem = noPam || noRoot
const service = `sdrest-${randomBytes(4).toString('hex')}`

for (const method of ['unix', 'pam'] as const) {
  t.test(`--auth ${method} with accounts of this system`, { skip: noSystem }, async t => {
    const { folder, models, data } = workspace(t)
    const accounts = join(folder, 'accounts')
    mkdirSync(accounts, { mode: 0o700 })
    if (method === 'pam') {
      t.teardown(() => rmSync(`/etc/pam.d/${service}`, { force: true }))
      writeFileSync(`/etc/pam.d/${service}`, 'auth required pam_unix.so\naccount required pam_unix.so\n')
    }
    const [mona, admin, stranger] = [makeAccount(t), makeAccount(t), makeAccount(t)]
    // Every account has a group of its own name.
    const options = ['--models-dir', models, '--data-dir', data, '--auth', method, '--auth-data-dir', accounts, ...(method === 'pam' ? ['--pam-service-name', service] : [])]
    const server = await startServer(t, [...options, '--admin-groups', admin.name, '--allowed-groups', mona.name,
      '--jwt-expiration', '30', '--login-rate-limit', '1000', '--public-paths', '/api/models/types', '--verbose'])
    t.equal(await status(server, '/api/models'), 401)
    t.equal(await status(server, '/api/models/types'), 200)

    const user = await login(server, mona.name, mona.password)
    t.match(user, { status: 200, body: { user: { username: mona.name, role: 'user', permissions: ['models:read', 'generate', 'queue:read'] } } })
    t.match((await server.json('/api/auth/me', bearer(user.body.token))).body, { username: mona.name, via: 'jwt' })
    t.equal(await status(server, '/api/users', bearer(user.body.token)), 403)
    t.match((await server.json('/api/generate/txt2img?wait=60', { ...bearer(user.body.token), method: 'POST', body: '{"prompt":"a fox","width":64,"steps":1}' })).body, { status: 'completed' })
    const { body: { key } } = await server.json('/api/auth/keys', { ...bearer(user.body.token), method: 'POST', body: '{"name":"laptop"}' })
    t.match((await server.json('/api/auth/me', { headers: { 'x-api-key': key } })).body, { username: mona.name, via: 'api-key' })

    const operator = await login(server, admin.name, admin.password)
    t.match(operator.body.user, { role: 'admin' }, '--admin-groups')
    const { body: { users } } = await server.json('/api/users', bearer(operator.body.token))
    t.match(users.find(({ username }: { username: string }) => username === mona.name), { source: method, role: 'user' }, 'the list says where it lives')
    t.match((await runProgram(['user', 'list', '--auth-data-dir', accounts])).stdout, `${mona.name}\tuser\t${method} (external)`)

    for (const [name, secret] of [[mona.name, 'wrong'], [mona.name, password], ['root', 'wrong'], ['sdrest-nobody', 'wrong'], [stranger.name, stranger.password], ['../x', 'x'], [`${mona.name}\n`, mona.password], ['', '']] as const) {
      const { status, body } = await login(server, name, secret)
      t.ok(status === 401 || status === 400, `${JSON.stringify(name)}: ${JSON.stringify(body)}`)
    }
    setPassword(mona.name, 'another password of hers')
    t.equal((await login(server, mona.name, mona.password)).status, 401, 'the system is asked each time')
    t.equal((await login(server, mona.name, 'another password of hers')).status, 200)
    system('chage', ['--expiredate', '2020-01-01', mona.name])
    t.match(await login(server, mona.name, 'another password of hers'), { status: 403, body: { error: { code: 'SDR_ACCOUNT_UNAVAILABLE' } } })
    t.match(await server.json('/api/auth/password', { ...bearer(operator.body.token), method: 'POST', body: JSON.stringify({ current_password: admin.password, new_password: password }) }), { status: 409 })

    await seesAccess(server, { route: '/api/auth/login', auth: method, decision: 'allow', reason: 'public route' })
    const log = JSON.stringify(server.log)
    for (const secret of [mona.password, admin.password, stranger.password, 'another password of hers', key]) t.notMatch(log, secret)
    t.match(await server.end(), { code: 0 })

    const refresh = async (server: RunningServer) =>
      await server.json('/api/auth/refresh', { method: 'POST', body: JSON.stringify({ refresh_token: user.body.refresh_token }) })
    const stricter = await startServer(t, [...options, '--allowed-groups', admin.name])
    await until(async () => stricter.log.some(({ msg, username }) => username === mona.name && String(msg).startsWith('The system does not let this account in')))
    t.match(await refresh(stricter), { status: 401, body: { error: { code: 'SDR_INVALID_TOKEN', message: /not let in/ } } }, 'no new token for who is in none of the groups any more')
    await stricter.end() // writes the failures that wait
    t.match((await runProgram(['audit', '--event', 'refresh', '--auth-data-dir', accounts])).stdout, 'not admitted')
    const asBefore = await startServer(t, [...options, '--allowed-groups', mona.name])
    t.match(await refresh(asBefore), { status: 200, body: { user: { username: mona.name } } }, 'let in again, the session goes on')
    await asBefore.end()
  })
}

t.test('--auth pam: a service that is missing is told at the start', { skip: noSystem }, async t => {
  const { data } = workspace(t, { models: false })
  const { code, stderr } = await runProgram(['--auth', 'pam', '--pam-service-name', service, '--data-dir', data, '--port', '0'])
  t.equal(code, 2)
  t.match(stderr, new RegExp(`/etc/pam.d/${service}`))
})
