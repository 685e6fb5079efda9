import { execFileSync, spawnSync } from 'node:child_process'
import { statSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Permission } from '../../lib/options/permissions.ts'
import { as, build, expectError, password } from '../helper.ts'
import { without } from '../fixtures/pam/system.ts'
import { runProgram } from '../server-process.ts'

/**
 * The server remembers tokens, sessions and keys that it found good. A right that is taken away is gone at the next
 * request all the same, whether the API takes it or the command line in another process.
 */
const app = await build(t, { auth: 'jwt', 'jwt-expiration': '60', 'refresh-expiration': '1', 'rate-limit': '100000', 'login-rate-limit': '100000' })
const root = await as(app, 'root', 'admin')
const next = 'another correct horse'
const minute = 60_000

const models = (headers: Record<string, string>) => app.inject({ url: '/api/models', headers })
const bearer = (credential: string) => ({ authorization: `Bearer ${credential}` })

async function command (parameters: string[], input = ''): Promise<void> {
  const { code, stderr } = await runProgram([...parameters, '--data-dir', app.folders.data], { input })
  if (code !== 0) throw new Error(stderr)
}

/** A user who was let in a few times, by token and by key. */
async function known (t: Test, username: string, permissions?: Permission[]) {
  const send = await as(app, username)
  const { id, key } = (await send({ method: 'POST', url: '/api/auth/keys', body: { name: 'script', permissions } })).json<{ id: string, key: string }>()
  for (const credential of [send.token, send.token, key, key]) {
    t.equal((await models(bearer(credential))).statusCode, 200)
  }
  return { send, key, keyId: id, username, userId: send.id }
}
type Known = Awaited<ReturnType<typeof known>>

const patch = async (id: string, body: object) => {
  const { statusCode } = await root({ method: 'PATCH', url: `/api/users/${id}`, body })
  if (statusCode !== 200) throw new Error(`Expected 200 but received ${statusCode}`)
}

const changes: Record<string, { change: (caller: Known) => Promise<unknown>, token: boolean, key: boolean }> = {
  'a logout': { change: ({ send }) => send({ method: 'POST', url: '/api/auth/logout' }), token: false, key: true },
  'the second use of a refresh token': {
    change: async ({ send: { refreshToken } }) => {
      for (const statusCode of [200, 401]) {
        const answer = await app.inject({ method: 'POST', url: '/api/auth/refresh', body: { refresh_token: refreshToken } })
        if (answer.statusCode !== statusCode) throw new Error(answer.body)
      }
    },
    token: false,
    key: true
  },
  'a change of the password by an administrator': { change: ({ userId }) => patch(userId, { password: next }), token: false, key: true },
  'disabling the account': { change: ({ userId }) => patch(userId, { disabled: true }), token: false, key: false },
  'removing the account': { change: ({ userId }) => root({ method: 'DELETE', url: `/api/users/${userId}` }), token: false, key: false },
  'revoking the key': { change: ({ send, keyId }) => send({ method: 'DELETE', url: `/api/auth/keys/${keyId}` }), token: true, key: false },
  '`user passwd`': { change: ({ username }) => command(['user', 'passwd', username, '--password-stdin'], next), token: false, key: true },
  '`user disable`': { change: ({ username }) => command(['user', 'disable', username]), token: false, key: false },
  '`user remove`': { change: ({ username }) => command(['user', 'remove', username]), token: false, key: false },
  '`key revoke`': { change: ({ keyId }) => command(['key', 'revoke', keyId]), token: true, key: false }
}

for (const [index, [name, { change, token, key }]] of Object.entries(changes).entries()) {
  t.test(`${name} acts at the next request`, async t => {
    const caller = await known(t, `caller${index}`)
    await change(caller)
    for (const [credential, isLeft] of [[caller.send.token, token], [caller.key, key]] as const) {
      const answer = await models(bearer(credential))
      if (isLeft) t.equal(answer.statusCode, 200)
      else expectError(t, answer, 401, 'SDR_INVALID_TOKEN')
    }
  })
}

t.test('a change of your own password ends the other sessions and leaves this one', async t => {
  const { send: here } = await known(t, 'carol')
  const elsewhere = await as(app, 'carol')
  t.equal((await elsewhere('/api/models')).statusCode, 200)
  t.equal((await here({ method: 'POST', url: '/api/auth/password', body: { current_password: password, new_password: next } })).statusCode, 204)
  t.equal((await here('/api/models')).statusCode, 200)
  expectError(t, await elsewhere('/api/models'), 401, 'SDR_INVALID_TOKEN')
})

const noSqlite = without('sqlite3', spawnSync('sh', ['-c', 'command -v sqlite3']).status === 0)

t.test('another program that has looked into the database takes nothing away', { skip: noSqlite }, async t => {
  const file = join(app.folders.auth, 'auth.db')
  const wal = statSync(`${file}-wal`).ino
  execFileSync('sqlite3', [file, 'SELECT count(*) FROM users'])
  t.equal(statSync(`${file}-wal`).ino, wal, 'the write-ahead log is still the one that the server writes')
  const caller = await known(t, 'grace')
  await command(['user', 'disable', 'grace'])
  expectError(t, await models(bearer(caller.key)), 401, 'SDR_INVALID_TOKEN')
})

t.test('a role counts from the next request on, given and taken', async t => {
  const { send, userId, username } = await known(t, 'dave')
  const expectRole = async (role: string, status: number) => {
    t.match((await send('/api/auth/me')).json(), { role })
    t.equal((await send('/api/users')).statusCode, status)
  }
  await expectRole('user', 403)
  await patch(userId, { role: 'admin' })
  await expectRole('admin', 200)
  await command(['user', 'role', username, 'user'])
  await expectRole('user', 403)
})

t.test('time acts, too', async t => {
  const { send, key: lasting } = await known(t, 'erin')
  const now = Date.now()
  const { key: brief } = (await send({
    method: 'POST', url: '/api/auth/keys', body: { name: 'brief', expires_at: new Date(now + minute).toISOString() }
  })).json<{ key: string }>()
  const at = async (milliseconds: number, work: () => Promise<void>) => {
    const { restore } = t.intercept(Date, 'now', { value: () => now + milliseconds, configurable: true })
    await work()
    restore()
  }
  await at(minute - 1000, async () => {
    for (const credential of [send.token, lasting, brief]) t.equal((await models(bearer(credential))).statusCode, 200)
  })
  await at(minute, async () => {
    expectError(t, await models(bearer(brief)), 401, 'SDR_INVALID_TOKEN')
    t.equal((await models(bearer(send.token))).statusCode, 200)
  })
  await at(60 * minute + 6000, async () => expectError(t, await models(bearer(send.token)), 401, 'SDR_TOKEN_EXPIRED'))
  await at(24 * 60 * minute + 6000, async () => {
    t.equal((await app.store.sessions.list(send.id)).length, 0, 'the session has expired')
    t.equal((await models(bearer(lasting))).statusCode, 200)
  })
})

t.test('a session that expires before its token takes the token with it', async t => {
  const { send } = await known(t, 'frank')
  const { sid } = JSON.parse(Buffer.from(send.token.split('.')[1]!, 'base64url').toString()) as { sid: string }
  t.ok(await app.store.sessions.activeUser(sid, send.id))
  const { restore } = t.intercept(Date, 'now', { value: () => Date.parse('2100-01-01'), configurable: true })
  t.equal(await app.store.sessions.activeUser(sid, send.id), undefined)
  restore()
  t.equal(await app.store.sessions.activeUser(sid, root.id), undefined, 'and no other account has it')
})
