import t from 'tap'
import { as, build, expectError, password } from '../helper.ts'

const html = { accept: 'text/html,application/xhtml+xml,*/*;q=0.8', 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document', 'sec-fetch-site': 'none' }
const formType = { 'content-type': 'application/x-www-form-urlencoded' }
const own = { 'sec-fetch-site': 'same-origin', origin: 'http://localhost:80' }

async function open (t: Parameters<typeof build>[0], options: object = {}) {
  const app = await build(t, { auth: 'jwt', 'login-rate-limit': '1000', ...options })
  const signIn = async (fields: Record<string, string>, headers: object = own) => await app.inject({
    method: 'POST', url: '/sign-in', headers: { ...formType, ...headers }, body: new URLSearchParams(fields).toString()
  })
  const cookieOf = ({ headers }: { headers: Record<string, unknown> }) => String(headers['set-cookie']).split(';', 1)[0]!
  return { app, signIn, cookieOf }
}

t.test('a browser gets a page, a program what it always got', async t => {
  const { app } = await open(t)
  for (const url of ['/', '/api/docs', '/api/nothing?x=%22%3E%3Cscript%3E', '/api/models']) {
    const page = await app.inject({ url, headers: html })
    t.equal(page.statusCode, 401, url)
    t.match(page.headers, { 'content-type': 'text/html; charset=utf-8', 'www-authenticate': /^Bearer /, 'cache-control': 'no-store', 'referrer-policy': 'same-origin', 'content-security-policy': /^default-src 'none'; style-src 'sha256-[^']+'; form-action 'self'/ })
    t.match(page.body, /name="username".*name="password".*name="api_key"/s)
    t.notMatch(page.body, /<script/)
  }
  for (const headers of [{}, { accept: 'application/json' }, { accept: '*/*' }, { ...html, 'sec-fetch-mode': 'cors' }, { ...html, 'sec-fetch-dest': 'image' }]) {
    expectError(t, await app.inject({ url: '/api/models', headers }), 401, 'SDR_UNAUTHENTICATED')
  }
  expectError(t, await app.inject({ method: 'POST', url: '/api/models/refresh', headers: html }), 401, 'SDR_UNAUTHENTICATED')

  const keys = await open(t, { auth: 'api-key' })
  t.notMatch((await keys.app.inject({ url: '/', headers: html })).body, /name="password"/)
  const anyone = await open(t, { auth: 'none' })
  t.match((await anyone.app.inject({ url: '/', headers: html })).headers, { location: './api/docs/' })
})

t.test('a name and a password, or a key, sign a browser in until the session ends', async t => {
  const { app, signIn, cookieOf } = await open(t)
  const alice = await as(app, 'alice')
  const { key } = (await alice({ method: 'POST', url: '/api/auth/keys', body: { name: 'laptop' } })).json()
  const me = async (cookie: string, headers: object = {}) => await app.inject({ url: '/api/auth/me', headers: { cookie, ...headers } })

  const signedIn = await signIn({ username: 'alice', password, api_key: '', next: '/api/queue/jobs?limit=1' })
  t.match(signedIn, { statusCode: 303, headers: { location: './api/queue/jobs?limit=1', 'set-cookie': /^sdrest=ey[^;]+; Path=\/; HttpOnly; SameSite=Strict; Max-Age=3[56]\d\d$/ } })
  const cookie = cookieOf(signedIn)
  t.match((await me(cookie)).json(), { username: 'alice', via: 'jwt' })
  t.equal((await me(`other=1; ${cookie}; more=2`)).statusCode, 200)
  const byKey = await signIn({ api_key: ` ${key} `, next: '' })
  t.match(byKey, { statusCode: 303, headers: { location: './api/docs/', 'set-cookie': /^sdrest=sdr_[^;]+; Path=\/; HttpOnly; SameSite=Strict$/ } })
  t.match((await me(cookieOf(byKey))).json(), { username: 'alice', via: 'api-key' })

  const bob = await as(app, 'bob')
  t.match((await me(cookie, { authorization: `Bearer ${bob.token}` })).json(), { username: 'bob' }, 'a header goes before the cookie')

  const out = await app.inject({ method: 'POST', url: '/api/auth/logout', headers: { cookie, ...own } })
  t.match(out, { statusCode: 204, headers: { 'set-cookie': /^sdrest=; .*Max-Age=0$/ } })
  t.equal((await me(cookie)).statusCode, 401, 'the session has ended, not only the cookie')
  const again = cookieOf(await signIn({ username: 'alice', password }))
  const root = await as(app, 'root', 'admin')
  await root({ method: 'PATCH', url: `/api/users/${alice.id}`, body: { disabled: true } })
  t.equal((await me(again)).statusCode, 401)
  t.equal((await me(cookieOf(byKey))).statusCode, 401)
  t.match((await app.inject({ url: '/', headers: { ...html, cookie: again } })).body, /role="alert"/, 'the page says why')
})

t.test('pages of other origins have nothing of the cookie', async t => {
  const { app, signIn, cookieOf } = await open(t, { 'cors-origins': 'https://ui.example' })
  await as(app, 'alice')
  const cookie = cookieOf(await signIn({ username: 'alice', password }))
  const draw = async (headers: object) => await app.inject({ method: 'POST', url: '/api/auth/keys', headers: { cookie, ...headers }, body: { name: 'x' } })
  t.equal((await draw(own)).statusCode, 201)
  t.equal((await draw({ origin: 'http://localhost' })).statusCode, 201, 'a browser without Sec-Fetch-Site')
  for (const headers of [
    { origin: 'https://evil.example' }, { 'sec-fetch-site': 'cross-site', origin: 'http://localhost' },
    { 'sec-fetch-site': 'same-site', origin: 'http://localhost:81' }, { origin: 'null' }
  ]) t.equal((await draw(headers)).statusCode, 403, JSON.stringify(headers))
  for (const headers of [{ origin: 'https://ui.example' }, { 'sec-fetch-site': 'cross-site', origin: 'https://ui.example' }]) {
    expectError(t, await draw(headers), 401, 'SDR_UNAUTHENTICATED')
  }
  expectError(t, await app.inject({ url: '/api/models', headers: { cookie, 'sec-fetch-site': 'cross-site' } }), 401, 'SDR_UNAUTHENTICATED')
  t.equal((await signIn({ username: 'alice', password }, { 'sec-fetch-site': 'cross-site', origin: 'https://evil.example' })).statusCode, 403, 'nor can they sign a browser in')
  const trusted = await signIn({ username: 'alice', password }, { 'sec-fetch-site': 'cross-site', origin: 'https://ui.example' })
  t.match(trusted, { statusCode: 403, body: /role="alert">Only the page of this server/ })
  t.notOk('set-cookie' in trusted.headers, 'nor can those that may call the API')
  t.notOk('access-control-allow-credentials' in (await app.inject({ url: '/api/models', headers: { cookie, origin: 'https://ui.example' } })).headers)
})

t.test('behind HTTPS the cookie is for this host alone', async t => {
  const { app, signIn } = await open(t, { 'trust-proxy': '127.0.0.1' })
  await as(app, 'alice')
  const proxied = { ...own, origin: 'https://localhost', 'x-forwarded-proto': 'https' }
  const { headers } = await signIn({ username: 'alice', password }, proxied)
  t.match(headers['set-cookie'], /^__Host-sdrest=ey[^;]+; Path=\/; HttpOnly; SameSite=Strict; Secure; Max-Age=/)
  const cookie = String(headers['set-cookie']).split(';', 1)[0]!
  t.equal((await app.inject({ url: '/api/auth/me', headers: { cookie, 'x-forwarded-proto': 'https' } })).statusCode, 200)
  const below = await open(t, { 'trust-proxy': '127.0.0.1', 'base-path': '/draw' })
  await as(below.app, 'alice')
  const narrow = await below.signIn({ username: 'alice', password }, proxied)
  t.match(narrow.headers['set-cookie'], /^__Secure-sdrest=ey[^;]+; Path=\/draw; HttpOnly; SameSite=Strict; Secure; Max-Age=/)
  t.equal((await below.app.inject({ url: '/api/auth/me', headers: { cookie: below.cookieOf(narrow), 'x-forwarded-proto': 'https' } })).statusCode, 200)
  t.equal((await app.inject({ url: '/api/auth/me', headers: { cookie: cookie.replace('__Host-', ''), 'x-forwarded-proto': 'https' } })).statusCode, 401, 'one that another host of the domain could have set')
})

t.test('a cookie that does not count any more is removed, so that guests come in again', async t => {
  const { app } = await open(t, { auth: 'optional', 'guest-permissions': 'models:read' })
  for (const cookie of ['sdrest=eyJ', `sdrest=sdr_0123456789abcdef_${'x'.repeat(43)}`]) {
    for (const url of ['/api/docs/', '/api/health']) {
      t.match(await app.inject({ url, headers: { ...html, cookie } }), { statusCode: 401, headers: { 'set-cookie': /^sdrest=; Path=\/; .*Max-Age=0$/ } }, url)
    }
  }
  t.equal((await app.inject({ url: '/api/docs/', headers: html })).statusCode, 200)
  for (const headers of [{ authorization: 'Bearer eyJ' }, { authorization: 'Bearer eyJ', cookie: 'sdrest=x' }, { cookie: 'sdrest=x', 'sec-fetch-site': 'cross-site' }]) {
    t.notOk('set-cookie' in (await app.inject({ url: '/api/models', headers })).headers, 'only where the cookie was what did not count')
  }
})

t.test('what is wrong is said on the page, and counted as anywhere', async t => {
  const { app, signIn } = await open(t, { 'login-rate-limit': '20' })
  await as(app, 'alice')
  const wrong = await signIn({ username: 'alice', password: 'wrong', next: '/"><script>' })
  t.match(wrong, { statusCode: 401, headers: { 'content-type': /^text\/html/ }, body: /role="alert">The user name or the password is wrong\./ })
  t.notOk('set-cookie' in wrong.headers)
  t.match(wrong.body, /name="next" value="\/api\/docs\/"/)
  t.notMatch(wrong.body, 'wrong"')
  t.match(await signIn({ api_key: `sdr_0123456789abcdef_${'x'.repeat(43)}` }), { statusCode: 401, body: /The API key is not valid/ })
  for (const next of ['//evil.example', '/\\evil.example', 'https://evil.example', '/\n', '/x y', '/\\t', `/${'x'.repeat(3000)}`]) {
    t.match((await signIn({ username: 'alice', password, next })).headers, { location: './api/docs/' }, next.slice(0, 40))
  }
  let last = await signIn({ username: 'alice', password: 'wrong' })
  for (let tries = 0; tries < 20 && last.statusCode !== 429; tries++) last = await signIn({ username: 'alice', password: 'wrong' })
  t.match(last, { statusCode: 429, headers: { 'retry-after': /^\d+$/ } })
  expectError(t, await app.inject({ method: 'POST', url: '/sign-in', headers: { ...formType, ...own }, body: 'username=a&username=b' }), 400, 'SDR_INVALID_REQUEST')
})

t.test('below the path of a proxy every address is below it, and a browser finds its way', async t => {
  const { app, signIn } = await open(t, { 'base-path': '/draw/v1' })
  await as(app, 'alice')
  for (const url of ['/', '/draw/v1', '/draw/v1?x', '/draw/v1/', '/api/docs', '/draw/v1/api/docs/?x=a/b']) {
    t.match((await app.inject({ url, headers: html })).body, 'action="/draw/v1/sign-in"', url)
  }
  const { app: unaware } = await open(t)
  for (const [url, action] of [['/', 'sign-in'], ['/api/docs', '../sign-in'], ['/api/docs/?x=a/b', '../../sign-in']] as const) {
    t.match((await unaware.inject({ url, headers: html })).body, `action="${action}"`, url)
    t.equal(new URL(action, `http://x/draw/v1${url}`).pathname, '/draw/v1/sign-in')
  }
  const { headers } = await signIn({ username: 'alice', password, next: '/javascript:alert(1)' })
  t.equal(new URL(headers.location!, 'http://x/draw/v1/sign-in').href, 'http://x/draw/v1/javascript:alert(1)')
  t.match(headers['set-cookie'], /^sdrest=ey[^;]+; Path=\/draw\/v1; HttpOnly/, 'other programs of the host do not get it')
  t.match((await app.inject({ method: 'GET', url: '/draw/v1', headers: { cookie: String(headers['set-cookie']).split(';', 1)[0]! } })).headers, { location: '/draw/v1/api/docs/' })
  const cookie = String(headers['set-cookie']).split(';', 1)[0]!
  for (const [url, location] of [['/api/docs', './docs/'], ['/api/docs?x', './docs/'], ['/api/docs/?x=1', './']] as const) {
    t.equal((await app.inject({ url, headers: { cookie } })).headers.location, location, url)
  }
  const accepted = await app.inject({ method: 'POST', url: '/draw/v1/api/generate/txt2img?wait=60', headers: { cookie, ...own }, body: { prompt: 'a fox', width: 64, steps: 1 } })
  t.match(accepted, { statusCode: 200, headers: { location: /^\/draw\/v1\/api\/queue\/job\/[\w-]+$/ } }, accepted.body)
  t.match(accepted.json().images[0].url, /^\/draw\/v1\/api\/queue\/job\//)
  t.equal((await app.inject({ url: accepted.json().images[0].url, headers: { cookie } })).statusCode, 200)
  t.equal((await app.inject({ url: '/draw/v1/api/openapi.json', headers: { cookie } })).json().servers[0].url, 'http://localhost:80/draw/v1')
  for (const url of ['/draw/v1x/api/health', '/draw/api/health', '/draw/v1/draw/v1/api/health']) t.equal((await app.inject({ url, headers: { cookie } })).statusCode, 404, url)
  t.equal((await app.inject('/draw/v1?x')).statusCode, 401)
  for (const bad of ['draw', '/', '/draw/', '//x', '/../x', '/a/./b', '/a b', '/a?b', '/%2e', '/api', '/v1/x', '/sign-in']) {
    await t.rejects(build(t, { 'base-path': bad }), { exitCode: 2, message: /for --base-path/ }, bad)
  }
})
