import { chmodSync, mkdirSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Accounts } from '../../../../lib/accounts/accounts.ts'
import { SqliteAccounts } from '../../../../lib/accounts/store/sqlite/accounts.ts'
import { openAuthDatabase } from '../../../../lib/accounts/store/sqlite/database.ts'
import { openSqliteStore } from '../../../../lib/accounts/store/sqlite/store.ts'
import { checked, conformance, hasher, password, type OpenedStore } from './conformance.ts'

async function open (t: Test) {
  const folder = join(t.testdir(), 'auth')
  const reopen: OpenedStore['reopen'] = options => {
    const store = openSqliteStore(folder, options)
    t.teardown(() => store.close())
    return store
  }
  const store = reopen({ lifetime: 60_000 })
  const database = openAuthDatabase(folder)
  t.teardown(() => database.close())
  const expireKey = async (id: string) => {
    database.prepare('UPDATE api_keys SET expires_at = 1 WHERE id = ?').run(id)
  }
  return { store, reopen, expireKey, database }
}

conformance(t, open)

t.test('a page is read from an index, however many there are', async t => {
  const { store: { accounts, keys }, database } = await open(t)
  database.exec(`
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 50000)
    INSERT INTO users (id, username, source, role, created_at) SELECT 'id ' || n, 'user' || n, 'unix', 'user', n FROM numbers;
    INSERT INTO api_keys (id, user_id, name, hash, permissions, created_at)
      SELECT printf('%016x', rowid), id, 'x', x'00', '[]', created_at FROM users`)
  const lists = {
    accounts: (cursor?: string) => accounts.list({ cursor }),
    keys: (cursor?: string) => keys.list({ cursor }),
    'keys of one account': (cursor?: string) => keys.list({ userId: 'id 7', cursor })
  }
  const all = await cost(() => accounts.all())
  for (const [name, list] of Object.entries(lists)) {
    const first = await list()
    t.equal(first.next_cursor === null, name === 'keys of one account')
    const page = await cost(() => list(first.next_cursor ?? undefined))
    t.ok(page * 10 < all, `${name}: a page of 100 takes ${page} ms, all 50,000 take ${all} ms`)
  }
})

/** Milliseconds that the fastest of some calls takes. */
async function cost (work: () => Promise<unknown>): Promise<number> {
  const times = []
  for (let count = 0; count < 5; count++) {
    const start = performance.now()
    await work()
    times.push(performance.now() - start)
  }
  return Math.min(...times)
}

t.test('a database of the release before gets what is new', async t => {
  const folder = join(t.testdir(), 'auth')
  const database = openAuthDatabase(folder)
  database.exec(`
    DROP TRIGGER remember_removed_user; DROP TABLE removed_users; DROP INDEX users_by_name; DROP INDEX api_keys_by_age; DROP INDEX api_keys_of_user_by_age;
    CREATE INDEX api_keys_of_user ON api_keys (user_id);
    DROP INDEX audit_by_share; CREATE INDEX audit_by_outcome ON audit (outcome, id);
    ALTER TABLE audit DROP COLUMN kind; ALTER TABLE audit DROP COLUMN share;
    INSERT INTO audit (at, event, outcome, actor, address) VALUES
      (1, 'user.create', 'success', 'root', '192.0.2.1'), (1, 'login', 'failure', 'bob', '192.0.2.1');
    PRAGMA user_version = 1`)
  database.close()
  const again = openAuthDatabase(folder)
  t.teardown(() => again.close())
  t.same(await new SqliteAccounts(again, ['local']).list(), { users: [], next_cursor: null })
  t.match(again.prepare('SELECT kind, share FROM audit ORDER BY id').all(), [
    { kind: 'administration', share: 'root' }, { kind: 'failure', share: '192.0.2.1' }
  ])
  t.match(again.prepare('PRAGMA user_version').get(), { user_version: 4 })
})

t.test('files of accounts are for their owner only', async t => {
  const folder = join(t.testdir(), 'deep', 'auth')
  openAuthDatabase(folder).close()
  t.equal(statSync(folder).mode & 0o777, 0o700)
  t.equal(statSync(join(folder, 'auth.db')).mode & 0o777, 0o600)
  const lax = join(t.testdir({ lax: {} }), 'lax')
  chmodSync(lax, 0o755)
  const database = openAuthDatabase(lax)
  database.exec("INSERT INTO audit (at, event, outcome, actor) VALUES (0, 'login', 'failure', 'x')")
  for (const file of readdirSync(lax)) t.equal(statSync(join(lax, file)).mode & 0o777, 0o600, `${file}, where others may look into the folder`)
  database.close()
  chmodSync(lax, 0o777)
  t.throws(() => openAuthDatabase(lax), { exitCode: 4, message: /Every user .* can replace the accounts .* chmod o-w/ })
  const blocked = join(t.testdir({ file: '' }), 'file', 'auth')
  t.throws(() => openAuthDatabase(blocked), { exitCode: 4, message: /--auth-data-dir/ })
  mkdirSync(join(folder, 'sub', 'auth.db'), { recursive: true })
  t.throws(() => openAuthDatabase(join(folder, 'sub')), { exitCode: 4, message: /cannot be opened/ })
})

t.test('the used refresh tokens of a session are bounded', async t => {
  const { store, database } = await open(t)
  const accounts = new Accounts(store.accounts, hasher)
  await accounts.create({ username: 'alice', password, role: 'user' })
  let { refreshToken, sessionId } = (await store.sessions.open(await checked(accounts, 'alice'), '', ''))!
  for (let count = 0; count < 150; count++) refreshToken = (await store.sessions.rotate(refreshToken))!.refreshToken!
  t.match(database.prepare('SELECT count(*) AS count FROM refresh_tokens WHERE session_id = ?').get(sessionId), { count: 101 })
})

t.test('the ids of removed accounts are bounded', async t => {
  const { store: { accounts }, database } = await open(t)
  const [alice, bob, carol] = await Promise.all(['alice', 'bob', 'carol'].map(async username =>
    (await accounts.add({ username, role: 'user', hash: '' })).id)) as [string, string, string]
  await accounts.remove(bob)
  database.exec('UPDATE removed_users SET rowid = rowid + 200000')
  await accounts.remove(alice)
  t.same([await accounts.isGone(alice), await accounts.isGone(bob)], [true, true])
  database.prepare('UPDATE removed_users SET rowid = 1 WHERE id = ?').run(bob)
  await accounts.remove(carol)
  t.same([await accounts.isGone(alice), await accounts.isGone(bob)], [true, false], 'so many are remembered, and no more')
})

t.test('statements refuse a text with a NUL', async t => {
  const { database } = await open(t)
  const cut = { code: 'SDR_INVALID_REQUEST', message: /NUL/ }
  t.throws(() => database.prepare('SELECT * FROM users WHERE id = $id').all({ id: 'x\0' }), cut)
  t.throws(() => [...database.prepare('SELECT * FROM users WHERE id = ?').iterate('x\0')], cut)
  t.throws(() => database.prepare('UPDATE users SET username = ?').run('a\0'), cut)
})
