import { join } from 'node:path'
import t, { type Test } from 'tap'
import { AuditLog } from '../../../lib/accounts/audit.ts'
import { SqliteAudit } from '../../../lib/accounts/store/sqlite/audit.ts'
import { openAuthDatabase } from '../../../lib/accounts/store/sqlite/database.ts'
import type { AuditEntry } from '../../../lib/accounts/store/store.ts'
import { transaction, yieldWhenBusy } from '../../../lib/storage/database.ts'

function open (t: Test) {
  const folder = join(t.testdir(), 'auth')
  const [database, other] = [openAuthDatabase(folder), openAuthDatabase(folder)]
  yieldWhenBusy(database)
  t.teardown(() => {
    database.close()
    other.close()
  })
  const trouble: Array<{ lost: number, error: unknown }> = []
  const log = new AuditLog(new SqliteAudit(database), (_kind, error, lost) => trouble.push({ error, lost }))
  t.teardown(() => log.close())
  /** Rows as `record` would write them, without a commit for each. */
  function fill (
    count: number,
    entry: (n: number) => { event: string, outcome?: string, actor: string, kind: string, share: string }
  ) {
    const insert = database.prepare('INSERT INTO audit (at, event, outcome, actor, kind, share) VALUES (?, ?, ?, ?, ?, ?)')
    transaction(database, () => {
      for (let n = 0; n < count; n++) {
        const { event, outcome = 'success', actor, kind, share } = entry(n)
        insert.run(Date.now(), event, outcome, actor, kind, share)
      }
    })
  }
  const count = (condition: string) =>
    (database.prepare(`SELECT count(*) AS rows FROM audit WHERE ${condition}`).get() as { rows: number }).rows
  return { log, other, fill, count, trouble }
}

const entry = (changes: Partial<AuditEntry> = {}): AuditEntry =>
  ({ event: 'key.create', outcome: 'success', actor: 'bob', ...changes })

/** Writes enough for the log to look at its capacity. */
async function prune (log: AuditLog, changes?: Partial<AuditEntry>): Promise<void> {
  for (let n = 0; n < 1000; n++) await log.record(entry({ outcome: 'failure', ...changes }))
  await log.flush()
}

t.test('one user cannot push out the records of others, nor of administration', async t => {
  const { log, fill, count } = open(t)
  await log.record(entry({ event: 'user.create', actor: 'root', subject: 'mallory' }))
  for (const actor of ['root', 'alice']) await log.record(entry({ event: 'login', actor }))
  fill(120_000, () => ({ event: 'key.create', actor: 'bob', kind: 'use', share: 'bob' }))
  const began = performance.now()
  await prune(log)
  t.comment(`pruned in ${Math.round(performance.now() - began)} ms`)
  t.match(await log.list({ event: 'user.create', limit: 10 }), [{ actor: 'root', subject: 'mallory' }])
  t.equal((await log.list({ event: 'login', limit: 10 })).length, 2)
  t.equal(count("kind = 'use'"), 100_000, 'rows are bounded')
  t.equal(count("actor = 'bob' AND outcome = 'success'"), 99_998)
})

t.test('one administrator cannot push out what another one did', async t => {
  const { log, fill, count } = open(t)
  await log.record(entry({ event: 'user.update', actor: 'root', subject: 'mallory', reason: 'role admin' }))
  fill(101_500, () => ({ event: 'user.update', actor: 'mallory', kind: 'administration', share: 'mallory' }))
  await prune(log)
  t.equal(count("kind = 'administration'"), 100_000)
  t.match(await log.list({ actor: 'root', limit: 10 }), [{ subject: 'mallory' }])
})

t.test('one network cannot push out failures that came from elsewhere, whatever names it tries', async t => {
  const { log, fill, count } = open(t)
  await log.record(entry({ event: 'login', outcome: 'failure', actor: 'alice', address: '192.0.2.1' }))
  await log.flush()
  fill(105_000, n => ({ event: 'login', outcome: 'failure', actor: `name${n}`, kind: 'failure', share: '2001:db8::/48' }))
  for (let n = 0; n < 1000; n++) {
    await log.record(entry({ event: 'login', outcome: 'failure', actor: `other${n}`, address: `2001:db8:0:${n.toString(16)}::1` }))
  }
  await log.flush()
  t.equal(count("kind = 'failure'"), 100_000)
  t.match(await log.list({ actor: 'alice', limit: 10 }), [{ address: '192.0.2.1' }])
  t.equal((await log.list({ actor: 'other999', limit: 10 })).length, 1, 'the newest stay')
})

t.test('several large shares are cut to one length', async t => {
  const { log, fill, count } = open(t)
  fill(90_000, () => ({ event: 'key.create', actor: 'bob', kind: 'use', share: 'bob' }))
  fill(60_000, () => ({ event: 'key.create', actor: 'carol', kind: 'use', share: 'carol' }))
  fill(10, () => ({ event: 'login', actor: 'alice', kind: 'use', share: 'alice' }))
  await prune(log)
  t.equal(count("kind = 'use'"), 100_000)
  t.equal(count("actor = 'alice'"), 10)
  t.ok(Math.abs(count("share = 'bob' AND kind = 'use'") - count("share = 'carol'")) <= 1)
})

t.test('pages', async t => {
  const { log } = open(t)
  for (let n = 0; n < 10; n++) await log.record(entry({ subject: `s${n}` }))
  const subjects = async (filter: Omit<Parameters<AuditLog['list']>[0], 'limit'>) => (await log.list({ ...filter, limit: 3 })).map(({ subject }) => subject)
  const { id } = (await log.list({ limit: 3 }))[0]!
  t.same(await subjects({}), ['s7', 's8', 's9'])
  t.same(await subjects({ before: id }), ['s4', 's5', 's6'])
  t.same(await subjects({ after: 0 }), ['s0', 's1', 's2'])
  t.same(await subjects({ after: id }), ['s8', 's9'])
})

t.test('while another process holds the lock, records wait, and their number is bounded', async t => {
  const { log, other, count, trouble } = open(t)
  other.exec('BEGIN IMMEDIATE')
  await log.record(entry({ event: 'login', actor: 'root' }))
  for (let n = 0; n < 6000; n++) await log.record(entry({ outcome: 'failure', actor: `stranger${n}` }))
  t.equal(trouble.filter(({ lost }) => lost === 0).length, 1, 'one try')
  t.equal(trouble.filter(({ lost }) => lost === 1).length, 1001)
  t.match(trouble.at(-1), { error: { errcode: 5 } })
  other.exec('COMMIT')
  for (let waited = 0; count('true') === 0 && waited < 5000; waited += 50) await new Promise(resolve => setTimeout(resolve, 50))
  t.equal(count('true'), 5000, 'written by the timer once the lock is free')
  t.equal(count("actor = 'root'"), 1, 'failures are given up first')
  await log.record(entry({ subject: 'after' }))
  t.equal(count("subject = 'after'"), 1, 'and from then on as before')
})

t.test('what cannot be written at the end counts as lost', async t => {
  const { log, other, trouble } = open(t)
  other.exec('BEGIN IMMEDIATE')
  await log.record(entry())
  await log.close()
  t.match(trouble.at(-1), { lost: 1, error: { errcode: 5 } })
  other.exec('ROLLBACK')
})
