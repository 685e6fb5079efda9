import t from 'tap'
import { workspace } from '../helper.ts'
import { until } from '../server-process.ts'
import { FaultyServer } from './fixtures/faulty-server.ts'
import { points, type Point } from './fixtures/strike.ts'
import { Ledger } from './fixtures/ledger.ts'

// About twenty servers are started.
t.setTimeout(600_000)

/** Long enough that another one can be queued behind it. */
const request = { prompt: 'a fox', width: 64, steps: 20, seed: 1 }
const behind = { prompt: 'a fox', width: 64, steps: 1, seed: 2 }

const isBeforeAnswer = (point: Point) => point === 'accepting' || point === 'accepted'

/** Sends a job into an armed fault, with another one waiting where there is time for that. */
async function meet (server: FaultyServer, ledger: Ledger, point: Point, action: 'kill' | 'term') {
  const submit = async () => {
    const answer = await server.submit(request, point)
    if (answer !== undefined) ledger.accept(answer.body)
    return answer
  }
  if (isBeforeAnswer(point) || point === 'loading') {
    await server.unload()
    server.arm(point, action)
    return await submit()
  }
  const answer = await submit()
  ledger.accept((await server.submit(behind, `behind ${point}`))!.body)
  server.arm(point, action)
  return answer
}

/** The next fault is not to strike a job that is left over. */
async function allEnded (server: FaultyServer, ledger: Ledger): Promise<void> {
  for (const id of ledger.ids) await server.ended(id)
}

t.test('kill -9 of the server in each state', { timeout: 500_000 }, async t => {
  const { folder, models, data } = workspace(t)
  const server = new FaultyServer(t, folder, ['--models-dir', models, '--data-dir', data])
  const ledger = new Ledger()
  await server.start()
  for (const point of points) {
    const answer = await meet(server, ledger, point, 'kill')
    t.equal(answer === undefined, isBeforeAnswer(point), `${point}: ${answer === undefined ? 'no answer' : 'accepted'}`)
    t.match(await server.gone(), { signal: 'SIGKILL' })
    await server.start()
    const { body: count } = await server.running.json('/api/queue/jobs?limit=1')
    const retried = await server.submit(request, point)
    ledger.accept(retried!.body)
    if (point === 'accepting') t.not(retried!.body.id, count.jobs[0]?.id, 'what was not stored was not accepted')
    else if (point === 'accepted') t.equal(retried!.body.id, count.jobs[0].id, 'the retry finds the job whose answer was lost')
    else t.equal(retried!.body.id, answer?.body.id)
    const attempts = isBeforeAnswer(point) || point === 'recorded' ? 1 : 2
    t.match(await server.ended(retried!.body.id), { status: 'completed', attempts }, point)
    await allEnded(server, ledger)
  }
  for (const id of ledger.ids) {
    t.match(await ledger.check(t, server.running, id), { status: 'completed' })
  }
  t.match(await server.running.end(), { code: 0 })
  ledger.checkLog(t, server.running)
  ledger.checkFolders(t, data)
})

t.test('SIGTERM in each state', { timeout: 500_000 }, async t => {
  const { folder, models, data } = workspace(t)
  const server = new FaultyServer(t, folder, ['--models-dir', models, '--data-dir', data, '--shutdown-timeout', '0'])
  const ledger = new Ledger()
  await server.start()
  for (const point of points) {
    const answer = await meet(server, ledger, point, 'term')
    t.equal(answer?.status, 202, `${point}: the answer still comes`)
    t.match(await server.gone(), { code: 0 })
    ledger.checkLog(t, server.running)
    await server.start()
    t.match(await server.ended(answer!.body.id), { status: 'completed', attempts: 1 }, 'no attempt is lost')
    await allEnded(server, ledger)
  }
  for (const id of ledger.ids) await ledger.check(t, server.running, id)
  t.match(await server.running.end(), { code: 0 })
  ledger.checkFolders(t, data)
})

t.test('kill -9 of the engine in each state', { timeout: 500_000 }, async t => {
  const { folder, models, data } = workspace(t)
  const server = new FaultyServer(t, folder, ['--models-dir', models, '--data-dir', data])
  const ledger = new Ledger()
  await server.start()
  const run = async (key: string) => {
    const { body } = (await server.submit(request, key))!
    ledger.accept(body)
    await server.ended(body.id)
    return await ledger.check(t, server.running, body.id)
  }
  // The engine may be through with its work before the server hears of its last phase, or while an image is written.
  // Killed before the job is there it may still be given the job, until its death is known.
  const attempts: Record<Point, number[]> = {
    accepting: [1, 2],
    accepted: [1, 2],
    loading: [2],
    sampling: [2],
    decoding: [1, 2],
    saving: [1, 2],
    saved: [1, 2],
    recording: [1],
    recorded: [1]
  }
  for (const point of points) {
    const { body: { engine: { restarts } } } = await server.running.json('/api/status')
    await server.unload()
    server.arm(point, 'engine')
    const job = await run(point)
    t.ok(job?.status === 'completed' && attempts[point].includes(job.attempts), `${point}: ${job?.status} after ${job?.attempts}`)
    await until(async () => (await server.running.json('/api/status')).body.engine.restarts > restarts)
  }
  t.match(await server.running.end(), { code: 0 })
  ledger.checkLog(t, server.running)
  ledger.checkFolders(t, data)
})
