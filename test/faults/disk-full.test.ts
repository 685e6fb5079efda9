import { rmSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { workspace } from '../helper.ts'
import { runProgram, until } from '../server-process.ts'
import { FaultyServer } from './fixtures/faulty-server.ts'
import { Ledger } from './fixtures/ledger.ts'
import { smallDisk } from './fixtures/small-disk.ts'

t.setTimeout(300_000)
const request = { prompt: 'a fox', width: 64, steps: 2, seed: 1 }

t.test('a full disk', { timeout: 250_000 }, async t => {
  const { folder, models } = workspace(t)
  const disk = process.platform === 'linux' ? smallDisk(t, join(folder, 'disk'), 8) : undefined
  if (disk === undefined) return t.pass('skipped: it takes Linux and the right to mount a small disk')
  const [data, ballast] = [join(disk, 'data'), join(disk, 'ballast')]
  const server = new FaultyServer(t, folder, ['--models-dir', models, '--data-dir', data])
  const ledger = new Ledger()
  const makeRoom = () => rmSync(ballast, { force: true })
  await server.start()
  const submit = async (key: string) => {
    const answer = (await server.submit(request, key))!
    if (answer.status === 202) ledger.accept(answer.body)
    return answer
  }

  const isBlocked = async () => (await server.running.json('/api/queue/status')).body.scheduler.blocked !== null

  await t.test('while accepting: refused, and nothing is left of it', async t => {
    server.arm('accepting', 'fill', ballast)
    t.match(await submit('accepting'), { status: 507, body: { error: { code: 'SDR_STORAGE_FULL' } } })
    t.match(await submit('again'), { status: 507 }, 'and so is the next one')
    t.match((await server.running.json('/api/queue/status')).body, { queued: 0, running: 0 })
    makeRoom()
    const { status, body } = await submit('accepting')
    t.equal(status, 202)
    t.match(await server.ended(body.id), { status: 'completed' })
  })

  await t.test('while saving: the job fails with the reason, and the next one runs', async t => {
    server.arm('saving', 'fill', ballast)
    const { body } = await submit('saving')
    // What was half written is deleted, which may or may not leave enough room to note the failure.
    await until(async () => (await server.job(body.id)).finished_at !== null || await isBlocked())
    makeRoom()
    t.match(await server.ended(body.id), { status: 'failed', error: { code: 'storage_full' }, images: [] })
    t.match(await server.ended((await submit('after saving')).body.id), { status: 'completed' })
  })

  await t.test('while recording: completed as soon as there is room', async t => {
    server.arm('recording', 'fill', ballast)
    const { body } = await submit('recording')
    await until(isBlocked)
    t.match(await server.job(body.id), { status: 'running', images: [] })
    t.equal((await server.running.json('/api/health')).status, 200)
    makeRoom()
    t.match(await server.ended(body.id), { status: 'completed', attempts: 1 })
  })

  await t.test('SIGTERM and a start meanwhile', async t => {
    server.arm('recording', 'fill', ballast)
    const { body } = await submit('stopped')
    await until(isBlocked)
    t.match(await server.running.end(), { code: 0 })
    const refused = await runProgram(['--models-dir', models, '--data-dir', data, '--port', '0', '--engine', 'portable'])
    t.match(refused, { code: 4, stderr: /full/ }, 'a server that can store nothing does not start')
    t.equal(refused.stderr.trimEnd().split('\n').length, 1, 'one line')
    makeRoom()
    await server.start()
    t.match(await server.ended(body.id), { status: 'completed', attempts: 2 })
  })

  for (const id of ledger.ids) await ledger.check(t, server.running, id)
  t.match(await server.running.end(), { code: 0 })
  ledger.checkFolders(t, data)
})
