import { once } from 'node:events'
import { statSync, truncateSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { writeCheckpoint } from '../../bin/support/demo-model/checkpoints.ts'
import { doubledProgram } from '../doubled-program.ts'
import { workspace } from '../helper.ts'
import { startServer, until, type RunningServer } from '../server-process.ts'

/** Long enough to be met in the middle, short enough to wait for: about two seconds. */
const long = { prompt: 'a fox', width: 128, steps: 100, seed: 1 }
const short = { prompt: 'a fox', width: 64, steps: 1, seed: 1 }

const submit = async (server: RunningServer, request: object, query = '') =>
  await server.json(`/api/generate/txt2img${query}`, { method: 'POST', body: JSON.stringify(request) })
const job = async (server: RunningServer, id: string) => (await server.json(`/api/queue/job/${id}`)).body
const isSampling = async (server: RunningServer, id: string) => (await job(server, id)).progress?.phase === 'sampling'
const ended = async (server: RunningServer, id: string) => await until(async () => {
  const found = await job(server, id)
  return found.finished_at !== null && found
}, 60_000)
const enginePid = async (server: RunningServer) => (await server.json('/api/status')).body.engine.pid as number

t.test('a job whose engine is killed runs once more, then fails, and the server answers all the while', async t => {
  const { models, data } = workspace(t)
  const server = await startServer(t, ['--models-dir', models, '--data-dir', data])

  const { body: once } = await submit(server, long)
  await until(() => isSampling(server, once.id))
  const firstEngine = await enginePid(server)
  process.kill(firstEngine, 'SIGKILL')
  const delays: number[] = []
  const survivor = await until(async () => {
    const began = performance.now()
    t.equal((await server.json('/api/health')).status, 200)
    delays.push(performance.now() - began)
    const found = await job(server, once.id)
    return found.finished_at !== null && found
  }, 60_000)
  t.match(survivor, { status: 'completed', attempts: 2 })
  delays.sort((a, b) => a - b)
  t.ok(delays[Math.floor(delays.length / 2)]! < 50, `health answers in ${delays[Math.floor(delays.length / 2)]!.toFixed(1)} ms (median of ${delays.length})`)
  t.not(await enginePid(server), firstEngine)

  const { body: twice } = await submit(server, long)
  for (let attempt = 1; attempt <= 2; attempt++) {
    await until(async () => (await job(server, twice.id)).attempts === attempt && await isSampling(server, twice.id))
    process.kill(await enginePid(server), 'SIGKILL')
  }
  t.match(await ended(server, twice.id), { status: 'failed', attempts: 2, error: { code: 'engine_crashed', message: /SIGKILL/ } })
  t.match((await submit(server, short, '?wait=30')).body, { status: 'completed' }, 'the next job runs')
  t.match((await server.json('/api/status')).body.engine, { last_crash: { reason: /SIGKILL/ } })
})

t.test('accepted jobs survive kill -9 of the server and run after the restart', async t => {
  const { models, data } = workspace(t)
  const first = await startServer(t, ['--models-dir', models, '--data-dir', data])
  const accepted = [await submit(first, long), await submit(first, short), await submit(first, { ...short, seed: 2 })]
  t.same(accepted.map(({ status }) => status), [202, 202, 202])
  const ids = accepted.map(({ body }) => body.id as string)
  await until(() => isSampling(first, ids[0]!))
  const orphan = await enginePid(first)
  await first.end('SIGKILL')
  await until(async () => !isAlive(orphan), 5000)
  t.pass('the engine does not outlive its server')

  const second = await startServer(t, ['--models-dir', models, '--data-dir', data])
  for (const id of ids) t.match(await ended(second, id), { status: 'completed', images: [{ seed: Number }] })
  t.equal((await job(second, ids[0]!)).attempts, 2)
  const image = await fetch(`${second.url}/api/queue/job/${ids[0]}/images/0`)
  t.equal(image.headers.get('content-type'), 'image/png')
  t.equal((await image.arrayBuffer()).byteLength, Number(image.headers.get('content-length')))
  t.match(await second.end(), { code: 0 })
})

t.test('on one server', async t => {
  const { models, data } = workspace(t)
  writeFileSync(join(models, 'empty.safetensors'), '')
  writeFileSync(join(models, 'text.safetensors'), 'this is no model at all, but it has that name')
  writeCheckpoint('minit2i', join(models, 'short.safetensors'))
  const server = await startServer(t, ['--models-dir', models, '--data-dir', data, '--shutdown-timeout', '1'])

  t.test('a damaged model fails its job with the reason, and the next job runs', async t => {
    for (const name of ['empty', 'text']) {
      const refused = await submit(server, { ...short, model: name })
      t.match(refused, { status: 422, body: { error: { code: 'SDR_UNSUPPORTED_MODEL', message: new RegExp(name) } } })
    }
    // The scan has seen it whole: only the engine can notice what happened since.
    truncateSync(join(models, 'short.safetensors'), 1_000_000)
    const { body: failed } = await submit(server, { ...short, model: 'checkpoint/short.safetensors' }, '?wait=30')
    t.match(failed, { status: 'failed', error: { code: 'model_load_failed', message: String } })
    t.match((await submit(server, { ...short, model: 'minit2i' }, '?wait=30')).body, { status: 'completed' })
  })

  t.test('a job is cancelled in the queue and while it is drawn', async t => {
    const { body: running } = await submit(server, { ...long, steps: 150 })
    const { body: waiting } = await submit(server, short)
    t.equal((await server.json('/api/queue/status')).body.queued + (await server.json('/api/queue/status')).body.running, 2)
    t.match((await server.json(`/api/queue/job/${waiting.id}`, { method: 'DELETE' })).body, { status: 'cancelled' })
    await until(() => isSampling(server, running.id))
    t.equal((await server.json(`/api/queue/job/${running.id}`, { method: 'DELETE' })).status, 200)
    t.match(await ended(server, running.id), { status: 'cancelled', images: [] })
    t.match(await server.json(`/api/queue/job/${running.id}`, { method: 'DELETE' }), { status: 409, body: { error: { code: 'SDR_JOB_NOT_CANCELLABLE' } } })
    t.match((await submit(server, short, '?wait=30')).body, { status: 'completed' })
  })

  t.test('events resume after the last one seen, and leaving does not cancel', async t => {
    const { body } = await submit(server, long)
    const url = `${server.url}/api/queue/job/${body.id}/events`
    const first = await readEvents(url, {}, events => events.filter(({ event }) => event === 'progress').length >= 5)
    const lastSeen = first.at(-1)!
    const rest = await readEvents(url, { 'last-event-id': lastSeen.id }, () => false)
    t.ok(rest.every(({ id }) => Number(id) > Number(lastSeen.id)), 'nothing comes twice')
    t.match(rest.at(-1), { event: 'done', data: /"status":"completed"/ })
    const again = await readEvents(url, {}, () => false)
    t.match(again.at(-1), { event: 'done' }, 'a finished job says so at once')
  })

  t.test('SIGHUP without a certificate changes nothing', async t => {
    server.child.kill('SIGHUP')
    await until(async () => server.log.some(({ msg }) => /^SIGHUP reads the certificate/.test(String(msg))))
    t.equal((await server.json('/api/health')).status, 200)
  })

  t.test('a connection that sends nothing does not keep the server from ending', async t => {
    const socket = connect(Number(new URL(server.url).port), '127.0.0.1').on('error', () => {}) // it is cut
    t.teardown(() => socket.destroy())
    await once(socket, 'connect')
    t.match(await server.end(), { code: 0, signal: null })
  })
})

t.test('SIGTERM and Ctrl-C end the server cleanly, and the running job goes back to the queue', async t => {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    const { models, data } = workspace(t)
    const server = await startServer(t, ['--models-dir', models, '--data-dir', data, '--shutdown-timeout', '0'])
    const { body } = await submit(server, { ...long, steps: 150 })
    await until(() => isSampling(server, body.id))
    const waiting = submit(server, short, '?wait=60')
    await until(async () => (await server.json('/api/queue/status')).body.queued === 1)
    t.match(await server.end(signal), { code: 0 }, signal)
    t.match(await waiting, { status: 202, body: { status: 'queued' } }, 'who waits learns the id of the job')
    for (const name of ['jobs.db-wal', 'auth/auth.db-wal']) {
      t.notOk(statSync(join(data, name), { throwIfNoEntry: false })?.size, `nothing is left in ${name}, so that the database alone is a backup`)
    }
    if (signal === 'SIGINT') continue
    const next = await startServer(t, ['--models-dir', models, '--data-dir', data])
    t.match(await until(async () => {
      const found = await job(next, body.id)
      return found.status === 'running' && found
    }), { attempts: 1 }, 'it went back to the queue without losing a try')
    t.equal((await next.json(`/api/queue/job/${body.id}`, { method: 'DELETE' })).status, 200)
  }
})

t.test('a caller who waits for a job is answered at shutdown even when its engine does not obey', async t => {
  const { models, data } = workspace(t)
  const server = await startServer(t, ['--models-dir', models, '--data-dir', data, '--shutdown-timeout', '0', '--cancel-grace', '7'], { program: doubledProgram(t) })
  const running = submit(server, { prompt: 'deaf', width: 64, steps: 1 }, '?wait=60')
  await until(async () => (await server.json('/api/queue/status')).body.running === 1)
  const waiting = submit(server, { prompt: 'nothing', width: 64, steps: 1 }, '?wait=60')
  await until(async () => (await server.json('/api/queue/status')).body.queued === 1)
  t.match(await server.end(), { code: 0 })
  for (const answer of [running, waiting]) t.match(await answer, { status: 202, body: { status: 'queued' } })
})

function isAlive (pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false // the answer, not a failure
  }
}

interface ReadEvent { id: string, event: string, data: string }

/** Reads events until the stream ends or there are enough. */
async function readEvents (
  url: string, headers: Record<string, string>, isEnough: (events: ReadEvent[]) => boolean
): Promise<ReadEvent[]> {
  const controller = new AbortController()
  const response = await fetch(url, { headers, signal: controller.signal })
  const events: ReadEvent[] = []
  let text = ''
  for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
    text += chunk
    const blocks = text.split('\n\n')
    text = blocks.pop()!
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split('\n').filter(line => !line.startsWith(':')).map(line => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1).trim()]))
      if (fields.event !== undefined) events.push(fields as unknown as ReadEvent)
    }
    if (isEnough(events)) {
      controller.abort()
      break
    }
  }
  return events
}
