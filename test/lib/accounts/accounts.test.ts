import { randomBytes } from 'node:crypto'
import { chmodSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { readCredential } from '../../../lib/accounts/credentials.ts'
import { LoginThrottle } from '../../../lib/accounts/login-throttle.ts'
import { PasswordHasher } from '../../../lib/accounts/passwords.ts'
import { tokenSecret } from '../../../lib/accounts/secrets.ts'
import { MemoryFailures } from '../../../lib/accounts/store/memory-failures.ts'

const hasher = new PasswordHasher(10)
const password = 'correct horse battery staple'

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
  for (const header of ['', ' ', 'Basic', 'basic ']) t.equal(readCredential(['Authorization', header]), undefined, 'what clients without credentials send')
  for (const header of ['Bearer', 'Bearer a b', 'Digest x', basic('alice:password'), 'Basic !!!', 'a.b.c', `Bearer ${'x'.repeat(5000)}`]) {
    t.throws(() => readCredential(['Authorization', header]), { code: 'SDR_INVALID_TOKEN' }, header.slice(0, 20))
  }
})

t.test('the login throttle backs off and unlocks by itself', async t => {
  let now = 0
  const throttle = new LoginThrottle(new MemoryFailures(() => now))
  const attempt = (username: string, address: string) => throttle.attempt(username, address, () => false)
  for (let count = 0; count < 5; count++) t.equal(await attempt('alice', '1.1.1.1'), 0, 'the first failures cost nothing')
  t.equal(await attempt('ALICE', '1.1.1.1'), 1)
  t.equal(await attempt('alice', '2.2.2.2'), 0, 'a stranger elsewhere does not matter')
  t.equal(await attempt('bob', '1.1.1.1'), 0, 'other accounts do not wait')
  now += 1000
  t.equal(await attempt('alice', '1.1.1.1'), 0)
  t.equal(await attempt('alice', '1.1.1.1'), 2, 'the wait doubles')
  for (let count = 0; count < 100; count++) {
    now += 60_000
    t.equal(await attempt('alice', '1.1.1.1'), 0, 'never longer than a minute')
  }
  t.equal(await attempt('alice', '1.1.1.1'), 60)
  t.equal(await attempt('alice', '3.3.3.3'), 0, 'a caller who never stops guessing does not lock the account for others')
  await throttle.succeed('alice', '1.1.1.1')
  t.equal(await attempt('alice', '1.1.1.1'), 0, 'a login clears it')
  now += 3_600_000
  for (let count = 0; count < 5; count++) t.equal(await attempt('alice', '1.1.1.1'), 0, 'an hour of quiet forgets all')
})

t.test('the login throttle knows one address that guesses at many accounts, and many at one', async t => {
  let now = 0
  const throttle = new LoginThrottle(new MemoryFailures(() => now))
  for (let count = 0; count < 20; count++) t.equal(await throttle.attempt(`user${count}`, '1.1.1.1', () => false), 0)
  t.equal(await throttle.attempt('alice', '1.1.1.1', () => true), 1, 'the address waits, whomever it asks for')

  for (let count = 0; count < 30; count++) t.equal(await throttle.attempt('alice', `2.2.2.${count}`, () => false), 0)
  t.equal(await throttle.attempt('alice', '3.3.3.3', () => false), 1, 'many addresses that guess at one account slow it down for new ones')
  t.equal(await throttle.attempt('alice', '4.4.4.4', () => true), 0, 'not for one from which it is logged in')
  now += 3_600_000
  t.equal(await throttle.attempt('alice', '3.3.3.3', () => false), 0)
  for (let count = 0; count < 30_000; count++) await throttle.attempt(`name${count}`, `10.${count >> 16}.${(count >> 8) & 255}.${count & 255}`, () => false)
  t.equal(await throttle.attempt('name29999', '10.0.117.47', () => false), 0)
})

t.test('tries that nobody answered yet count, so that many at once are no way around the wait', async t => {
  const throttle = new LoginThrottle(new MemoryFailures(() => 0))
  const waits = await Promise.all(Array.from({ length: 8 }, () => throttle.attempt('alice', '1.1.1.1', () => false)))
  t.same(waits, [0, 0, 0, 0, 0, 1, 1, 1])
  await throttle.takeBack('alice', '1.1.1.1')
  t.equal(await throttle.attempt('alice', '1.1.1.1', () => false), 0, 'what could not be checked is no failure')
})
