import { DatabaseSync } from '@photostructure/sqlite'
import { closeSync, openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { password, workspace } from '../helper.ts'
import { runProgram, startServer, until, type RunningServer } from '../server-process.ts'
import { smallDisk } from './fixtures/small-disk.ts'

t.setTimeout(240_000)
const strange = { 'x-api-key': `sdr_${'0'.repeat(16)}_${'a'.repeat(43)}` }
const job = JSON.stringify({ prompt: 'a fox', width: 64, steps: 2, seed: 1 })

/** A server with the account `alice` and two keys of hers. */
async function start (t: Test, models: string, data: string, parameters: string[] = []) {
  const folders = ['--data-dir', data]
  t.match(await runProgram(['user', 'add', 'alice', '--role', 'admin', '--password-stdin', ...folders], { input: password }), { code: 0 })
  const keys: Array<Record<string, string>> = []
  for (const name of ['first', 'second']) {
    const { stdout } = await runProgram(['key', 'create', '--user', 'alice', '--name', name, ...folders])
    keys.push({ 'x-api-key': stdout.trim() })
  }
  const server = await startServer(t, [
    '--auth', 'jwt', '--models-dir', models, '--login-rate-limit', '10000', '--log-level', 'info', ...folders, ...parameters
  ])
  return { server, keys: [keys[0]!, keys[1]!] as const }
}

function logIn ({ url }: RunningServer): Promise<Response> {
  return fetch(`${url}/api/auth/login`, {
    method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ username: 'alice', password })
  })
}

async function metric ({ url }: RunningServer, headers: Record<string, string>, name: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`, { headers })).text()
  return Number(new RegExp(`^${name.replaceAll(/[{}]/g, '\\$&')} (\\d+)`, 'm').exec(text)?.[1] ?? 0)
}

/** The longest that health took while `work` ran, in milliseconds. */
async function slowestHealth ({ url }: RunningServer, work: () => Promise<void>): Promise<number> {
  const over = new AbortController()
  const end = work().finally(() => over.abort())
  let slowest = 0
  while (!over.signal.aborted) {
    const began = performance.now()
    const { status } = await fetch(`${url}/api/health`)
    if (status !== 200) throw new Error(`health answered ${status}`)
    slowest = Math.max(slowest, performance.now() - began)
    await new Promise(resolve => setTimeout(resolve, 20))
  }
  await end
  return slowest
}

t.test('another process holds auth.db', async t => {
  const { models, data } = workspace(t)
  const { server, keys: [first, second] } = await start(t, models, data)
  const other = new DatabaseSync(join(data, 'auth', 'auth.db'))
  t.teardown(() => other.close())
  t.equal((await server.json('/api/auth/me', { headers: first })).status, 200)

  other.exec('BEGIN IMMEDIATE')
  const slowest = await slowestHealth(server, async () => {
    t.equal((await server.json('/api/models', { headers: strange })).status, 401)
    t.match(await server.json('/api/auth/me', { headers: second }), { status: 200 }, 'a key that is used for the first time')
    const login = await logIn(server)
    t.equal(login.status, 503, 'a login whose session cannot be stored within 5 s')
    t.match(login.headers.get('retry-after'), /^\d+$/)
    t.match(await login.json(), { error: { code: 'SDR_UNAVAILABLE' } })
    for (let n = 0; n < 50; n++) await fetch(`${server.url}/api/models`, { headers: strange })
    await new Promise(resolve => setTimeout(resolve, 1500))
  })
  t.ok(slowest < 1000, `the event loop never waited for the lock: ${Math.round(slowest)} ms`)
  const warnings = server.log.filter(({ msg }) => /^Records of logins/.test(String(msg)))
  t.equal(warnings.length, 1, 'one line for all of them')

  const late = logIn(server)
  setTimeout(() => other.exec('COMMIT'), 1000)
  t.equal((await late).status, 200, 'a login waits for a lock that is released in time')
  await until(async () => {
    const { stdout } = await runProgram(['audit', '--all', '--json', '--outcome', 'failure', '--data-dir', data])
    return stdout.split('\n').filter(line => line.includes('"access"')).length === 51
  })
  t.ok(await metric(server, second, 'sdrest_records_lost_total{record="last_use"}') >= 1)
  t.match(await server.end(), { code: 0 })
})

t.test('another process holds jobs.db', async t => {
  const { models, data } = workspace(t)
  const { server, keys: [key] } = await start(t, models, data)
  const other = new DatabaseSync(join(data, 'jobs.db'))
  t.teardown(() => other.close())
  const submit = () => server.json('/api/generate/txt2img', { method: 'POST', body: job, headers: key })

  other.exec('BEGIN IMMEDIATE')
  const slowest = await slowestHealth(server, async () => {
    t.match(await submit(), { status: 503, body: { error: { code: 'SDR_UNAVAILABLE' } } })
  })
  t.ok(slowest < 1000, `the event loop never waited for the lock: ${Math.round(slowest)} ms`)
  const late = submit()
  setTimeout(() => other.exec('COMMIT'), 1000)
  const { status, body } = await late
  t.equal(status, 202)
  await until(async () => (await server.json(`/api/queue/job/${body.id}`, { headers: key })).body.status === 'completed')
  t.match(await server.end(), { code: 0 })
})

t.test('the disk is full', async t => {
  const { folder, models } = workspace(t)
  const disk = process.platform === 'linux' ? smallDisk(t, join(folder, 'disk'), 4) : undefined
  if (disk === undefined) return t.pass('skipped: it takes Linux and the right to mount a small disk')
  const data = join(disk, 'data')
  const { server, keys: [first, second] } = await start(t, models, data)
  t.equal((await server.json('/api/auth/me', { headers: first })).status, 200)
  fill(join(disk, 'ballast'))

  t.equal((await server.json('/api/generate/txt2img', { method: 'POST', body: job, headers: first })).status, 507)
  for (let n = 0; n < 300; n++) {
    const { status } = await server.json('/api/models', { headers: strange })
    if (status !== 401) t.fail(`a stranger got ${status}`)
  }
  t.equal((await server.json('/api/auth/me', { headers: second })).status, 200, 'a key that is used for the first time')
  const login = await logIn(server)
  t.ok([200, 507].includes(login.status), `a login needs room for its session: ${login.status}`)
  await new Promise(resolve => setTimeout(resolve, 3000))
  t.equal((await server.json('/api/health')).status, 200)
  t.ok(server.log.every(({ level }) => Number(level) < 60), 'nothing was fatal')
  const warnings = server.log.filter(({ msg }) => /^Records of logins/.test(String(msg)))
  t.equal(warnings.length, 1, 'one line for all of them')

  rmSync(join(disk, 'ballast'))
  await until(async () => {
    const { stdout } = await runProgram(['audit', '--all', '--json', '--event', 'access', '--data-dir', data])
    return stdout.trimEnd().split('\n').length === 300
  })
  t.equal((await logIn(server)).status, 200)
  t.match(await server.end(), { code: 0 })
})

t.test('the log cannot be written', { skip: process.platform !== 'linux' && 'it takes /dev/full' }, async t => {
  const { models, data } = workspace(t)
  const { spawn } = await import('node:child_process')
  const { program, environment } = await import('../server-process.ts')
  const full = openSync('/dev/full', 'w')
  const port = 20_000 + process.pid % 10_000
  const child = spawn(process.execPath, [
    program, '--auth', 'none', '--engine', 'portable', '--port', String(port), '--models-dir', models, '--data-dir', data
  ], { stdio: ['ignore', full, 'pipe'], env: environment })
  closeSync(full)
  t.teardown(() => child.kill('SIGKILL'))
  let stderr = ''
  child.stderr!.setEncoding('utf8').on('data', (text: string) => { stderr += text })
  await until(async () => (await fetch(`http://127.0.0.1:${port}/api/health`).catch(() => undefined))?.status === 200)
  t.match(stderr, /^stable-diffusion-rest: The log cannot be written: ENOSPC.*\n$/, 'said once')
  t.equal(child.exitCode, null)
})

/** Takes all the room that is left. */
function fill (file: string): void {
  const descriptor = openSync(file, 'w')
  try {
    for (const size of [65_536, 4096, 1]) {
      try {
        for (;;) writeSync(descriptor, Buffer.alloc(size, 1))
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
      }
    }
  } finally {
    closeSync(descriptor)
  }
}
