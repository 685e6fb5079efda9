import type { Test } from 'tap'
import { Accounts } from '../../../../lib/accounts/accounts.ts'
import { ApiKeys } from '../../../../lib/accounts/api-keys.ts'
import { PasswordHasher } from '../../../../lib/accounts/passwords.ts'
import type { AccountSource, Principal } from '../../../../lib/accounts/principals.ts'
import type { AccountStore, CheckedAccount } from '../../../../lib/accounts/store/store.ts'

export const hasher = new PasswordHasher(10)
export const password = 'correct horse battery staple'

interface ReopenOptions {
  sources?: AccountSource[]
  lifetime?: number
  longest?: number
}

/** An empty store, and what the tests do to it beside its interface. */
export interface OpenedStore {
  store: AccountStore
  /** Opens another store on the same records. */
  reopen: (options: ReopenOptions) => AccountStore
  /** Makes a key one that expired long ago. */
  expireKey: (id: string) => Promise<void>
}

/** The account as a login finds it. */
export async function checked (accounts: Accounts, username: string, secret = password): Promise<CheckedAccount> {
  const account = await accounts.verify(username, secret)
  if (account === undefined) throw new Error(`${username} was refused`)
  return account
}

async function principalOf (keys: ApiKeys, value: string): Promise<Principal | undefined> {
  try {
    return await keys.identify({ kind: 'api-key', value })
  } catch (error) {
    if ((error as { code?: string }).code === 'SDR_INVALID_TOKEN') return undefined
    throw error
  }
}

async function everyPage<Page extends { next_cursor: string | null }, Entry> (
  get: (cursor?: string) => Promise<Page>, entriesOf: (page: Page) => Entry[]
): Promise<Entry[]> {
  const entries: Entry[] = []
  for (let page = await get(); ; page = await get(page.next_cursor)) {
    entries.push(...entriesOf(page))
    if (page.next_cursor === null) return entries
  }
}

/** What every store of accounts does, whatever it is kept in; sessions live for a minute. */
export function conformance (t: Test, open: (t: Test) => Promise<OpenedStore>): void {
  async function begin (t: Test) {
    const opened = await open(t)
    return { ...opened, accounts: new Accounts(opened.store.accounts, hasher), keys: new ApiKeys(opened.store.keys) }
  }

  t.test('users', async t => {
    const { store, accounts, reopen } = await begin(t)
    t.equal(await store.accounts.isEmpty(), true)
    const admin = await accounts.create({ username: 'root', password, role: 'admin' })
    const alice = await accounts.create({ username: 'alice', password, role: 'user' })
    t.equal(await store.accounts.isEmpty(), false)
    t.same((await store.accounts.all()).map(({ username, role }) => [username, role]), [['alice', 'user'], ['root', 'admin']])

    await t.rejects(accounts.create({ username: 'ALICE', password, role: 'user' }), { code: 'SDR_CONFLICT' }, 'names differ by more than case')
    await t.rejects(accounts.create({ username: 'a\nb', password, role: 'user' }), { code: 'SDR_INVALID_REQUEST' })
    await t.rejects(accounts.create({ username: '../x', password, role: 'user' }), { code: 'SDR_INVALID_REQUEST' })
    await t.rejects(accounts.create({ username: 'bob', password: 'short', role: 'user' }), { code: 'SDR_INVALID_REQUEST', message: /8 to 1024 characters/ })

    t.match(await accounts.verify('alice', password), { user: { id: alice.id } })
    t.equal(await accounts.verify('alice', 'wrong'), undefined)
    t.equal(await accounts.verify('nobody', password), undefined)

    const session = (await store.sessions.open(await checked(accounts, 'alice'), '127.0.0.1', 'test'))!
    await accounts.update(alice.id, { role: 'admin' })
    t.match(await store.sessions.activeUser(session.sessionId, alice.id), { role: 'admin' }, 'the role is read anew')
    await accounts.update(alice.id, { disabled: true })
    t.equal(await store.sessions.activeUser(session.sessionId, alice.id), undefined, 'disabling ends sessions')
    t.equal(await accounts.verify('alice', password), undefined)

    await t.rejects(store.accounts.remove(admin.id), { code: 'SDR_CONFLICT' }, 'the last administrator stays')
    await t.rejects(accounts.update(admin.id, { disabled: true, password: 'a new long password' }), { code: 'SDR_CONFLICT' })
    t.match(await accounts.verify('root', password), { user: { id: admin.id } }, 'all of a change or nothing')
    await t.rejects(accounts.update(admin.id, { role: 'user' }), { code: 'SDR_CONFLICT' })
    t.match(await accounts.update(alice.id, { disabled: false }), { disabled: false, role: 'admin' })
    await store.accounts.remove(admin.id)
    await t.rejects(store.accounts.get(admin.id), { code: 'SDR_USER_NOT_FOUND' })

    const outside = await store.accounts.addExternal('pam', 'carol', 'user')
    t.equal((await store.accounts.addExternal('pam', 'carol', 'admin')).id, outside.id)
    t.not((await store.accounts.addExternal('pam', 'Carol', 'user')).id, outside.id, 'to the system these are two people')
    t.not((await store.accounts.addExternal('unix', 'carol', 'user')).id, outside.id)
    await t.rejects(accounts.update(outside.id, { password }), { code: 'SDR_CONFLICT', message: /operating system/ })
    await t.rejects(accounts.update(outside.id, { role: 'user' }), { code: 'SDR_CONFLICT', message: /--admin-groups/ })
    const underJwt = reopen({ sources: ['local'] })
    await t.rejects(underJwt.accounts.remove(alice.id), { code: 'SDR_CONFLICT' }, 'an administrator of a system that is not asked does not count')
    t.equal(await accounts.verify('carol', password), undefined, 'a system account has no password here')
  })

  t.test('sessions', async t => {
    const { store, accounts, reopen } = await begin(t)
    const { id } = await accounts.create({ username: 'alice', password, role: 'user' })
    const account = await checked(accounts, 'alice')
    const login = async (userAgent: string) => (await store.sessions.open(account, '127.0.0.1', userAgent))!
    const opened = await login('test')
    const rotated = await store.sessions.rotate(opened.refreshToken)
    if (rotated === undefined || rotated.refreshToken === null) return t.fail('a fresh token was refused')
    t.equal(rotated.sessionId, opened.sessionId)
    t.not(rotated.refreshToken, opened.refreshToken)

    t.equal(await store.sessions.rotate('sdrr_unknown'), undefined)
    t.ok(await store.sessions.activeUser(opened.sessionId, id), 'guessing does not end a session')
    t.same(await store.sessions.rotate(opened.refreshToken), { sessionId: opened.sessionId, user: opened.user, refreshToken: null, reason: 'reused' })
    t.equal(await store.sessions.activeUser(opened.sessionId, id), undefined, 'the reuse of a token ends the session')
    t.equal(await store.sessions.rotate(rotated.refreshToken), undefined)

    const barred = await login('barred')
    const asked: unknown[] = []
    const refused = await store.sessions.rotate(barred.refreshToken, account => { asked.push(account); return false })
    t.same(refused, { sessionId: barred.sessionId, user: barred.user, refreshToken: null, reason: 'not admitted' })
    t.same(asked, [{ id, source: 'local' }])
    t.match(barred.user, { id, username: 'alice', role: 'user' })
    const admitted = await store.sessions.rotate(barred.refreshToken, () => true)
    t.match(admitted, { sessionId: barred.sessionId, refreshToken: String }, 'a refusal does not use the token up')
    t.match(await store.sessions.rotate(barred.refreshToken, () => false), { reason: 'reused' }, 'a copy ends the session, admitted or not')
    t.equal(await store.sessions.rotate(admitted!.refreshToken!), undefined)

    const kept = await login('kept')
    const other = await login('other')
    await accounts.changePassword(account, 'another long password', { id, role: 'user', sessionId: kept.sessionId })
    t.same((await store.sessions.list(id)).map(({ id }) => id), [kept.sessionId], 'a new password ends the other sessions')
    await t.rejects(store.sessions.end(other.sessionId, id), { code: 'SDR_SESSION_NOT_FOUND' })
    await t.rejects(store.sessions.end(kept.sessionId, 'somebody else'), { code: 'SDR_SESSION_NOT_FOUND' })

    const { sessions: short } = reopen({ lifetime: -1 })
    const renewed = await checked(accounts, 'alice', 'another long password')
    const expired = (await short.open(renewed, '', ''))!
    t.equal(await short.activeUser(expired.sessionId, id), undefined)
    t.equal(await short.rotate(expired.refreshToken), undefined)

    let token = kept.refreshToken
    for (let count = 0; count < 150; count++) token = (await store.sessions.rotate(token))!.refreshToken!
    t.equal(await store.sessions.rotate(kept.refreshToken), undefined, 'the used tokens of a session are bounded')
    t.ok(await store.sessions.activeUser(kept.sessionId, id), 'so one of long ago does not end it')

    for (let count = 0; count < 110; count++) await store.sessions.open(renewed, '', '')
    t.equal((await store.sessions.list(id)).length, 100, 'the oldest sessions make room')
  })

  t.test('a session has an end that no refresh goes beyond', async t => {
    const { accounts, reopen } = await begin(t)
    const { id } = await accounts.create({ username: 'alice', password, role: 'user' })
    const account = await checked(accounts, 'alice')
    const { sessions: bounded } = reopen({ lifetime: 60_000, longest: 90_000 })
    let { refreshToken, sessionId } = (await bounded.open(account, '', ''))!
    const began = Date.now()
    for (const [after, isLiving] of [[50_000, true], [89_000, true], [91_000, false]] as const) {
      const { restore } = t.intercept(Date, 'now', { value: () => began + after, configurable: true })
      const rotated = await bounded.rotate(refreshToken)
      t.equal(rotated !== undefined, isLiving, `${after} ms after the login`)
      t.equal(await bounded.activeUser(sessionId, id) !== undefined, isLiving)
      refreshToken = rotated?.refreshToken ?? refreshToken
      restore()
    }
    const { sessions: lasting } = reopen({ lifetime: 1_000_000 })
    const old = (await lasting.open(account, '', ''))!
    const life = async ({ sessions }: AccountStore) => {
      const found = (await sessions.list(id)).find(({ id }) => id === old.sessionId)!
      return Date.parse(found.expires_at) - Date.parse(found.created_at)
    }
    t.equal(await life(reopen({})), 1_000_000)
    t.equal(await life(reopen({ lifetime: 60_000, longest: 90_000 })), 90_000,
      'sessions of an older release, or of a longer bound, are shortened')
    t.equal((await reopen({ lifetime: 60_000, longest: 30_000 }).sessions.open(account, '', ''))!.user.id, id)
  })

  t.test('no text with a NUL reaches the store', async t => {
    const { store, accounts } = await begin(t)
    const { id } = await accounts.create({ username: 'alice', password, role: 'user' })
    const cut = { code: 'SDR_INVALID_REQUEST', message: /NUL/ }
    await t.rejects(store.accounts.find('alice\0x'), cut)
    await t.rejects(accounts.verify('alice\0x', password), cut)
    await t.rejects(store.accounts.get(`${id}\0x`), cut)
    await t.rejects(store.keys.all(`${id}\0`), cut)
    await t.rejects(store.sessions.end('x\0', id), cut)
  })

  t.test('API keys', async t => {
    const { store, accounts, keys } = await begin(t)
    const { id } = await accounts.create({ username: 'alice', password, role: 'user' })
    const created = await keys.create({ userId: id, name: 'laptop' })
    t.match(created.key, /^sdr_[0-9a-f]{16}_[\w-]{43}$/)
    t.match(await principalOf(keys, created.key), { id, username: 'alice', via: 'api-key', permissions: ['models:read', 'generate', 'queue:read'] })
    t.not(JSON.stringify((await store.keys.list({ userId: id })).keys).includes(created.key), 'a list never shows the key')
    t.type((await store.keys.list({ userId: id })).keys[0]?.last_used_at, 'string')

    for (const wrong of ['', 'sdr_', `${created.key}x`, created.key.slice(0, -1) + (created.key.endsWith('A') ? 'B' : 'A'), `sdr_${'0'.repeat(16)}_${'a'.repeat(43)}`]) {
      t.equal(await principalOf(keys, wrong), undefined, wrong)
    }
    await t.rejects(keys.create({ userId: id, name: 'x', permissions: ['users:manage'] }), { code: 'SDR_FORBIDDEN', message: /users:manage/ })
    await t.rejects(keys.create({ userId: id, name: 'x', expiresAt: Date.now() - 1 }), { code: 'SDR_INVALID_REQUEST' })

    const narrow = await keys.create({ userId: id, name: 'reader', permissions: ['models:read'] })
    t.same((await principalOf(keys, narrow.key))?.permissions, ['models:read'])

    await t.rejects(store.keys.revoke(created.id, 'somebody else'), { code: 'SDR_KEY_NOT_FOUND' })
    await store.keys.revoke(created.id, id)
    t.equal(await principalOf(keys, created.key), undefined)
    await accounts.update(id, { disabled: true })
    t.equal(await principalOf(keys, narrow.key), undefined, 'the keys of a disabled account do not count')
  })

  t.test('pages of accounts and of keys', async t => {
    const { store, accounts, keys, expireKey } = await begin(t)
    const names = ['bob', 'Zoe', 'alice', 'mona.lisa', '_x', 'bobby']
    for (const username of names) await accounts.create({ username, password, role: 'user' })
    for (const source of ['unix', 'pam'] as const) await store.accounts.addExternal(source, 'bob', 'user')
    const seenUsers = await everyPage(cursor => store.accounts.list({ limit: 3, cursor }), ({ users }) => users)
    t.same(seenUsers, await store.accounts.all(), 'the pages together are the list')
    t.same(seenUsers.map(({ username, source }) => `${username} ${source}`),
      ['Zoe local', '_x local', 'alice local', 'bob local', 'bob pam', 'bob unix', 'bobby local', 'mona.lisa local'])
    t.same((await store.accounts.list({ limit: 8 })).next_cursor, null, 'a page that ends with the list is the last')

    const { next_cursor: cursor } = await store.accounts.list({ limit: 3 })
    await store.accounts.remove((await store.accounts.find('alice'))!.id)
    await accounts.create({ username: 'aaa', password, role: 'user' })
    t.equal((await store.accounts.list({ limit: 1, cursor: cursor! })).users[0]?.username, 'bob', 'the place is kept though the account is gone')

    const [bob, zoe] = [(await store.accounts.find('bob'))!.id, (await store.accounts.find('Zoe'))!.id]
    const now = Date.now()
    const { restore } = t.intercept(Date, 'now', { value: () => now, configurable: true })
    for (let count = 0; count < 10; count++) {
      if (count === 7) restore() // several of the same time
      await keys.create({ userId: count % 3 === 0 ? zoe : bob, name: `key ${count}` })
    }
    const expired = await keys.create({ userId: bob, name: 'expired', expiresAt: Date.now() + 60_000 })
    await expireKey(expired.id)
    for (const userId of [undefined, bob, zoe]) {
      const seen = await everyPage(cursor => store.keys.list({ userId, limit: 2, cursor }), ({ keys }) => keys)
      t.same(seen, await store.keys.all(userId))
      t.same(seen.length, { [bob]: 6, [zoe]: 4 }[userId ?? ''] ?? 10)
      t.same(seen.map(key => key.created_at), seen.map(key => key.created_at).sort().reverse(), 'the newest first')
    }
    t.equal((await everyPage(cursor => store.keys.list({ limit: 1000, cursor }), ({ keys }) => keys)).length, 10)

    const wrong = ['', '%%%', 'x', Buffer.from('bob\nldap').toString('base64url'), `${cursor}=`, 'A'.repeat(4000)]
    for (const cursor of [...wrong, (await store.keys.list({ limit: 1 })).next_cursor!]) {
      await t.rejects(store.accounts.list({ cursor }), { code: 'SDR_INVALID_REQUEST', message: /for cursor/, details: [{ field: 'cursor' }] }, `accounts: ${cursor.slice(0, 80)}`)
    }
    for (const other of [...wrong, cursor!]) await t.rejects(store.keys.list({ cursor: other }), { code: 'SDR_INVALID_REQUEST' }, `keys: ${other.slice(0, 80)}`)
  })

  t.test('an account has a hundred keys, and those that have expired do not count', async t => {
    const { store, accounts, keys, expireKey } = await begin(t)
    const { id: userId } = await accounts.create({ username: 'alice', password, role: 'user' })
    const make = () => keys.create({ userId, name: 'x' })
    for (let count = 0; count < 100; count++) await make()
    await t.rejects(make(), { code: 'SDR_CONFLICT', message: /at most 100 keys/ })
    await expireKey((await store.keys.all(userId))[0]!.id)
    t.equal((await make()).user_id, userId)
    await t.rejects(make(), { code: 'SDR_CONFLICT' })
  })

  t.test('an account is gone when it was disabled or removed here', async t => {
    const { store, accounts } = await begin(t)
    const make = async (username: string) => (await accounts.create({ username, password, role: 'user' })).id
    const [alice, bob] = [await make('alice'), await make('bob')]
    const gone = async () => {
      const found = []
      for (const id of [alice, bob, 'operator', 'guest', 'an id that was never here']) {
        if (await store.accounts.isGone(id)) found.push(id)
      }
      return found
    }
    t.same(await gone(), [])
    await accounts.update(alice, { disabled: true })
    await store.accounts.remove(bob)
    t.same(await gone(), [alice, bob])
    await accounts.update(alice, { disabled: false })
    t.same(await gone(), [bob])
    t.not(await make('bob'), bob, 'a new account of that name is another one')
    t.same(await gone(), [bob])
    await store.accounts.remove(alice)
    t.same(await gone(), [alice, bob])
  })

  t.test('a key loses what its owner loses', async t => {
    const { accounts, keys } = await begin(t)
    await accounts.create({ username: 'other', password, role: 'admin' })
    const { id } = await accounts.create({ username: 'alice', password, role: 'admin' })
    const { key } = await keys.create({ userId: id, name: 'all' })
    t.ok((await principalOf(keys, key))?.permissions.includes('users:manage'))
    await accounts.update(id, { role: 'user' })
    t.notOk((await principalOf(keys, key))?.permissions.includes('users:manage'))
  })
}
