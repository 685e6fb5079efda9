import { randomBytes } from 'node:crypto'
import { chmodSync, mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { ApiKeyStore } from '../../../lib/accounts/api-keys.ts'
import { openAuthDatabase } from '../../../lib/accounts/auth-database.ts'
import { readCredential } from '../../../lib/accounts/credentials.ts'
import { LoginThrottle } from '../../../lib/accounts/login-throttle.ts'
import { PasswordHasher } from '../../../lib/accounts/passwords.ts'
import { tokenSecret } from '../../../lib/accounts/secrets.ts'
import { SessionStore } from '../../../lib/accounts/sessions.ts'
import { UserStore, type CheckedAccount } from '../../../lib/accounts/users.ts'

const hasher = new PasswordHasher(10)
const password = 'correct horse battery staple'

function open (t: Test) {
  const database = openAuthDatabase(join(t.testdir(), 'auth'))
  t.teardown(() => database.close())
  return {
    users: new UserStore(database, hasher),
    sessions: new SessionStore(database, { lifetime: 60_000 }),
    keys: new ApiKeyStore(database),
    database
  }
}

t.test('passwords', async t => {
  const phc = await hasher.hash(password)
  t.match(phc, /^\$scrypt\$ln=10,r=8,p=1\$/)
  t.not(phc, await hasher.hash(password), 'every hash has its own salt')
  t.equal(await hasher.verify(password, phc), true)
  t.equal(await hasher.verify('wrong', phc), false)
  t.equal(await hasher.verify('no account has this password', undefined), false, 'the decoy lets nobody in')
  t.equal(await hasher.verify('e\u0301'.repeat(8), await hasher.hash('\u00e9'.repeat(8))), true, 'both spellings of é are the same password')
  t.equal(await new PasswordHasher(11).verify(password, phc), true, 'an older cost still counts')
})

t.test('users', async t => {
  const { users, sessions, database } = open(t)
  t.equal(users.isEmpty, true)
  const admin = await users.create({ username: 'root', password, role: 'admin' })
  const alice = await users.create({ username: 'alice', password, role: 'user' })
  t.equal(users.isEmpty, false)
  t.same(users.all().map(({ username, role }) => [username, role]), [['alice', 'user'], ['root', 'admin']])

  await t.rejects(users.create({ username: 'ALICE', password, role: 'user' }), { code: 'SDR_CONFLICT' }, 'names differ by more than case')
  await t.rejects(users.create({ username: 'a\nb', password, role: 'user' }), { code: 'SDR_INVALID_REQUEST' })
  await t.rejects(users.create({ username: '../x', password, role: 'user' }), { code: 'SDR_INVALID_REQUEST' })
  await t.rejects(users.create({ username: 'bob', password: 'short', role: 'user' }), { code: 'SDR_INVALID_REQUEST', message: /8 to 1024 characters/ })

  t.match(await users.verify('alice', password), { user: { id: alice.id } })
  t.equal(await users.verify('alice', 'wrong'), undefined)
  t.equal(await users.verify('nobody', password), undefined)

  const session = sessions.open(await checked(users, 'alice'), '127.0.0.1', 'test')!
  await users.update(alice.id, { role: 'admin' })
  t.match(sessions.activeUser(session.sessionId, alice.id), { role: 'admin' }, 'the role is read anew')
  await users.update(alice.id, { disabled: true })
  t.equal(sessions.activeUser(session.sessionId, alice.id), undefined, 'disabling ends sessions')
  t.equal(await users.verify('alice', password), undefined)

  t.throws(() => users.remove(admin.id), { code: 'SDR_CONFLICT' }, 'the last administrator stays')
  await t.rejects(users.update(admin.id, { disabled: true, password: 'a new long password' }), { code: 'SDR_CONFLICT' })
  t.match(await users.verify('root', password), { user: { id: admin.id } }, 'all of a change or nothing')
  await t.rejects(users.update(admin.id, { role: 'user' }), { code: 'SDR_CONFLICT' })
  t.match(await users.update(alice.id, { disabled: false }), { disabled: false, role: 'admin' })
  users.remove(admin.id)
  t.throws(() => users.get(admin.id), { code: 'SDR_USER_NOT_FOUND' })

  const outside = users.external('pam', 'carol', 'user')
  t.equal(users.external('pam', 'carol', 'admin').id, outside.id)
  t.not(users.external('pam', 'Carol', 'user').id, outside.id, 'to the system these are two people')
  t.not(users.external('unix', 'carol', 'user').id, outside.id)
  await t.rejects(users.update(outside.id, { password }), { code: 'SDR_CONFLICT', message: /operating system/ })
  await t.rejects(users.update(outside.id, { role: 'user' }), { code: 'SDR_CONFLICT', message: /--admin-groups/ })
  const underJwt = new UserStore(database, hasher, ['local'])
  t.throws(() => underJwt.remove(alice.id), { code: 'SDR_CONFLICT' }, 'an administrator of a system that is not asked does not count')
  t.equal(await users.verify('carol', password), undefined, 'a system account has no password here')
})

/** The account as a login finds it. */
async function checked (users: UserStore, username: string, secret = password): Promise<CheckedAccount> {
  const account = await users.verify(username, secret)
  if (account === undefined) throw new Error(`${username} was refused`)
  return account
}

t.test('sessions', async t => {
  const { users, sessions, database } = open(t)
  const { id } = await users.create({ username: 'alice', password, role: 'user' })
  const account = await checked(users, 'alice')
  const login = (userAgent: string) => sessions.open(account, '127.0.0.1', userAgent)!
  const opened = login('test')
  const rotated = sessions.rotate(opened.refreshToken)
  if (rotated === undefined || rotated.refreshToken === null) return t.fail('a fresh token was refused')
  t.equal(rotated.sessionId, opened.sessionId)
  t.not(rotated.refreshToken, opened.refreshToken)

  t.equal(sessions.rotate('sdrr_unknown'), undefined)
  t.ok(sessions.activeUser(opened.sessionId, id), 'guessing does not end a session')
  t.same(sessions.rotate(opened.refreshToken), { sessionId: opened.sessionId, user: opened.user, refreshToken: null, reason: 'reused' })
  t.equal(sessions.activeUser(opened.sessionId, id), undefined, 'the reuse of a token ends the session')
  t.equal(sessions.rotate(rotated.refreshToken), undefined)

  const barred = login('barred')
  const asked: unknown[] = []
  const refused = sessions.rotate(barred.refreshToken, account => { asked.push(account); return false })
  t.same(refused, { sessionId: barred.sessionId, user: barred.user, refreshToken: null, reason: 'not admitted' })
  t.same(asked, [{ id, source: 'local' }])
  t.match(barred.user, { id, username: 'alice', role: 'user' })
  const admitted = sessions.rotate(barred.refreshToken, () => true)
  t.match(admitted, { sessionId: barred.sessionId, refreshToken: String }, 'a refusal does not use the token up')
  t.match(sessions.rotate(barred.refreshToken, () => false), { reason: 'reused' }, 'a copy ends the session, admitted or not')
  t.equal(sessions.rotate(admitted!.refreshToken!), undefined)

  const kept = login('kept')
  const other = login('other')
  await users.changePassword(account, 'another long password', { id, role: 'user', sessionId: kept.sessionId })
  t.same(sessions.list(id).map(({ id }) => id), [kept.sessionId], 'a new password ends the other sessions')
  t.throws(() => sessions.end(other.sessionId, id), { code: 'SDR_SESSION_NOT_FOUND' })
  t.throws(() => sessions.end(kept.sessionId, 'somebody else'), { code: 'SDR_SESSION_NOT_FOUND' })

  const short = new SessionStore(database, { lifetime: -1 })
  const renewed = await checked(users, 'alice', 'another long password')
  const expired = short.open(renewed, '', '')!
  t.equal(short.activeUser(expired.sessionId, id), undefined)
  t.equal(short.rotate(expired.refreshToken), undefined)

  let token = kept.refreshToken
  for (let count = 0; count < 150; count++) token = sessions.rotate(token)!.refreshToken!
  t.match(database.prepare('SELECT count(*) AS count FROM refresh_tokens WHERE session_id = ?').get(kept.sessionId), { count: 101 },
    'the used tokens of a session are bounded')

  for (let count = 0; count < 110; count++) sessions.open(renewed, '', '')
  t.equal(sessions.list(id).length, 100, 'the oldest sessions make room')
})

t.test('a session has an end that no refresh goes beyond', async t => {
  const { users, sessions, database } = open(t)
  const { id } = await users.create({ username: 'alice', password, role: 'user' })
  const account = await checked(users, 'alice')
  const bounded = new SessionStore(database, { lifetime: 60_000, longest: 90_000 })
  let { refreshToken, sessionId } = bounded.open(account, '', '')!
  const began = Date.now()
  for (const [after, isLiving] of [[50_000, true], [89_000, true], [91_000, false]] as const) {
    const { restore } = t.intercept(Date, 'now', { value: () => began + after, configurable: true })
    const rotated = bounded.rotate(refreshToken)
    t.equal(rotated !== undefined, isLiving, `${after} ms after the login`)
    t.equal(bounded.activeUser(sessionId, id) !== undefined, isLiving)
    refreshToken = rotated?.refreshToken ?? refreshToken
    restore()
  }
  const old = sessions.open(account, '', '')!
  database.prepare('UPDATE sessions SET expires_at = created_at + 1000000 WHERE id = ?').run(old.sessionId)
  const end = () => database.prepare('SELECT expires_at - created_at AS life FROM sessions WHERE id = ?').get(old.sessionId)
  new SessionStore(database, { lifetime: 60_000, longest: 90_000 }).list(id)
  t.same({ ...end() }, { life: 90_000 }, 'sessions of an older release, or of a longer bound, are shortened')
  t.equal(new SessionStore(database, { lifetime: 60_000, longest: 30_000 }).open(account, '', '')!.user.id, id)
})

t.test('no text with a NUL reaches the database', async t => {
  const { users, sessions, keys, database } = open(t)
  const { id } = await users.create({ username: 'alice', password, role: 'user' })
  const cut = { code: 'SDR_INVALID_REQUEST', message: /NUL/ }
  t.throws(() => users.find('alice\0x'), cut)
  await t.rejects(users.verify('alice\0x', password), cut)
  t.throws(() => users.get(`${id}\0x`), cut)
  t.throws(() => keys.all(`${id}\0`), cut)
  t.throws(() => sessions.end('x\0', id), cut)
  t.throws(() => database.prepare('SELECT * FROM users WHERE id = $id').all({ id: `${id}\0` }), cut)
  t.throws(() => [...database.prepare('SELECT * FROM users WHERE id = ?').iterate(`${id}\0`)], cut)
  t.throws(() => database.prepare('UPDATE users SET username = ?').run('a\0'), cut)
})

t.test('API keys', async t => {
  const { users, keys } = open(t)
  const { id } = await users.create({ username: 'alice', password, role: 'user' })
  const created = keys.create({ userId: id, name: 'laptop' })
  t.match(created.key, /^sdr_[0-9a-f]{16}_[\w-]{43}$/)
  t.match(keys.principal(created.key), { id, username: 'alice', via: 'api-key', permissions: ['models:read', 'generate', 'queue:read'] })
  t.not(JSON.stringify(keys.list({ userId: id }).keys).includes(created.key), 'a list never shows the key')
  t.type(keys.list({ userId: id }).keys[0]?.last_used_at, 'string')

  for (const wrong of ['', 'sdr_', `${created.key}x`, created.key.slice(0, -1) + (created.key.endsWith('A') ? 'B' : 'A'), `sdr_${'0'.repeat(16)}_${'a'.repeat(43)}`]) {
    t.equal(keys.principal(wrong), undefined, wrong)
  }
  t.throws(() => keys.create({ userId: id, name: 'x', permissions: ['users:manage'] }), { code: 'SDR_FORBIDDEN', message: /users:manage/ })
  t.throws(() => keys.create({ userId: id, name: 'x', expiresAt: Date.now() - 1 }), { code: 'SDR_INVALID_REQUEST' })

  const narrow = keys.create({ userId: id, name: 'reader', permissions: ['models:read'] })
  t.same(keys.principal(narrow.key)?.permissions, ['models:read'])

  t.throws(() => keys.revoke(created.id, 'somebody else'), { code: 'SDR_KEY_NOT_FOUND' })
  keys.revoke(created.id, id)
  t.equal(keys.principal(created.key), undefined)
  await users.update(id, { disabled: true })
  t.equal(keys.principal(narrow.key), undefined, 'the keys of a disabled account do not count')
})

t.test('pages of accounts and of keys', async t => {
  const { users, keys, database } = open(t)
  const names = ['bob', 'Zoe', 'alice', 'mona.lisa', '_x', 'bobby']
  for (const username of names) await users.create({ username, password, role: 'user' })
  for (const source of ['unix', 'pam'] as const) users.external(source, 'bob', 'user')
  const seenUsers = everyPage(cursor => users.list({ limit: 3, cursor }), ({ users }) => users)
  t.same(seenUsers, users.all(), 'the pages together are the list')
  t.same(seenUsers.map(({ username, source }) => `${username} ${source}`),
    ['Zoe local', '_x local', 'alice local', 'bob local', 'bob pam', 'bob unix', 'bobby local', 'mona.lisa local'])
  t.same(users.list({ limit: 8 }).next_cursor, null, 'a page that ends with the list is the last')

  const { next_cursor: cursor } = users.list({ limit: 3 })
  users.remove(users.find('alice')!.id)
  await users.create({ username: 'aaa', password, role: 'user' })
  t.equal(users.list({ limit: 1, cursor: cursor! }).users[0]?.username, 'bob', 'the place is kept though the account is gone')

  const [bob, zoe] = [users.find('bob')!.id, users.find('Zoe')!.id]
  for (let count = 0; count < 10; count++) keys.create({ userId: count % 3 === 0 ? zoe : bob, name: `key ${count}` })
  database.exec("UPDATE api_keys SET created_at = created_at / 1000 * 1000 WHERE name < 'key 7'") // several of the same time
  const expired = keys.create({ userId: bob, name: 'expired', expiresAt: Date.now() + 60_000 })
  database.prepare('UPDATE api_keys SET expires_at = 1 WHERE id = ?').run(expired.id)
  for (const userId of [undefined, bob, zoe]) {
    const seen = everyPage(cursor => keys.list({ userId, limit: 2, cursor }), ({ keys }) => keys)
    t.same(seen, keys.all(userId))
    t.same(seen.length, { [bob]: 6, [zoe]: 4 }[userId ?? ''] ?? 10)
    t.same(seen.map(key => key.created_at), seen.map(key => key.created_at).sort().reverse(), 'the newest first')
  }
  t.equal(everyPage(cursor => keys.list({ limit: 1000, cursor }), ({ keys }) => keys).length, 10)

  const wrong = ['', '%%%', 'x', Buffer.from('bob\nldap').toString('base64url'), `${cursor}=`, 'A'.repeat(4000)]
  for (const cursor of [...wrong, keys.list({ limit: 1 }).next_cursor!]) {
    t.throws(() => users.list({ cursor }), { code: 'SDR_INVALID_REQUEST', message: /for cursor/, details: [{ field: 'cursor' }] }, `accounts: ${cursor.slice(0, 80)}`)
  }
  for (const other of [...wrong, cursor!]) t.throws(() => keys.list({ cursor: other }), { code: 'SDR_INVALID_REQUEST' }, `keys: ${other.slice(0, 80)}`)
})

function everyPage<Page extends { next_cursor: string | null }, Entry> (
  get: (cursor?: string) => Page, entriesOf: (page: Page) => Entry[]
): Entry[] {
  const entries: Entry[] = []
  for (let page = get(); ; page = get(page.next_cursor)) {
    entries.push(...entriesOf(page))
    if (page.next_cursor === null) return entries
  }
}

t.test('a page is read from an index, however many there are', async t => {
  const { users, keys, database } = open(t)
  database.exec(`
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 50000)
    INSERT INTO users (id, username, source, role, created_at) SELECT 'id ' || n, 'user' || n, 'unix', 'user', n FROM numbers;
    INSERT INTO api_keys (id, user_id, name, hash, permissions, created_at)
      SELECT printf('%016x', rowid), id, 'x', x'00', '[]', created_at FROM users`)
  const lists = {
    accounts: (cursor?: string) => users.list({ cursor }),
    keys: (cursor?: string) => keys.list({ cursor }),
    'keys of one account': (cursor?: string) => keys.list({ userId: 'id 7', cursor })
  }
  const all = cost(() => users.all())
  for (const [name, list] of Object.entries(lists)) {
    const pages = [list(), list(list().next_cursor ?? undefined)]
    t.equal(pages[0]!.next_cursor === null, name === 'keys of one account')
    const page = cost(() => list(pages[0]!.next_cursor ?? undefined))
    t.ok(page * 10 < all, `${name}: a page of 100 takes ${page} ms, all 50,000 take ${all} ms`)
  }
})

/** Milliseconds that the fastest of some calls takes. */
function cost (work: () => unknown): number {
  return Math.min(...Array.from({ length: 5 }, () => {
    const start = performance.now()
    work()
    return performance.now() - start
  }))
}

t.test('an account has a hundred keys, and those that have expired do not count', async t => {
  const { users, keys, database } = open(t)
  const { id: userId } = await users.create({ username: 'alice', password, role: 'user' })
  const make = () => keys.create({ userId, name: 'x' })
  for (let count = 0; count < 100; count++) make()
  t.throws(make, { code: 'SDR_CONFLICT', message: /at most 100 keys/ })
  database.prepare('UPDATE api_keys SET expires_at = 1 WHERE id = ?').run(keys.all(userId)[0]!.id)
  t.equal(make().user_id, userId)
  t.throws(make, { code: 'SDR_CONFLICT' })
})

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
  t.same(new UserStore(again, hasher).list(), { users: [], next_cursor: null })
  t.match(again.prepare('SELECT kind, share FROM audit ORDER BY id').all(), [
    { kind: 'administration', share: 'root' }, { kind: 'failure', share: '192.0.2.1' }
  ])
  t.match(again.prepare('PRAGMA user_version').get(), { user_version: 4 })
})

t.test('an account is gone when it was disabled or removed here', async t => {
  const { users, database } = open(t)
  const make = async (username: string) => (await users.create({ username, password, role: 'user' })).id
  const [alice, bob] = [await make('alice'), await make('bob')]
  const gone = () => [alice, bob, 'operator', 'guest', 'an id that was never here'].filter(id => users.isGone(id))
  t.same(gone(), [])
  await users.update(alice, { disabled: true })
  users.remove(bob)
  t.same(gone(), [alice, bob])
  await users.update(alice, { disabled: false })
  t.same(gone(), [bob])
  t.not(await make('bob'), bob, 'a new account of that name is another one')
  t.same(gone(), [bob])
  database.exec('UPDATE removed_users SET rowid = rowid + 200000')
  users.remove(alice)
  t.same(gone(), [alice, bob])
  database.prepare('UPDATE removed_users SET rowid = 1 WHERE id = ?').run(bob)
  users.remove(await make('carol'))
  t.same(gone(), [alice], 'so many are remembered, and no more')
})

t.test('a key loses what its owner loses', async t => {
  const { users, keys } = open(t)
  await users.create({ username: 'other', password, role: 'admin' })
  const { id } = await users.create({ username: 'alice', password, role: 'admin' })
  const { key } = keys.create({ userId: id, name: 'all' })
  t.ok(keys.principal(key)?.permissions.includes('users:manage'))
  await users.update(id, { role: 'user' })
  t.notOk(keys.principal(key)?.permissions.includes('users:manage'))
})

t.test('the token secret', async t => {
  const folder = t.testdir()
  const made = tokenSecret({}, folder)
  t.equal(tokenSecret({}, folder), made, 'it is kept')
  t.equal(statSync(join(folder, 'jwt-secret')).mode & 0o777, 0o600)
  chmodSync(join(folder, 'jwt-secret'), 0o644)
  t.throws(() => tokenSecret({}, folder), { message: /can be read by others: chmod 600/ })
  t.throws(() => tokenSecret({ jwtSecret: 'short' }, folder), { exitCode: 2, message: /at least 32 bytes for --jwt-secret but received 5/ })
  t.throws(() => tokenSecret({ jwtSecret: 'x', jwtSecretFile: 'y' }, folder), { message: /one of/ })
  t.throws(() => tokenSecret({ jwtSecretFile: join(folder, 'missing') }, folder), { message: /cannot be read/ })
  const file = join(folder, 'mine')
  writeFileSync(file, `${randomBytes(32).toString('hex')}\n`)
  t.equal(tokenSecret({ jwtSecretFile: file }, folder).length, 64, 'the line end does not belong to it')
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

t.test('credentials', async t => {
  const key = `sdr_${'0'.repeat(16)}_${'a'.repeat(43)}`
  const basic = (text: string) => `Basic ${Buffer.from(text).toString('base64')}`
  t.equal(readCredential([]), undefined)
  t.same(readCredential(['Authorization', 'Bearer a.b.c']), { kind: 'token', value: 'a.b.c' })
  t.same(readCredential(['authorization', `bearer ${key}`]), { kind: 'api-key', value: key })
  t.same(readCredential(['Authorization', basic(`x:${key}`)]), { kind: 'api-key', value: key })
  t.same(readCredential(['X-Api-Key', key]), { kind: 'api-key', value: key })
  t.same(readCredential(['X-Api-Key', key, 'Authorization', `Bearer ${key}`]), { kind: 'api-key', value: key }, 'the same one twice is one')
  for (const headers of [['Authorization', 'Bearer a', 'Authorization', 'Bearer b'], ['X-API-Key', key, 'Authorization', 'Bearer a.b.c'], ['X-API-Key', 'a', 'X-API-Key', 'b']]) {
    t.throws(() => readCredential(headers), { code: 'SDR_AMBIGUOUS_CREDENTIALS' })
  }
  for (const header of ['', 'Bearer', 'Bearer a b', 'Digest x', basic('alice:password'), 'Basic !!!', 'a.b.c', `Bearer ${'x'.repeat(5000)}`]) {
    t.throws(() => readCredential(['Authorization', header]), { code: 'SDR_INVALID_TOKEN' }, header.slice(0, 20))
  }
})

t.test('the login throttle backs off and unlocks by itself', async t => {
  let now = 0
  const throttle = new LoginThrottle(() => now)
  const attempt = (username: string, address: string) => throttle.attempt(username, address, () => false)
  for (let count = 0; count < 5; count++) t.equal(attempt('alice', '1.1.1.1'), 0, 'the first failures cost nothing')
  t.equal(attempt('ALICE', '1.1.1.1'), 1)
  t.equal(attempt('alice', '2.2.2.2'), 0, 'a stranger elsewhere does not matter')
  t.equal(attempt('bob', '1.1.1.1'), 0, 'other accounts do not wait')
  now += 1000
  t.equal(attempt('alice', '1.1.1.1'), 0)
  t.equal(attempt('alice', '1.1.1.1'), 2, 'the wait doubles')
  for (let count = 0; count < 100; count++) {
    now += 60_000
    t.equal(attempt('alice', '1.1.1.1'), 0, 'never longer than a minute')
  }
  t.equal(attempt('alice', '1.1.1.1'), 60)
  t.equal(attempt('alice', '3.3.3.3'), 0, 'somebody who never stops guessing does not lock the account for others')
  throttle.succeed('alice', '1.1.1.1')
  t.equal(attempt('alice', '1.1.1.1'), 0, 'a login clears it')
  now += 3_600_000
  for (let count = 0; count < 5; count++) t.equal(attempt('alice', '1.1.1.1'), 0, 'an hour of quiet forgets all')
})

t.test('the login throttle knows one address that guesses at many accounts, and many at one', async t => {
  let now = 0
  const throttle = new LoginThrottle(() => now)
  for (let count = 0; count < 20; count++) t.equal(throttle.attempt(`user${count}`, '1.1.1.1', () => false), 0)
  t.equal(throttle.attempt('alice', '1.1.1.1', () => true), 1, 'the address waits, whomever it asks for')

  for (let count = 0; count < 30; count++) t.equal(throttle.attempt('alice', `2.2.2.${count}`, () => false), 0)
  t.equal(throttle.attempt('alice', '3.3.3.3', () => false), 1, 'many addresses that guess at one account slow it down for new ones')
  t.equal(throttle.attempt('alice', '4.4.4.4', () => true), 0, 'not for one from which it is logged in')
  now += 3_600_000
  t.equal(throttle.attempt('alice', '3.3.3.3', () => false), 0)
  for (let count = 0; count < 30_000; count++) throttle.attempt(`name${count}`, `10.${count >> 16}.${(count >> 8) & 255}.${count & 255}`, () => false)
  t.equal(throttle.attempt('name29999', '10.0.117.47', () => false), 0)
})

t.test('tries that nobody answered yet count, so that many at once are no way around the wait', async t => {
  const throttle = new LoginThrottle(() => 0)
  const waits = Array.from({ length: 8 }, () => throttle.attempt('alice', '1.1.1.1', () => false))
  t.same(waits, [0, 0, 0, 0, 0, 1, 1, 1])
  throttle.takeBack('alice', '1.1.1.1')
  t.equal(throttle.attempt('alice', '1.1.1.1', () => false), 0, 'what could not be checked is no failure')
})
