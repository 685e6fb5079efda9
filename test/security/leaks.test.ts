import { spawn, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { lstatSync, readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import pino from 'pino'
import t, { type Test } from 'tap'
import { build, workspace } from '../helper.ts'
import { childrenOf, program, runProgram, startServer, until } from '../server-process.ts'

/** What a server leaves behind for others to read: its log, its files, its command line, its terminal. */

const isLinux = process.platform === 'linux'
const hasPty = spawnSync('script', ['--version'], { encoding: 'utf8' }).stdout?.includes('util-linux') ?? false
if (!hasPty && process.env.CI) throw new Error('CI lacks a part that this test needs: script(1) of util-linux')

/** Names that would move a cursor, begin a line, or turn the reading direction, if anybody printed them as they are. */
const hostileNames = [
  'admin\r\n{"level":30,"msg":"audit","event":"login","outcome":"success","actor":"admin"}', 'admin\n2026-01-01 login ok', 'x\u001b[2J\u001b[1;1Hroot', '\u001b]0;title\u0007', '\u001b]8;;http://evil\u0007click\u001b]8;;\u0007',
  'x\u0008\u0008\u0008root', 'x\u007f', '\u009b31mred', '\u0085next', 'a\u202enimda', '\u2066x', 'a\u2028b', 'a\u2029b', 'x\u0000y', '\ufeffadmin', 'a\u200bdmin'
]
/** Names that an account could have, and that a log or a statement must not read as anything else. */
const oddNames = ['%s%d%j', "'; DROP TABLE users;--"]
/** All of them in few tries, because each costs a real hash. */
const hostileTexts = [hostileNames.slice(0, 4), hostileNames.slice(4)].map(names => names.join(' '))

/** Control, format, line-separating and unpaired characters. */
const unprintable = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/u

t.test('no secret gets into the log, the audit table, an answer, ps, the environment of the engine or a file of others', async t => {
  const { models, data } = workspace(t)
  const secrets = {
    password: `pw-${randomBytes(12).toString('hex')}`,
    'wrong password': `wrong-${randomBytes(12).toString('hex')}`,
    'new password': `new-${randomBytes(12).toString('hex')}`,
    'token secret': randomBytes(32).toString('hex')
  } as Record<string, string>
  const made = await runProgram(['user', 'add', 'alice', '--role', 'admin', '--password-stdin', '--data-dir', data], { input: secrets.password! })
  const server = await startServer(t, ['--models-dir', models, '--data-dir', data, '--auth', 'jwt', '--verbose', '--log-level', 'trace', '--login-rate-limit', '1000'],
    { env: { SDREST_JWT_SECRET: secrets['token secret']! } })
  let output = JSON.stringify(made)
  server.child.stdout!.on('data', (text: string) => { output += text })
  server.child.stderr!.on('data', (text: string) => { output += text })
  const answers: string[] = []
  const post = async (path: string, body: object, headers: Record<string, string> = {}, method = 'POST') => {
    const response = await server.json(path, { method, headers, body: JSON.stringify(body) })
    answers.push(JSON.stringify(response.status < 400 ? '' : response.body))
    return response
  }

  const login = await post('/api/auth/login', { username: 'alice', password: secrets.password })
  t.equal(login.status, 200)
  Object.assign(secrets, { token: login.body.token, 'refresh token': login.body.refresh_token })
  const authorization = { authorization: `Bearer ${secrets.token}` }
  secrets['API key'] = (await post('/api/auth/keys', { name: 'laptop' }, authorization)).body.key
  const next = await post('/api/auth/refresh', { refresh_token: secrets['refresh token'] })
  Object.assign(secrets, { 'second token': next.body.token, 'second refresh token': next.body.refresh_token })
  const wrong = secrets['wrong password']
  for (const body of [{ username: 'alice', password: wrong }, { username: wrong?.length, password: wrong }, { username: 'alice', passwrod: wrong }, { username: 'alice', password: [wrong] },
    { username: 'alice', password: wrong + 'x'.repeat(2000) }, { username: 'alice', password: { x: wrong } }]) {
    await post('/api/auth/login', body)
  }
  await post('/api/auth/password', { current_password: wrong, new_password: secrets['new password'] }, authorization)
  await post('/api/auth/password', { current_password: secrets.password, new_password: [secrets['new password']] }, authorization)
  await post('/api/users', { username: 'bob', password: secrets['new password'], role: 'user' }, authorization)
  await post('/api/users', { username: 'bob!', password: secrets['new password'] }, authorization)
  await post('/api/auth/refresh', { refresh_token: 'sdrr_unknown' })
  for (const [name, headers] of Object.entries<Record<string, string>>({
    'wrong token': { authorization: `Bearer ${secrets.token}x` },
    'wrong key': { 'x-api-key': `${secrets['API key']}x` },
    basic: { authorization: `Basic ${Buffer.from(`alice:${wrong}`).toString('base64')}` },
    two: { authorization: `Bearer ${secrets.token}`, 'x-api-key': secrets['API key']! },
    key: { 'x-api-key': secrets['API key']! }
  })) {
    for (const path of ['/api/models', `/api/nothing?password=${wrong}&token=${secrets.token}`, `/api/models/x?api_key=${secrets['API key']}`]) {
      const { body } = await server.json(path, { headers })
      answers.push(JSON.stringify(body.error ?? ''), name)
    }
  }
  await until(async () => output.includes('"msg":"audit"') && server.log.length > 20)

  const audit = await until(async () => {
    const { stdout } = await runProgram(['audit', '--lines', '1000', '--json', '--data-dir', data])
    return stdout.trim().split('\n').length > 10 && stdout // failures are written together, a moment later
  })
  const places: Record<string, string> = { log: output + JSON.stringify(server.log), audit, 'error answers': answers.join('\n'), 'database of the queue': readFolder(data, /^jobs/) }
  if (isLinux) {
    const processes = [server.child.pid!, ...childrenOf(server.child.pid!)]
    t.ok(processes.length > 1, 'the engine runs')
    places.ps = spawnSync('ps', ['axww'], { encoding: 'utf8' }).stdout
    places['environment of the engine'] = processes.slice(1).map(pid => readFileSync(`/proc/${pid}/environ`, 'utf8')).join()
  }
  const database = readFolder(data, /^auth\.db/)
  for (const [name, secret] of Object.entries(secrets)) {
    for (const [place, text] of Object.entries(places)) t.notOk(text.includes(secret), `no ${name} in ${place}`)
    t.notOk(database.includes(secret), `the accounts hold no ${name}, only a hash`)
  }
  t.notMatch(places.log, /\$scrypt\$/, 'nor a hash in the log')

  const { body: job } = await post('/api/generate/txt2img?wait=60', { prompt: 'a fox', width: 64, steps: 1 }, authorization)
  t.match(job, { status: 'completed' })
  const files = walk(data)
  for (const name of ['auth.db', 'auth.db-wal', 'jobs.db', 'jobs.db-wal']) t.ok(files.some(file => file.endsWith(`/${name}`)), `${name} is there`)
  t.ok(files.some(file => file.endsWith('.png')), 'and the picture')
  for (const file of files) t.equal(lstatSync(file).mode & 0o077, 0, `only for its owner: ${file.slice(data.length)} ${(lstatSync(file).mode & 0o777).toString(8)}`)
})

t.test('without a terminal: no first password that could end in a log, no --jwt-secret in ps', async t => {
  const { data } = workspace(t, { models: false })
  const secret = randomBytes(32).toString('hex')
  const server = await startServer(t, ['--data-dir', data, '--auth', 'jwt', '--jwt-secret', secret])
  const told = (words: string) => until(async () => server.log.find(({ msg }) => String(msg).includes(words)))
  t.match(await told('There are no accounts yet'), { msg: /user add NAME --role admin/ })
  t.match(await told('--jwt-secret-file'), { level: 40 })
  t.notMatch(JSON.stringify(server.log), /password/)
  t.notMatch(spawnSync('ps', ['axww'], { encoding: 'utf8' }).stdout, secret)
  if (isLinux) for (const pid of [server.child.pid!, ...childrenOf(server.child.pid!)]) t.notMatch(readFileSync(`/proc/${pid}/cmdline`, 'utf8'), secret)
})

t.test('user names in the log and in the audit table are texts', async t => {
  let output = ''
  const logger = pino({}, { write: (text: string) => { output += text } })
  const app = await build(t, { auth: 'jwt', verbose: true, 'login-rate-limit': '1000' }, { models: false, logger })
  for (const [count, username] of [...hostileNames, ...oddNames].entries()) {
    const { statusCode } = await app.inject({
      method: 'POST', url: '/api/auth/login', remoteAddress: `192.0.2.${count}`, headers: { 'user-agent': 'x\u009b31m' }, body: { username, password: 'wrong' }
    })
    t.equal(statusCode, count < hostileNames.length ? 400 : 401)
  }
  // Half of a character is no JSON, and comes no further.
  const { body } = await app.inject({ method: 'POST', url: '/api/auth/login', headers: { 'content-type': 'application/json' }, body: '{"username":"\\ud800","password":"wrong"}' })
  t.match(JSON.parse(body), { error: { code: 'SDR_INVALID_JSON' } })
  await app.inject({ url: '/api/%1b%5b2Jnothing%0aadmin', headers: { 'x-api-key': 'x\u009b31m' } })
  const lines = output.trimEnd().split('\n')
  const failures = lines.map(line => JSON.parse(line)).filter(({ msg, event }) => msg === 'audit' && event === 'login')
  t.equal(failures.length, oddNames.length, 'hostile names are refused before anything is recorded')
  for (const line of lines) t.notMatch(line, unprintable)
  const rows = await app.auditLog.list({ limit: 100 })
  t.equal(rows.length, oddNames.length + 1)
  t.notMatch(JSON.stringify(rows), unprintable)
})

t.test('on a terminal: the first password once, colours and nothing else', { skip: !hasPty && 'needs script(1) of util-linux' }, async t => {
  const { data } = workspace(t, { models: false })
  const first = await onTerminal(t, ['--auth', 'jwt', '--login-rate-limit', '1000', '--data-dir', data])
  await until(async () => first.output().includes('password:'), 60_000)
  const [, password] = /username: admin\r?\n\s+password: (\S+)/.exec(first.output()) ?? []
  t.match(password, /^[\w-]{20}$/, 'an administrator is made on the first start')
  const login = (url: string, username: string) => fetch(`${url}/api/auth/login`, {
    method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ username, password })
  })
  t.equal((await login(first.url, 'admin')).status, 200)
  for (const username of hostileTexts) t.equal((await login(first.url, username)).status, 400)
  t.equal((await fetch(`${first.url}/api/models`, { headers: { 'x-api-key': 'x\u009b31m', 'user-agent': 'x\u009b31m' } })).status, 401)
  await until(async () => first.output().includes('"event":"access"'))
  const shown = first.output().split('\u001b[').map((part, index) => index === 0 ? part : part.replace(/^\d+m/, '')).join('').replace(/[\r\n\t]/g, '')
  t.notMatch(shown, unprintable, 'what strangers typed does not reach the terminal as it is')
  t.notMatch(first.output(), '$scrypt$')
  await first.end()

  const { stdout } = await runProgram(['audit', '--data-dir', data])
  t.notMatch(stdout.replace(/[\t\n]/g, ''), unprintable, 'nor out of the audit table')

  const second = await onTerminal(t, ['--auth', 'jwt', '--data-dir', data])
  t.equal((await fetch(`${second.url}/api/health`)).status, 200)
  t.notMatch(second.output(), /password:/, 'it is shown once')
  t.notMatch(second.output(), password)
  await second.end()
})

/** Everything below a folder. */
function walk (folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' }).map(name => join(folder, name))
}

/** The bytes of the files below a folder whose names match, as one text. */
function readFolder (folder: string, names: RegExp): string {
  return walk(folder).filter(file => names.test(file.split('/').at(-1)!) && lstatSync(file).isFile()).map(file => readFileSync(file, 'latin1')).join('\n')
}

interface Terminal {
  url: string
  output: () => string
  end: () => Promise<void>
}

/** Starts the server on a pseudo-terminal, where its log is made for people. */
async function onTerminal (t: Test, parameters: string[]): Promise<Terminal> {
  const words = [process.execPath, program, '--port', '0', '--engine', 'portable', '--threads', '1', ...parameters]
  const child = spawn('script', ['-qefc', `exec ${words.map(word => `'${word}'`).join(' ')}`, '/dev/null'], {
    env: Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(SDREST_|TAP)/.test(name)))
  })
  const exited = once(child, 'exit')
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => { output += text })
  const end = async () => {
    child.kill('SIGTERM') // script(1) passes it on by closing the terminal
    await exited
  }
  t.teardown(end)
  const url = await until(async () => /Server listening at (http:\S+?:\d+)/.exec(output)?.[1], 60_000)
  return { url, output: () => output, end }
}
