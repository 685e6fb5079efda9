import { execFile } from 'node:child_process'
import { readdirSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { lock } from '../../../../lib/storage/lock.ts'
import { StagingArea } from '../../../../lib/models/files/staging.ts'
import { packageRoot } from '../../../../lib/util/package-root.ts'

const program = join(packageRoot, 'test', 'lib', 'models', 'fixtures', 'alone-often.ts')

t.test('removes the lock file after the work, also on failure', async t => {
  const folder = t.testdir()
  const staging = new StagingArea(folder)
  const key = staging.key('work')
  await staging.alone(key, async () => {
    t.strictSame(readdirSync(folder).sort(), [`${key}.lock`, `${key}.lock-journal`, 'turn.lock'].sort())
    await t.rejects(staging.alone(key, async () => t.fail('two at once')), { code: 'SDR_CONFLICT' })
    t.equal(await staging.alone(staging.key('other'), async () => 'other'), 'other')
  })
  await t.rejects(staging.alone(key, async () => { throw new Error('too bad') }), { message: 'too bad' })
  t.strictSame(readdirSync(folder), ['turn.lock'])
})

t.test('sweeps what a crash leaves, and keeps files that are in use or can continue', async t => {
  const folder = t.testdir()
  const staging = new StagingArea(folder)
  const [used, bare, recent, old] = ['used', 'bare', 'recent', 'old'].map(word => staging.key(word)) as [string, string, string, string]
  for (const key of [bare, recent, old]) {
    lock(join(folder, `${key}.lock`)).close()
    if (key !== recent) writeFileSync(join(folder, `${key}.lock-journal`), '') // as SQLite leaves it
  }
  writeFileSync(join(folder, `${bare}.json.tmp`), '{')
  for (const key of [recent, old]) await staging.write(key, { staging: join(folder, `.${key}.part`) })
  utimesSync(join(folder, `${old}.json`), 1, 1)
  writeFileSync(join(folder, 'note.lock'), 'of somebody else')
  await staging.alone(used, async () => {
    await staging.sweep()
    t.strictSame(readdirSync(folder).sort(), [
      `${used}.lock`, `${used}.lock-journal`, `${recent}.lock`, `${recent}.json`, 'note.lock', 'turn.lock'
    ].sort())
  })
  await staging.sweep({ now: Date.now() + 8 * 24 * 60 * 60 * 1000 })
  t.strictSame(readdirSync(folder).sort(), ['note.lock', 'turn.lock'])

  const nothing = new StagingArea(join(folder, 'nothing'))
  await nothing.sweep()
  t.strictSame(readdirSync(folder).sort(), ['note.lock', 'turn.lock'], 'where there is nothing, nothing is made')
})

t.test('fails when it waits too long for its turn', async t => {
  const folder = t.testdir()
  const staging = new StagingArea(folder)
  const stuck = lock(join(folder, 'turn.lock'))
  await t.rejects(staging.alone(staging.key('work'), async () => {}), { code: 'SDR_UNAVAILABLE', message: /turn\.lock/ })
  stuck.close()
  t.equal(await staging.alone(staging.key('work'), async () => 'done'), 'done')
})

t.test('never lets two processes hold the same lock', async t => {
  const folder = t.testdir()
  const times = 400
  const processes = await Promise.all([1, 2, 3].map(() =>
    promisify(execFile)(process.execPath, ['--import', 'tsx', program, folder, String(times)], { timeout: 60_000 })))
  t.strictSame(processes.map(({ stdout }) => Number(stdout)), [times, times, times])
  t.strictSame(readdirSync(join(folder, 'staging')), ['turn.lock'])
})
