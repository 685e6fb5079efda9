import { join } from 'node:path'
import t, { type Test } from 'tap'
import { openSqliteStore } from '../../../lib/accounts/store/sqlite/store.ts'
import type { SystemAccounts } from '../../../lib/accounts/system-accounts.ts'
import { SystemLogin } from '../../../lib/accounts/system-login.ts'

const right = 'right'

/** A directory that ignores case and blanks, seen through PAM; `listed` are those that the account database knows. */
function directory (
  t: Test, { listed = {}, meanwhile }: { listed?: Record<string, number>, meanwhile?: () => unknown } = {}
) {
  const store = openSqliteStore(join(t.testdir(), 'auth'), { lifetime: 60_000 })
  t.teardown(() => store.close())
  const { accounts: users, sessions } = store
  const asked: string[] = []
  const lookup = (name: string) => {
    const found = Object.keys(listed).find(one => one.toLowerCase() === name.trim().toLowerCase())
    return found === undefined ? null : { name: found, uid: listed[found]!, gid: 1000 }
  }
  const system = {
    lookup: async (name: string) => lookup(name),
    groups: async (name: string) => lookup(name) && [],
    authenticatePam: async ({ user, password }: { user: string, password: string }) => {
      asked.push(`${user} ${password === right}`)
      await meanwhile?.()
      return password === right ? { ok: true, user: lookup(user)?.name ?? user } : { ok: false, code: 'denied', message: 'wrong' }
    }
  } as unknown as SystemAccounts
  const warnings: object[] = []
  const login = new SystemLogin({
    source: 'pam',
    system,
    records: users,
    options: { pamServiceName: 'x', adminUsers: [], adminGroups: [], allowedGroups: [] },
    logger: { warn: details => warnings.push(details) }
  })
  const enter = async (name: string, password = right) => (await login.verify(name, password, ''))?.user
  return { users, sessions, login, enter, asked, warnings }
}

t.test('all spellings of a listed account are one account', async t => {
  const { users, enter } = directory(t, { listed: { carol: 1000, root: 0, toor: 0 } })
  const carol = await enter('carol')
  t.match(carol, { username: 'carol' })
  for (const spelling of ['CAROL', 'carol ', ' Carol']) t.equal((await enter(spelling))?.id, carol!.id, JSON.stringify(spelling))
  await users.change(carol!.id, { disabled: true })
  for (const spelling of ['carol', 'CAROL', 'carol ']) t.equal(await enter(spelling), undefined, `disabled: ${spelling}`)
  t.equal((await users.all()).length, 1)
})

t.test('uid 0 stays out, and no answer tells its password', async t => {
  const { enter, asked, users } = directory(t, { listed: { root: 0, toor: 0 } })
  for (const name of ['root', 'ROOT', 'toor']) t.equal(await enter(name), undefined, name)
  t.same(asked, ['root false', 'root false', 'toor false'], 'the system is never asked for the password that was typed')
  t.same(await users.all(), [])
})

t.test('a second spelling of an account that is not listed is refused', async t => {
  const { enter, users, warnings } = directory(t)
  const carol = await enter('carol')
  t.ok(carol)
  for (const spelling of ['CAROL', 'carol ', ' dave', 'ｃａｒｏｌ', 'carol\u202e']) t.equal(await enter(spelling), undefined, JSON.stringify(spelling))
  t.equal(warnings.length, 5)
  t.same((await users.all()).map(({ username }) => username), ['carol'])
})

t.test('an account of an older release under a second spelling is not vouched for any more', async t => {
  const { users, sessions, login } = directory(t, { listed: { carol: 1000, root: 0 } })
  for (const name of ['CAROL', 'root', 'carol']) {
    const user = await users.addExternal('pam', name, 'user')
    await sessions.open({ user, hash: null }, '', '')
  }
  await login.review()
  t.same((await users.all()).map(user => [user.username, login.accepts(user)]), [['CAROL', false], ['carol', true], ['root', false]])
})

t.test('a login that is disabled while the system checks the password', async t => {
  let change: (() => unknown) | undefined
  const { users, sessions, login, enter } = directory(t, { listed: { carol: 1000 }, meanwhile: () => change?.() })
  const { id } = (await enter('carol'))!
  change = () => users.change(id, { disabled: true })
  t.equal(await enter('carol'), undefined)
  await users.change(id, { disabled: false })
  change = undefined
  const checked = await login.verify('carol', right, '')
  await users.change(id, { disabled: true })
  t.equal(await sessions.open(checked!, '', ''), undefined, 'or a moment after')
  await users.remove(id)
  t.equal(await sessions.open(checked!, '', ''), undefined, 'or is removed then')
})
