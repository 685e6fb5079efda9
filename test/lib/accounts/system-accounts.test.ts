import t from 'tap'
import { SystemAccounts } from '../../../lib/accounts/system-accounts.ts'
import { makeAccount, noAddon, noPam, noRoot, pamServices } from '../../fixtures/pam/system.ts'

const password = 'sesame'
const unavailable = { name: 'FastifyError', code: 'SDR_UNAVAILABLE', statusCode: 503 }

t.test('what can be used here', { skip: noPam }, async (t) => {
  const confDir = pamServices(t, { here: ['auth required pam_permit.so'] })
  const accounts = new SystemAccounts()
  t.match(await accounts.support('here', confDir), { pam: true, unix: process.getuid?.() === 0 || /shadow/ })
  t.match(await accounts.support('gone', confDir), { pam: `${confDir}/gone` })
  t.match(await accounts.support(), { pam: true })
  await t.rejects(accounts.support('../here', confDir), { name: 'TypeError' })
})

t.test('answers', { skip: noPam }, async (t) => {
  const account = 'account required pam_permit.so'
  const confDir = pamServices(t, {
    right: ['auth required script hidden password=sesame rename=mona.lisa', account],
    code: ['auth required script hidden hidden', account]
  })
  const accounts = new SystemAccounts()
  const check = (service: string, secret: string | Buffer, user = 'mona') =>
    accounts.authenticatePam({ service, user, password: secret, remoteHost: '192.0.2.1', confDir })
  t.same(await check('right', password), { ok: true, user: 'mona.lisa' })
  t.same(await check('right', Buffer.from(password)), { ok: true, user: 'mona.lisa' })
  t.match(await check('right', 'wrong'), { ok: false, code: 'denied', message: /./ })
  t.match(await check('code', password), { ok: false, code: 'second_factor' })
  t.match(await check('gone', password), { ok: false, code: 'service_missing' })
  for (const [user, secret] of [['mona', ''], ['', password], ['a\nb', password], ['mona', 'x'.repeat(1025)], ['a/b', password]]) {
    t.match(await check('right', secret!, user), { ok: false, code: 'denied', message: /^Expected/ },
      'no account has such a name or password')
  }
  t.same(accounts.load, { running: 0, waiting: 0 })
})

t.test('a refusal takes its time without taking a place', { skip: noPam }, async (t) => {
  const confDir = pamServices(t, {
    deny: ['auth required pam_deny.so'],
    slow: ['auth optional pam_faildelay.so delay=2000000', 'auth required pam_deny.so'],
    permit: ['auth required pam_permit.so', 'account required pam_permit.so']
  })
  const accounts = new SystemAccounts({ concurrency: 1, waiting: 8 })
  const began = performance.now()
  const check = async (service: string) => {
    const { ok } = await accounts.authenticatePam({ service, user: 'mona', password, confDir })
    return { ok, time: performance.now() - began }
  }
  const slow = Array.from({ length: 4 }, () => check('slow'))
  const [denied, permitted] = await Promise.all([check('deny'), check('permit')])
  t.ok(!denied.ok && denied.time >= 290, `denied after ${denied.time} ms`)
  t.ok(permitted.ok && permitted.time < 990, `permitted after ${permitted.time} ms`)
  for (const { ok, time } of await Promise.all(slow)) t.ok(!ok && time >= 990 && time < 4000, `slow after ${time} ms`)
})

t.test('bounds', { skip: noPam }, async (t) => {
  const confDir = pamServices(t, {
    slow: ['auth required script sleep=600', 'account required pam_permit.so']
  })
  const accounts = new SystemAccounts({ concurrency: 2, waiting: 3 })
  const check = () => accounts.authenticatePam({ service: 'slow', user: 'mona', password, confDir })
  const checks = Array.from({ length: 5 }, check)
  await t.rejects(check(), { ...unavailable, retryAfter: 2 }, 'the sixth finds no place')
  t.same(accounts.load, { running: 2, waiting: 3 })
  for (const answer of await Promise.all(checks)) t.match(answer, { ok: true })
  t.same(accounts.load, { running: 0, waiting: 0 })
  t.match(await check(), { ok: true }, 'and there is room again')
})

t.test('a check that hangs keeps its place, not its caller', { skip: noPam }, async (t) => {
  const confDir = pamServices(t, {
    hang: ['auth required script sleep=2000', 'account required pam_permit.so'],
    permit: ['auth required pam_permit.so', 'account required pam_permit.so']
  })
  const accounts = new SystemAccounts({ concurrency: 1, waiting: 1, timeout: 500 })
  const check = (service: string) => accounts.authenticatePam({ service, user: 'mona', password, confDir })
  const began = performance.now()
  const hanging = check('hang')
  const waiting = check('permit')
  await t.rejects(hanging, { ...unavailable, retryAfter: 1 })
  await t.rejects(waiting, unavailable, 'waiting counts')
  t.ok(performance.now() - began < 1900, 'long before it ends')
  t.same(accounts.load, { running: 1, waiting: 0 })
  await t.rejects(check('permit'), unavailable, 'its place is still taken')
  while (accounts.load.running > 0) await new Promise(resolve => setTimeout(resolve, 20))
  t.match(await check('permit'), { ok: true })
})

t.test('accounts of this system', { skip: noRoot }, async (t) => {
  const accounts = new SystemAccounts()
  const { name, password } = makeAccount(t)
  t.same(await accounts.authenticateUnix({ user: name, password }), { ok: true, user: name })
  t.match(await accounts.authenticateUnix({ user: name, password: 'wrong' }), { ok: false, code: 'denied' })
  t.match(await accounts.groups(name), [{ gid: Number, name }])
  t.equal(await accounts.groups('sdrest-nobody-has-this-name'), null)
})

t.test('options', { skip: noAddon }, async (t) => {
  for (const options of [
    { concurrency: 0 }, { concurrency: 65 }, { waiting: -1 }, { waiting: 1.5 }, { timeout: 0 }, { timeout: NaN }
  ]) {
    t.throws(() => new SystemAccounts(options), { name: 'RangeError', message: /^Expected an integer between/ })
  }
})
