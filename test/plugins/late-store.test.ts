import t from 'tap'
import { as, build, expectError } from '../helper.ts'

/** Answers of a store that is far away come in a later turn of the event loop, and the guard decides the same. */
t.test('the guard waits for a store that answers late', async t => {
  const app = await build(t, { auth: 'jwt' }, { models: false })
  const { sessions, keys } = app.store
  const later = async <Value> (value: Value) => await new Promise<Value>(resolve => setTimeout(() => resolve(value), 5))
  const [activeUser, find] = [sessions.activeUser.bind(sessions), keys.find.bind(keys)]
  sessions.activeUser = async (...session) => await later(await activeUser(...session))
  keys.find = async id => await later(await find(id))

  const root = await as(app, 'root', 'admin')
  const alice = await as(app, 'alice')
  t.match((await alice('/api/auth/me')).json(), { username: 'alice', role: 'user', via: 'jwt' })
  expectError(t, await alice('/api/users'), 403, 'SDR_FORBIDDEN')
  const made = await alice({ method: 'POST', url: '/api/auth/keys', body: { name: 'late' } })
  t.equal(made.statusCode, 201, 'a body is decided about again')
  const { key } = made.json<{ key: string }>()
  const withKey = (headers = { 'x-api-key': key }) => app.inject({ url: '/api/auth/me', headers })
  t.match((await withKey()).json(), { username: 'alice', via: 'api-key' })
  expectError(t, await withKey({ 'x-api-key': `${key.slice(0, -1)}${key.endsWith('A') ? 'B' : 'A'}` }), 401, 'SDR_INVALID_TOKEN')

  sessions.activeUser = async () => { throw new Error('The store is gone') }
  expectError(t, await alice('/api/auth/me'), 500, 'SDR_INTERNAL')
  sessions.activeUser = async (...session) => await later(await activeUser(...session))
  t.equal((await root({ method: 'PATCH', url: `/api/users/${alice.id}`, body: { disabled: true } })).statusCode, 200)
  expectError(t, await alice('/api/auth/me'), 401, 'SDR_INVALID_TOKEN')
  expectError(t, await withKey(), 401, 'SDR_INVALID_TOKEN')
})
