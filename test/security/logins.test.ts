import pino from 'pino'
import t from 'tap'
import { examplePassword } from '../../lib/accounts/passwords.ts'
import { as, build, expectError, password } from '../helper.ts'

/** Guessing: who exists, what the password is, how often, and from where. */
const lines: Array<Record<string, unknown>> = []
const logger = pino({}, { write: (line: string) => { lines.push(JSON.parse(line)) } })
/** Dear enough to be seen in the time. */
const passwordCost = 13
const app = await build(t, { auth: 'jwt', 'rate-limit': '60' }, { models: false, passwordCost, logger })
const behindProxy = await build(t, { auth: 'jwt', 'trust-proxy': '10.0.0.0/8,fd00::/8' }, { models: false })

let hosts = 0
/** An address that nobody had before. */
const newAddress = () => `198.51.${++hosts >> 8}.${hosts & 255}`

interface Guess { username?: string, password?: string, address?: string }

async function login ({ username = 'alice', password = 'wrong', address = newAddress() }: Guess, server = app, headers: Record<string, string> = {}) {
  return await server.inject({ method: 'POST', url: '/api/auth/login', remoteAddress: address, headers, body: { username, password } })
}

const alice = await as(app, 'alice', 'admin')
const mallory = await as(app, 'mallory')
for (const username of ['victim', 'traveller', 'witness']) await app.accounts.create({ username, password, role: 'user' })
await alice({ method: 'PATCH', url: `/api/users/${mallory.id}`, body: { disabled: true } })

t.test('nobody learns which names exist', async t => {
  const attempts: Record<string, Guess> = {
    wrong: {}, unknown: { username: 'nobody' }, disabled: { username: 'mallory', password }, strange: { username: "x' OR 1=1 --" }, long: { username: 'x'.repeat(255) }, case: { username: 'ALICE' }
  }
  const times: Record<string, number[]> = {}
  const answers = new Set<string>()
  for (let round = 0; round < 8; round++) {
    for (const [name, attempt] of Object.entries(attempts)) {
      const before = process.cpuUsage()
      const response = await login(attempt)
      const { user, system } = process.cpuUsage(before)
      ;(times[name] ??= []).push((user + system) / 1000)
      expectError(t, response, 401, 'SDR_INVALID_CREDENTIALS')
      answers.add(JSON.stringify([Object.keys(response.headers).sort(), response.body.replace(/"request_id":"[^"]+"/, '')]))
    }
  }
  t.equal(answers.size, 1, 'one answer for all')
  // Processor time, the least of several: what the check itself needs, without what else this machine does.
  const fastest = Object.entries(times).map(([name, list]) => [name, Math.min(...list)] as const)
  const [least, most] = [Math.min(...fastest.map(([, time]) => time)), Math.max(...fastest.map(([, time]) => time))]
  t.ok(most < least * 1.5, `one time for all: ${fastest.map(([name, time]) => `${name} ${time.toFixed(1)} ms`).join(', ')}`)
})

t.test('names with characters that no name has are refused before anything is counted or looked up', async t => {
  for (const character of ['\0', '\0x', '\u0001', '\t', '\n', '\u001b[2J', '\u007f', '\u0085', '\u009b', '\u202e', '\u2066', '\u200e', '\u2028', '\ufeff']) {
    const address = newAddress() // requests for logins are counted for each address, good or not
    for (let count = 0; count < 7; count++) {
      const refused = await login({ username: `victim${character}`, password, address })
      expectError(t, refused, 400, 'SDR_INVALID_REQUEST', /for username/)
    }
    t.equal((await login({ username: 'victim', password, address })).statusCode, 200, 'nothing was counted')
  }
})

t.test('spellings of a name have one meter', async t => {
  const address = newAddress()
  const statuses: number[] = []
  for (const username of ['speller', 'SPELLER', ' speller', 'speller ', 'Speller\u00a0', 'ｓｐｅｌｌｅｒ', 'speller']) {
    statuses.push((await login({ username, address })).statusCode)
  }
  t.same(statuses, [401, 401, 401, 401, 401, 429, 429])
})

t.test('guessing at one account slows down, the same for one that does not exist', async t => {
  const address = newAddress()
  for (const username of ['nobody-of-that-name', 'victim']) {
    const statuses: number[] = []
    for (let count = 0; count < 7; count++) statuses.push((await login({ username, address })).statusCode)
    t.same(statuses, [401, 401, 401, 401, 401, 429, 429], username)
  }
  const refused = await login({ username: 'victim', password, address })
  expectError(t, refused, 429, 'SDR_RATE_LIMITED', /try again in \d+ s/)
  t.ok(Number(refused.headers['retry-after']) >= 1, 'the right password has to wait, too')
  t.equal((await login({ username: 'victim', password })).statusCode, 200, 'somewhere else it does not')
  await new Promise(resolve => setTimeout(resolve, 1100))
  t.equal((await login({ username: 'victim', password, address })).statusCode, 200, 'it unlocks by itself')
})

t.test('many guesses at once are no more than one after the other', async t => {
  const address = newAddress()
  const statuses = (await Promise.all(Array.from({ length: 19 }, () => login({ username: 'hammered', address })))).map(({ statusCode }) => statusCode)
  t.equal(statuses.filter(status => status === 401).length, 5)
  t.equal(statuses.filter(status => status === 429).length, 14)
})

t.test('an account is not locked by strangers, however many they are', async t => {
  const bob = await as(app, 'bob')
  for (let count = 0; count < 30; count++) await login({ username: 'bob' })
  expectError(t, await login({ username: 'bob', password }), 429, 'SDR_RATE_LIMITED')
  t.equal((await login({ username: 'bob', password, address: '127.0.0.1' })).statusCode, 200, 'where it is logged in it can log in again')
  t.equal((await bob('/api/auth/me')).statusCode, 200, 'and its sessions go on')
})

t.test('tight buckets for logins, refreshes, unknown URLs and wrong credentials', async t => {
  const count429 = async (times: number, ask: (address: string) => Promise<{ statusCode: number }>) => {
    const address = newAddress()
    const statuses: number[] = []
    for (let count = 0; count < times; count++) statuses.push((await ask(address)).statusCode)
    return { address, statuses, refused: statuses.filter(status => status === 429).length }
  }
  const refresh = await count429(25, remoteAddress => app.inject({ method: 'POST', url: '/api/auth/refresh', remoteAddress, body: { refresh_token: `sdrr_${'A'.repeat(43)}` } }))
  t.equal(refresh.refused, 5, 'refresh')
  const logins = await count429(25, address => login({ username: `user${address}${Math.random()}`, address }))
  t.equal(logins.refused, 5, 'login')
  const tokens = await count429(25, remoteAddress => app.inject({ url: '/api/health', remoteAddress, headers: { authorization: 'Bearer a.b.c' } }))
  t.equal(tokens.refused, 5, 'wrong tokens, even at a public route')
  const keys = await count429(25, remoteAddress => app.inject({ url: '/api/models', remoteAddress, headers: { 'x-api-key': 'sdr_x' } }))
  t.equal(keys.refused, 5, 'wrong keys')
  const urls = await count429(25, remoteAddress => app.inject({ url: `/api/${Math.random()}`, remoteAddress }))
  t.equal(urls.refused, 5, 'unknown URLs')

  const from = (url: string, headers = {}) => app.inject({ url, headers, remoteAddress: urls.address })
  expectError(t, await from('/api/models'), 429, 'SDR_RATE_LIMITED')
  t.equal((await from('/api/health')).statusCode, 200, 'what is public stays so')
  t.equal((await from('/api/models', { authorization: `Bearer ${alice.token}` })).statusCode, 200, 'and so does who has credentials')
  const closed = await count429(25, remoteAddress => app.inject({ url: '/api/models', remoteAddress }))
  t.equal(closed.refused, 0, 'to ask a known route without credentials is no guess')
})

t.test('requests are counted for each principal, wherever from', async t => {
  const [carol, dave] = [await as(app, 'carol'), await as(app, 'dave')]
  const statuses: number[] = []
  for (const url of [...Array(20).fill('/api/models'), ...Array(20).fill('/api/nothing'), ...Array(20).fill('/api/users')]) {
    statuses.push((await carol({ url, remoteAddress: newAddress() })).statusCode)
  }
  t.same([...new Set(statuses)], [200, 404, 403])
  for (const url of ['/api/models', '/api/nothing', '/api/users']) {
    const refused = await carol({ url, remoteAddress: newAddress() })
    expectError(t, refused, 429, 'SDR_RATE_LIMITED')
    t.ok(Number(refused.headers['retry-after']) >= 1)
  }
  t.equal((await dave('/api/models')).statusCode, 200)
})

t.test('nobody chooses an address with a header', async t => {
  const names = ['x-forwarded-for', 'forwarded', 'x-real-ip', 'client-ip', 'x-client-ip', 'true-client-ip', 'cf-connecting-ip', 'x-cluster-client-ip', 'fastly-client-ip']
  const address = newAddress()
  const statuses: number[] = []
  for (const name of names) statuses.push((await login({ username: 'traveller', address }, app, { [name]: name === 'forwarded' ? `for=${newAddress()}` : newAddress() })).statusCode)
  t.same(statuses, [401, 401, 401, 401, 401, 429, 429, 429, 429])
  t.equal(lines.filter(({ msg }) => String(msg).startsWith('X-Forwarded-For came from')).length, 1, 'an operator who forgot --trust-proxy is told, once')

  const { token } = (await login({ username: 'traveller', password, address: '203.0.113.5' }, app, { 'x-forwarded-for': '6.6.6.6' })).json<{ token: string }>()
  const { sessions } = (await app.inject({ url: '/api/auth/sessions', headers: { authorization: `Bearer ${token}` } })).json<{ sessions: Array<{ address: string, current: boolean }> }>()
  t.equal(sessions.find(({ current }) => current)?.address, '203.0.113.5')
})

t.test('--trust-proxy decides whose X-Forwarded-For counts', async t => {
  let username = ''
  const guess = (forwarded: string, address = '10.0.0.1') => login({ username, address }, behindProxy, { 'x-forwarded-for': forwarded })
  const until429 = async (ask: (count: number) => Promise<{ statusCode: number }>) => {
    username = `user${Math.random()}` // so that only the address counts
    for (let count = 0; count < 12; count++) if ((await ask(count)).statusCode === 429) return count
    return 12
  }
  t.equal(await until429(() => guess('192.0.2.1')), 5, 'a client behind the proxy')
  t.equal((await guess('192.0.2.2')).statusCode, 401, 'another one')
  t.equal(await until429(count => guess(`6.6.6.${count}, 192.0.2.3`)), 5, 'what the client sent itself stands to the left and does not count')
  t.equal(await until429(count => guess(`6.6.6.${count}, 192.0.2.4, 10.0.0.2`)), 5, 'behind two proxies')
  t.equal(await until429(count => guess(`6.6.7.${count}`, '192.0.2.5')), 5, 'who is no proxy cannot say')
  t.equal(await until429(count => guess(`2001:db8:1:2:${count}::1`)), 5, 'one network of IPv6 is one caller')
  t.equal((await guess('2001:db8:1:3::1')).statusCode, 401)
  t.equal(await until429(() => guess('::ffff:192.0.2.6')), 5)
  t.equal((await guess('192.0.2.6')).statusCode, 429, 'an IPv4 address in the clothes of IPv6 is the same')
  for (const strange of ['', ',', 'unknown', '_hidden', '"quoted"', '192.0.2.7:1234', '[2001:db8::1]', 'x'.repeat(2000), '1.2.3.4\t', '<script>', 'fe80::1%eth0', '%00']) {
    t.ok([401, 429].includes((await guess(strange)).statusCode), JSON.stringify(strange.slice(0, 20)))
  }
})

t.test('one customer with many networks of IPv6 has a few shares of each bucket', async t => {
  const server = await build(t, { auth: 'jwt', 'public-paths': '/api/models', 'rate-limit': '3', 'login-rate-limit': '2' }, { models: false })
  const { token } = await as(server, 'erin')
  /** Asks from one address after the other. @returns how many were answered before the first 429 */
  async function until429 (
    addressOf: (count: number) => string, ask: (remoteAddress: string) => Promise<{ statusCode: number }>
  ) {
    for (let count = 0; count < 60; count++) if ((await ask(addressOf(count))).statusCode === 429) return count
    return 60
  }
  const ways: Record<string, { share: number, ask: (remoteAddress: string) => Promise<{ statusCode: number }> }> = {
    logins: { share: 2, ask: address => login({ username: `user${Math.random()}`, address }, server) },
    'unknown URLs': { share: 2, ask: remoteAddress => server.inject({ url: `/api/${Math.random()}`, remoteAddress }) },
    'wrong tokens': { share: 2, ask: remoteAddress => server.inject({ url: '/api/models', remoteAddress, headers: { authorization: 'Bearer a.b.c' } }) },
    'public routes': { share: 3, ask: remoteAddress => server.inject({ url: '/api/models', remoteAddress }) }
  }
  for (const [index, [name, { share, ask }]] of Object.entries(ways).entries()) {
    const site = `2001:db8:${index + 1}`
    t.equal(await until429(() => `${site}:ff00::1`, ask), share, `${name} from one /64`)
    t.equal(await until429(count => `${site}:${count.toString(16)}::1`, ask), 4 * share, `${name} from one /56`)
    t.equal(await until429(count => `${site}:${(count + 1).toString(16)}00::1`, ask), 16 * share - 5 * share, `${name} from the rest of the /48`)
    t.not((await ask(`2001:db8:${index + 1}0::1`)).statusCode, 429, 'another /48 has its own share')
    t.equal(await until429(count => `198.18.${index}.${count}`, ask), 60, 'IPv4 addresses have one each')
  }
  const user = { url: '/api/models', remoteAddress: '2001:db8:4:7700::1', headers: { authorization: `Bearer ${token}` } }
  t.equal((await server.inject(user)).statusCode, 200, 'an account has its own share')
})

t.test('what is recorded', async t => {
  const address = newAddress()
  const before = (await app.auditLog.list({ limit: 1 })).at(-1)!.id
  await login({ username: 'witness', address })
  await login({ username: 'witness', password, address })
  await app.inject({ method: 'POST', url: '/api/auth/refresh', remoteAddress: address, body: { refresh_token: 'sdrr_x' } })
  for (let count = 0; count < 30; count++) await app.inject({ url: '/api/models', remoteAddress: address, headers: { authorization: 'Bearer a.b.c' } })
  await app.inject({ url: '/api/models', remoteAddress: newAddress() })
  const rows = (await app.auditLog.list({ after: before, limit: 100 }))
    .map(({ event, outcome, actor, reason }) => ({ event, outcome, actor, reason }))
  t.same(rows.slice(0, 3), [
    { event: 'login', outcome: 'failure', actor: 'witness', reason: 'SDR_INVALID_CREDENTIALS' },
    { event: 'login', outcome: 'success', actor: 'witness', reason: null },
    { event: 'refresh', outcome: 'failure', actor: '', reason: 'unknown' }
  ])
  t.same(rows.slice(3), Array(20).fill({ event: 'access', outcome: 'failure', actor: '', reason: 'SDR_INVALID_TOKEN' }), 'a flood is not')
})

t.test('the password of the examples makes no account', async t => {
  const app = await build(t, { auth: 'jwt' })
  const root = await as(app, 'root', 'admin')
  for (const request of [
    { method: 'POST', url: '/api/users', body: { username: 'alice', password: examplePassword } },
    { method: 'PATCH', url: `/api/users/${root.id}`, body: { password: examplePassword } },
    { method: 'POST', url: '/api/auth/password', body: { current_password: password, new_password: examplePassword } }
  ] as const) expectError(t, await root(request), 400, 'SDR_INVALID_REQUEST', /password of your own for password but received the example/)
})
