import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readFileSync } from 'node:fs'
import { getPriority } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { doubledProgram } from '../doubled-program.ts'
import { noOtherUser } from '../fixtures/pam/system.ts'
import { password, workspace } from '../helper.ts'
import { png } from '../lib/jobs/fixtures/scripted-engine.ts'
import { childrenOf, environment, program, runProgram, startServer, until } from '../server-process.ts'

t.setTimeout(300_000)

const skip = (process.platform !== 'linux' && 'Linux only') || noOtherUser
/** A user that every Linux has, and that owns nothing. */
const user = 'daemon'

/** Folders that other users can reach, with models that they can read. */
function openWorkspace (t: Parameters<typeof workspace>[0]): ReturnType<typeof workspace> {
  const paths = workspace(t)
  chmodSync(paths.folder, 0o755)
  chmodSync(paths.models, 0o755)
  chmodSync(join(paths.models, 'minit2i.safetensors'), 0o644)
  return paths
}

t.test('an engine with a user of its own draws, reads no account, and is killed when it hangs', { skip }, async t => {
  const { models, data } = openWorkspace(t)
  const server = await startServer(t, [
    '--models-dir', models, '--data-dir', data, '--engine-user', user, '--cancel-grace', '1'
  ])
  const draw = async () => {
    const { status, body } = await server.json('/api/generate/txt2img', {
      method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"prompt":"a fox","width":64,"steps":2}'
    })
    t.equal(status, 202, JSON.stringify(body))
    return body.id as string
  }
  const ended = async (id: string) => await until(async () => {
    const { body } = await server.json(`/api/queue/job/${id}`)
    return ['completed', 'failed', 'cancelled'].includes(body.status) && body as object
  }).catch(async () => (await server.json(`/api/queue/job/${id}`)).body as object)
  t.match(await ended(await draw()), { status: 'completed' })

  const [engine] = childrenOf(server.child.pid!) as [number]
  const facts = readFileSync(`/proc/${engine}/status`, 'utf8')
  const [uid] = /^Uid:\s+\d+/m.exec(facts)!
  t.notMatch(uid, /\s0$/)
  t.match(facts, /^CapPrm:\s+0+$/m, 'no capability is left')
  t.match(facts, /^CapAmb:\s+0+$/m)
  t.match(facts, /^NoNewPrivs:\s+1$/m)
  t.equal(getPriority(engine), getPriority() + 10)
  t.notMatch(readFileSync(`/proc/${engine}/environ`, 'utf8'), /HOME=|SDREST_/)
  const look = (path: string) => spawnSync('setpriv', [
    `--reuid=${user}`, `--regid=${user}`, '--init-groups', 'cat', path
  ], { encoding: 'utf8' }).stderr
  for (const file of ['jobs.db', 'auth/auth.db']) t.match(look(join(data, file)), /Permission denied/, file)

  process.kill(engine, 'SIGSTOP')
  const second = await draw()
  await until(async () => (await server.json(`/api/queue/job/${second}`)).body.status === 'running')
  // A job that runs may not be with its engine yet; the engine is left alone when it is cancelled before.
  await until(async () => (await server.json('/api/status')).body.engine.state === 'busy')
  await server.json(`/api/queue/job/${second}`, { method: 'DELETE' })
  t.match(await ended(second), { status: 'cancelled' })
  t.match(await ended(await draw()), { status: 'completed' }, JSON.stringify(server.log.slice(-5)))
  t.notOk(childrenOf(server.child.pid!).includes(engine), 'the one that stood still is gone')
  t.match(await server.end(), { code: 0 })
})

/** The program with the engine double, whose engine says which files it could read. */
async function tryToRead (t: Parameters<typeof workspace>[0], launcher?: (data: string) => string[]): Promise<void> {
  const { models, data } = openWorkspace(t)
  await runProgram(['user', 'add', 'alice', '--password-stdin', '--data-dir', data], { input: password })
  const server = await startServer(t, [
    '--models-dir', models, '--data-dir', data, '--auth', 'jwt', '--engine-user', user, '--engine-timeout', '5', '--cancel-grace', '1'
  ], { program: doubledProgram(t), launcher: launcher?.(data) })
  const { body: { token } } = await server.json('/api/auth/login', { method: 'POST', body: JSON.stringify({ username: 'alice', password }) })
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' }
  const draw = async (prompt: string) => {
    const { body: { id } } = await server.json('/api/generate/txt2img', {
      method: 'POST', headers, body: JSON.stringify({ prompt, width: 64, height: 64 })
    })
    return await until(async () => {
      const { body } = await server.json(`/api/queue/job/${id}`, { headers })
      return ['completed', 'failed'].includes(body.status) && body as object
    }, 60_000)
  }
  const image = { index: 0, width: 64, height: 64, seed: 1 }
  const fox = `say ${JSON.stringify({ png: png(64, 64).toString('base64'), messages: [['image', image]] })}`
  const completed = { status: 'completed', attempts: 1 }
  t.match(await draw(fox), completed)

  const closed = ['auth', 'auth/jwt-secret', 'auth/auth.db', 'jobs.db', 'outputs'].map(name => join(data, name))
  for (const path of closed) t.ok(existsSync(path), path)
  await draw(`read ${JSON.stringify([...closed, `/proc/${server.child.pid!}/environ`, models])}`)
  const said = server.log.map(({ msg }) => msg)
  for (const path of closed) t.ok(said.some(text => String(text).includes(`EACCES ${path}`)), `EACCES ${path}`)
  t.ok(said.some(text => String(text).includes(`EACCES /proc/${server.child.pid!}/environ`)))
  t.ok(said.some(text => String(text).includes(`read ${models}`)), 'but the models')

  for (const [prompt, message] of [['abort with words', /GGML_ASSERT/], ['deaf', /no sign of life/]] as const) {
    const [engine] = childrenOf(server.child.pid!) as [number]
    const facts = readFileSync(`/proc/${engine}/status`, 'utf8')
    for (const name of ['CapInh', 'CapPrm', 'CapEff', 'CapAmb']) t.match(facts, new RegExp(`^${name}:\\s+0+$`, 'm'))
    t.match(await draw(prompt), { status: 'failed', attempts: 2, error: { code: 'engine_crashed', message } }, prompt)
    t.notOk(existsSync(`/proc/${engine}`), 'it is gone')
    t.match(await draw(fox), completed, 'and another one draws')
  }
  t.match(await server.end(), { code: 0 })
}

t.test('an engine with a user of its own reads nothing of the server, crashes and hangs', { skip }, async t => await tryToRead(t))

t.test('a server that is not root needs three capabilities, and its engine has none', { skip }, async t => {
  const switching = '-all,+setuid,+setgid,+kill'
  await tryToRead(t, data => {
    execFileSync('chown', ['-R', 'nobody', data])
    return [
      'setpriv', '--reuid=nobody', '--regid=nogroup', '--init-groups', '--no-new-privs',
      `--inh-caps=${switching}`, `--ambient-caps=${switching}`, `--bounding-set=${switching}`
    ]
  })
})

t.test('a server without the right to switch is not started', { skip }, async t => {
  const { models, data } = openWorkspace(t)
  execFileSync('install', ['-d', '-o', 'nobody', data])
  const { status, stderr } = spawnSync('setpriv', [
    '--reuid=nobody', '--regid=nogroup', '--init-groups', process.execPath, program,
    'serve', '--engine', 'portable', '--models-dir', models, '--data-dir', data, '--port', '0', '--engine-user', user
  ], { encoding: 'utf8', env: environment })
  t.equal(status, 2, stderr)
  t.match(stderr, /lacks CAP_KILL, CAP_SETGID, CAP_SETUID/)
})

t.test('what would not protect or not work is refused at the start', { skip }, async t => {
  const { models, data } = openWorkspace(t)
  const start = async (name: string) =>
    runProgram(['serve', '--engine', 'portable', '--models-dir', models, '--data-dir', data, '--port', '0', '--engine-user', name])
  t.match(await start('no such user'), { code: 2, stderr: /a user of this system for --engine-user/ })
  t.match(await start('root'), { code: 2, stderr: /another user than root/ })
  chmodSync(models, 0o700)
  t.match(await start(user), { code: 4, stderr: /cannot read the models folder/ })
  chmodSync(models, 0o755)
  mkdirSync(join(data, 'auth'), { recursive: true })
  for (const folder of [data, join(data, 'auth')]) chmodSync(folder, 0o755)
  t.match(await start(user), { code: 4, stderr: /may read or change .*auth, which the option is to prevent/ })
})
