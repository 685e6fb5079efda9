import { once } from 'node:events'
import { renameSync } from 'node:fs'
import t from 'tap'
import { as, build, expectError, workspace } from '../helper.ts'
import { startServer, until } from '../server-process.ts'

t.test('/api/ready is closed unless it is opened, and says little to strangers', async t => {
  const closed = await build(t, { auth: 'jwt' }, { models: false })
  expectError(t, await closed.inject('/api/ready'), 401, 'SDR_UNAUTHENTICATED')
  const bob = await as(closed, 'bob')
  t.same((await bob('/api/ready')).json(), { status: 'ready' })

  const open = await build(t, { auth: 'jwt', 'public-paths': '/api/ready' }, { models: false })
  const { data } = open.folders
  renameSync(data, `${data}-away`)
  const answer = await open.inject('/api/ready')
  expectError(t, answer, 503, 'SDR_UNAVAILABLE', /^The data folder cannot be written to\.$/)
  t.match(answer.json(), { error: { details: [{ reason: 'storage' }] } })
  t.notMatch(answer.body, data, 'a stranger is not told where')
  const alice = await as(open, 'alice', 'admin')
  t.match((await alice('/api/ready')).json().error.details, [{ reason: 'storage' }])
  renameSync(`${data}-away`, data)
  t.equal((await open.inject('/api/ready')).statusCode, 503, 'the answer holds for a while, so that asking costs no writes')
  await until(async () => (await open.inject('/api/ready')).statusCode === 200)
})

t.test('/api/ready follows the engine and the end of the server; every answer has the id of its log line', async t => {
  const { models, data } = workspace(t)
  const server = await startServer(t, ['--models-dir', models, '--data-dir', data, '--verbose'])
  const ready = () => server.json('/api/ready')
  t.same(await ready(), { status: 200, body: { status: 'ready' } })

  for (let crash = 1; crash <= 4; crash++) {
    const pid = await until(async () => {
      const { state, pid, restarts } = (await server.json('/api/status')).body.engine
      return state === 'idle' && restarts >= crash - 1 && pid
    })
    process.kill(pid, 'SIGKILL')
  }
  const down = await until(async () => {
    const answer = await ready()
    return answer.status === 503 && answer
  })
  t.match(down.body, { error: { code: 'SDR_UNAVAILABLE', message: /The engine is down: .*SIGKILL/, details: [{ reason: 'engine' }] } })
  await until(async () => (await ready()).status === 200)

  const answer = await fetch(`${server.url}/api/ready`)
  await answer.arrayBuffer()
  const id = answer.headers.get('x-request-id')
  t.match(server.log.find(line => line.request_id === id), { msg: 'access', route: '/api/ready', decision: 'allow' })

  const { body: job } = await server.json('/api/generate/txt2img', { method: 'POST', body: JSON.stringify({ prompt: 'a fox', width: 64, steps: 60, seed: 1 }) })
  await until(async () => (await server.json(`/api/queue/job/${job.id}`)).body.status === 'running')
  server.child.kill('SIGTERM')
  await until(async () => (await ready().catch(() => ({ status: 0 }))).status !== 200)
  t.match(await ready(), { status: 503, body: { error: { code: 'SDR_DRAINING' } } })
  t.same(await once(server.child, 'exit'), [0, null])
})
