import { spawn, spawnSync } from 'node:child_process'
import { chmodSync, chownSync, mkdirSync, mkdtempSync, readdirSync, realpathSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { noOtherUser } from '../fixtures/pam/system.ts'
import { password, workspace } from '../helper.ts'
import { environment, program, runCommandLines, runProgram, startServer, until } from '../server-process.ts'

/** `user`, `key` and `audit` while the server runs: each acts at its next request. */
t.test('accounts and keys of a running server', async t => {
  const { data } = workspace(t, { models: false })
  const run = async (words: string[], input = '') => await runProgram([...words, '--data-dir', data], { input })
  const prints = async (words: string[], stdout: RegExp | string, input = '') => {
    const ended = await run(words, input)
    t.match(ended, { code: 0, stdout }, `${words.join(' ')}: ${ended.stderr}`)
    return ended.stdout
  }
  const refuses = async (words: string[], code: number, stderr: RegExp, input = '') => {
    t.match(await run(words, input), { code, stderr, stdout: /^$/ }, words.join(' '))
  }
  const refusesEach = async (cases: Array<[words: string[], code: number, stderr: RegExp]>) => {
    const results = await runCommandLines(cases.map(([words]) => [...words, '--data-dir', data]))
    for (const [index, [words, code, stderr]] of cases.entries()) {
      t.match(results[index], { code, stderr, stdout: /^$/ }, words.join(' '))
    }
  }
  const server = await startServer(t, ['--data-dir', data, '--auth', 'jwt', '--login-rate-limit', '1000'])
  const login = async (username: string, secret = password) => await server.json('/api/auth/login', { method: 'POST', body: JSON.stringify({ username, password: secret }) })
  const status = async (path: string, headers: Record<string, string>) => (await server.json(path, { headers })).status

  await prints(['user', 'add', 'root', '--role', 'admin', '--password-stdin'], /^Made admin root\.\n$/, password)
  await prints(['user', 'add', 'bob', '--password-stdin'], /^Made user bob\.\n$/, `${password}\n`)
  await refuses(['user', 'add', 'BOB', '--password-stdin'], 1, /already a user/, password)
  await refuses(['user', 'add', 'eve', '--password-stdin'], 1, /8 to 1024 characters/, 'short')
  await refuses(['user', 'add', 'a b', '--password-stdin'], 1, /username/, password)
  await refuses(['user', 'add', 'eve'], 2, /no terminal to ask.*--password-stdin/)
  await refuses(['user', 'add', 'eve', '--role', 'king', '--password-stdin'], 2, /role/, password)
  const bob = await login('bob')
  t.match(bob, { status: 200, body: { user: { role: 'user' } } })
  const authorization = `Bearer ${bob.body.token}`

  t.equal(await status('/api/users', { authorization }), 403)
  await prints(['user', 'role', 'bob', 'admin'], /^bob\tadmin\tlocal\tenabled\tlast login /)
  t.equal(await status('/api/users', { authorization }), 200, 'the same token, the new role')
  await prints(['user', 'role', 'bob', 'user'], /^bob\tuser/)
  t.equal(await status('/api/users', { authorization }), 403)

  await prints(['user', 'passwd', 'bob', '--password-stdin'], /^Changed the password of bob\.\n$/, 'another long password')
  t.equal(await status('/api/auth/me', { authorization }), 401, 'a new password ends the sessions')
  t.equal((await login('bob')).status, 401)
  const again = { authorization: `Bearer ${(await login('bob', 'another long password')).body.token}` }
  t.equal(await status('/api/auth/me', again), 200)

  const key = (await prints(['key', 'create', '--user', 'bob', '--name', 'laptop', '--expires', '30d', '--permissions', 'models:read'], /^sdr_[0-9a-f]{16}_[\w-]{43}\n$/)).trim()
  const withKey = { 'x-api-key': key }
  t.match((await server.json('/api/auth/me', { headers: withKey })).body, { username: 'bob', permissions: ['models:read'], via: 'api-key' })
  const id = key.split('_')[1]!
  await prints(['key', 'list'], new RegExp(`^${id}\tbob\tlaptop\tmodels:read\texpires 20\\S+\tlast used 20\\S+\n$`))
  t.equal((await run(['key', 'list', '--user', 'root'])).stdout, '')
  await refusesEach([
    [['key', 'create', '--user', 'bob', '--permissions', 'users:manage'], 1, /owner lacks users:manage/],
    [['key', 'create', '--user', 'bob', '--permissions', 'everything'], 2, /for --permissions/],
    [['key', 'create', '--user', 'bob', '--expires', 'yesterday'], 2, /for --expires/],
    [['key', 'create', '--user', 'nobody'], 1, /no user "nobody"/],
    [['key', 'list', '--name', 'laptop'], 2, /There is no option --name/]
  ])

  await prints(['user', 'disable', 'bob'], /^bob\tuser\tlocal\tdisabled/)
  t.equal(await status('/api/auth/me', again), 401)
  t.equal(await status('/api/auth/me', withKey), 401)
  await prints(['user', 'enable', 'bob'], /^bob\tuser\tlocal\tenabled/)
  t.equal(await status('/api/auth/me', again), 401, 'sessions stay ended')
  t.equal(await status('/api/auth/me', withKey), 200, 'keys count again')
  await prints(['key', 'revoke', id], `Revoked ${id}.`)
  t.equal(await status('/api/auth/me', withKey), 401)
  await refuses(['key', 'revoke', id], 1, /no such API key/)

  await refusesEach([
    [['user', 'remove', 'root'], 1, /last administrator/],
    [['user', 'role', 'root', 'user'], 1, /last administrator/],
    [['user', 'disable', 'root'], 1, /last administrator/]
  ])
  const last = { authorization: `Bearer ${(await login('bob', 'another long password')).body.token}` }
  await prints(['user', 'remove', 'bob'], /^Removed bob\.\n$/)
  t.equal(await status('/api/auth/me', last), 401)
  await prints(['user', 'list'], /^root\tadmin\tlocal\tenabled\tnever logged in\n$/)

  await t.test('audit', async t => {
    const records = async (...words: string[]) => (await run(['audit', '--json', ...words])).stdout.trimEnd().split('\n').filter(line => line !== '').map(line => JSON.parse(line) as Record<string, unknown>)
    t.same((await records('--actor', '(command line)')).map(({ event, subject, reason }) => [event, subject, reason]), [
      ['user.create', 'root', 'role admin'], ['user.create', 'bob', 'role user'], ['user.update', 'bob', 'role admin'], ['user.update', 'bob', 'role user'], ['user.password', 'bob', null],
      ['key.create', id, 'laptop, for bob: models:read'], ['user.update', 'bob', 'disable'], ['user.update', 'bob', 'enable'], ['key.revoke', id, null], ['user.remove', 'bob', null]
    ])
    t.same((await records('--event', 'login', '--actor', 'bob')).map(({ outcome }) => outcome), ['success', 'failure', 'success', 'success'])
    t.match(await records('--event', 'login', '--outcome', 'failure'), [{ actor: 'bob', address: '127.0.0.1', reason: 'SDR_INVALID_CREDENTIALS' }])
    t.match(await records('--lines', '1'), [{ event: /./ }])
    t.match((await run(['audit', '--event', 'user.remove'])).stdout, /^20\S+Z\tsuccess\tuser\.remove\t\(command line\)\tbob\t-\n$/)
    t.match(await run(['audit', '--lines', '0']), { code: 2, stderr: /for --lines/ })
    t.match(await run(['audit', '--event', 'x']), { code: 2 })

    const follower = spawn(process.execPath, [program, 'audit', '--follow', '--event', 'login', '--lines', '1', '--data-dir', data], { env: environment, stdio: ['ignore', 'pipe', 'inherit'] })
    t.teardown(() => follower.kill('SIGKILL'))
    let shown = ''
    follower.stdout.setEncoding('utf8').on('data', (text: string) => { shown += text })
    await until(async () => shown !== '')
    t.equal(shown.trimEnd().split('\n').length, 1, 'the newest first')
    t.equal((await login('root')).status, 200)
    t.equal((await login('stranger')).status, 401)
    await until(async () => shown.includes('stranger'))
    t.match(shown, /success\tlogin\troot\t[\s\S]*failure\tlogin\tstranger\t/, 'then what happens')
    t.notMatch(shown, /user\.|key\./, 'and only what was asked for')
  })
})

t.test('root leaves the folder of a service user to that user, and a stranger is told what to type', { skip: noOtherUser }, async t => {
  const nobody = 65534
  const folder = realpathSync(mkdtempSync(join(tmpdir(), 'sdrest-test-')))
  t.teardown(() => rmSync(folder, { recursive: true }))
  chmodSync(folder, 0o755)
  const data = join(folder, 'data')
  mkdirSync(data)
  chownSync(data, nobody, nobody)
  t.match(await runProgram(['user', 'add', 'alice', '--password-stdin', '--data-dir', data], { input: password }), { code: 0 })
  for (const name of ['auth', ...readdirSync(join(data, 'auth')).map(name => join('auth', name))]) {
    t.equal(statSync(join(data, name)).uid, nobody, name)
  }

  const own = join(folder, 'own')
  t.match(await runProgram(['user', 'add', 'alice', '--password-stdin', '--data-dir', own], { input: password }), { code: 0 })
  const asNobody = spawnSync(process.execPath, [program, 'user', 'list', '--data-dir', own], { uid: nobody, gid: nobody, cwd: '/', env: { PATH: process.env.PATH, HOME: '/' }, encoding: 'utf8' })
  t.equal(asNobody.status, 4, asNobody.stderr)
  t.match(asNobody.stderr, /cannot be opened: EACCES.* belongs to root, and this is nobody; as root type: chown -R nobody \S+own\n/)
})
