import { gzipSync } from 'node:zlib'
import t from 'tap'
import { originMatcher } from '../../lib/http/origins.ts'
import { as, build, password } from '../helper.ts'
import { listen, send, sendBytes } from './raw-http.ts'

/** What browsers, proxies and clients of other people can be made to send. */
const [origin, evil] = ['https://ui.example', 'https://evil.example']
const limits = { 'login-rate-limit': '100000', 'rate-limit': '100000' }
const open = await build(t, { auth: 'none', 'cors-origins': origin, 'trust-proxy': '192.0.2.1', ...limits })
const openPort = await listen(open)
const closed = await build(t, { auth: 'jwt', 'allowed-hosts': 'images.example', ...limits }, { models: false })
const closedPort = await listen(closed)
const alice = await as(closed, 'alice', 'admin')
const json = 'Content-Type: application/json'

t.test('Host: an open server answers for its own names only (DNS rebinding)', async t => {
  for (const host of ['127.0.0.1', `127.0.0.1:${openPort}`, 'localhost', `localhost:${openPort}`, 'LocalHost', 'localhost.', '[::1]', `[::1]:${openPort}`, '192.0.2.7']) {
    t.equal((await send(openPort, '/api/models', { host })).status, 200, host)
  }
  for (const host of ['evil.example', 'rebound.evil.example', 'localhost.evil.example', '127.0.0.1.evil.example', 'evil-localhost', '127.0.0.1.nip.io', 'evil.example:80',
    '', '.', '0x7f.1', '2130706433', '127.1', '127.0.0.1@evil.example', 'evil.example@127.0.0.1', 'evil.example#127.0.0.1', 'evil.example/127.0.0.1', '[::1].evil.example', 'localhost, evil.example']) {
    for (const target of ['/api/models', '/api/health', '/api/nothing', `http://127.0.0.1:${openPort}/api/models`]) {
      const { status } = await send(openPort, target, { host })
      t.equal(status, 421, `${target} at ${JSON.stringify(host)}`)
    }
  }
  t.equal((await send(openPort, '/api/models', { host: undefined })).status, 400, 'HTTP/1.1 asks for a Host')
  t.equal((await sendBytes(openPort, Buffer.from('GET /api/models HTTP/1.0\r\n\r\n'))).status, 421, 'HTTP/1.0 does not, but this server does')
  t.equal((await send(openPort, '/api/models', { host: 'evil.example', headers: ['Host: 127.0.0.1'] })).status, 421, 'the first of two counts')
})

t.test('forwarded headers of nobody in particular do not help (CVE-2026-3635)', async t => {
  for (const header of ['X-Forwarded-Host: localhost', 'Forwarded: host=localhost', 'X-Host: localhost', 'X-Original-Host: localhost', 'X-Forwarded-Server: localhost']) {
    t.equal((await send(openPort, '/api/models', { host: 'evil.example', headers: [header, 'X-Forwarded-For: 192.0.2.1'] })).status, 421, header)
  }
  t.equal((await send(openPort, '/api/models', { headers: ['X-Forwarded-Host: evil.example'] })).status, 200)
  t.equal((await send(openPort, '/api/models/refresh', { method: 'POST', headers: [`Origin: ${evil}`, 'X-Forwarded-Host: evil.example', 'X-Forwarded-Proto: https'] })).status, 403)
})

t.test('with names given, an authenticated server keeps to them, too', async t => {
  t.equal((await send(closedPort, '/api/health', { host: 'images.example' })).status, 200)
  t.equal((await send(closedPort, '/api/health', { host: 'IMAGES.example:443' })).status, 200)
  t.equal((await send(closedPort, '/api/health', { host: 'other.example' })).status, 421)
})

t.test('CORS: preflights are answered for configured origins only', async t => {
  const preflight = (port: number, from: string) => send(port, '/api/models', {
    method: 'OPTIONS', headers: [`Origin: ${from}`, 'Access-Control-Request-Method: GET', 'Access-Control-Request-Headers: authorization']
  })
  const { status, headers } = await preflight(openPort, origin)
  t.equal(status, 204)
  t.match(headers, { 'access-control-allow-origin': origin, 'access-control-allow-headers': /authorization/, vary: /Origin/ })
  t.notOk(headers['access-control-allow-credentials'], 'nothing that browsers send unasked counts')
  for (const other of [evil, 'null', '*', `${origin}.evil.example`, 'https://ui.example:444', 'http://ui.example', 'https://UI.example', 'https://evil-ui.example', 'https://ui.example@evil.example',
    'https://ui.example/', ' https://ui.example x', 'https://ui.exampl', `${origin},${evil}`, `${evil} ${origin}`]) {
    for (const port of [openPort, closedPort]) {
      const answer = await preflight(port, other)
      t.equal(answer.status, port === openPort ? 405 : 401, other)
      t.same(Object.keys(answer.headers).filter(name => name.startsWith('access-control-')), [])
    }
    const read = await send(openPort, '/api/models', { headers: [`Origin: ${other}`] })
    t.notOk(read.headers['access-control-allow-origin'], `${other} cannot read`)
  }
  t.equal((await preflight(closedPort, origin)).status, 401, 'without --cors-origins there are none')
  t.equal((await send(openPort, '/api/models', { headers: [`Origin: ${origin}`] })).headers['access-control-allow-origin'], origin)
  t.equal((await send(openPort, '/api/models', { method: 'OPTIONS' })).status, 405)
})

t.test('pages of others send no forms: what needs no preflight is refused (CSRF, CVE-2022-41919)', async t => {
  const post = (headers: string[], port = openPort, body = '') => send(port, '/api/models/refresh', { method: 'POST', headers, body })
  t.equal((await post([])).status, 200, 'curl sends no Origin')
  t.equal((await post([`Origin: http://127.0.0.1:${openPort}`])).status, 200, 'Swagger UI')
  t.equal((await post([`Origin: ${origin}`])).status, 200, 'a configured one')
  t.equal((await post(['Origin: https://proxy.example', 'Sec-Fetch-Site: same-origin'])).status, 200, 'a proxy changed Host, but the browser knows')
  for (const headers of [[`Origin: ${evil}`], ['Origin: null'], ['Origin: '], [`Origin: http://127.0.0.1:${openPort + 1}`], [`Origin: http://127.0.0.1:${openPort}.evil.example`],
    [`Origin: http://localhost:${openPort}`], ['Sec-Fetch-Site: cross-site'], ['Sec-Fetch-Site: same-site'], [`Origin: ${evil}`, 'Sec-Fetch-Site: cross-site'], ['Sec-Fetch-Site: x']]) {
    for (const [type, body] of [[[], ''], [['Content-Type: text/plain'], '{}'], [['Content-Type: application/x-www-form-urlencoded'], 'a=b'], [['Content-Type: multipart/form-data; boundary=x'], '--x--'], [[json], '{}']] as Array<[string[], string]>) {
      t.equal((await post([...headers, ...type], openPort, body)).status, 403, `${headers.join(' ')} ${type.join()}`)
    }
    t.equal((await send(openPort, '/api/queue/job/0190b5a0-0000-7000-8000-000000000000', { method: 'DELETE', headers })).status, 403)
  }
  for (const credential of ['X-API-Key: sdr_x', 'Authorization: Bearer x']) {
    t.equal((await post([credential, `Origin: ${evil}`])).status, 403, 'an open server reads no credentials, so they prove nothing')
  }
  // The browser remembers HTTP Basic and sends it for pages of others, too.
  const { key } = (await alice({ method: 'POST', url: '/api/auth/keys', body: { name: 'browser' } })).json<{ key: string }>()
  const basic = `Authorization: Basic ${Buffer.from(`x:${key}`).toString('base64')}`
  t.equal((await post([basic], closedPort)).status, 200)
  t.equal((await post([basic, `Origin: ${evil}`], closedPort)).status, 403)
  // A browser never sends a token or a key in a header of its own unasked: pages of others need a preflight for it,
  // extensions and desktop programs do not.
  for (const credential of [`X-API-Key: ${key}`, `Authorization: Bearer ${key}`, `authorization: bearer ${alice.token}`]) {
    for (const from of [`Origin: ${evil}`, 'Origin: null', 'Origin: moz-extension://9c3d', 'Sec-Fetch-Site: cross-site']) t.equal((await post([credential, from], closedPort)).status, 200, `${credential.slice(0, 25)} ${from}`)
  }
  for (const headers of [[`X-API-Key: ${key}`, basic], [basic, `X-API-Key: ${key}`], [basic, basic], ['Authorization: Bearer', `Cookie: token=${alice.token}`], [`Cookie: token=${alice.token}`], []]) {
    t.equal((await post([...headers, `Origin: ${evil}`], closedPort)).status, 403, headers.join(' ').slice(0, 60))
  }
  const login = (headers: string[]) => send(closedPort, '/api/auth/login', { method: 'POST', headers: [json, ...headers], body: JSON.stringify({ username: 'alice', password }) })
  t.equal((await login(['X-API-Key: x', `Origin: ${evil}`])).status, 403, 'a login does not read them')
})

t.test('a page of this server is known by its host, whatever the case and the default port', async t => {
  const post = (host: string, from: string, more: string[] = []) => send(closedPort, '/api/auth/login', {
    method: 'POST', host, headers: [json, `Origin: ${from}`, ...more], body: JSON.stringify({ username: 'alice', password })
  })
  for (const [host, from] of [['images.example', 'http://images.example'], ['images.example:80', 'http://images.example'], ['images.example:443', 'https://images.example'], ['IMAGES.example', 'https://images.EXAMPLE'],
    ['images.example', 'http://images.example:80'], ['images.example:8080', 'http://images.example:8080'], ['[::1]:80', 'http://[::1]']] as const) {
    t.equal((await post(host, from)).status, 200, `${host} ${from}`)
  }
  for (const [host, from] of [['images.example', 'http://images.example:8081'], ['images.example:443', 'http://images.example'], ['images.example:80', 'https://images.example'], ['127.0.0.1:8080', 'http://images.example'],
    ['images.example', 'http://images.example@evil.example'], ['images.example', 'http://evil.example@images.example'], ['images.example', 'http://images.example/'], ['images.example', 'ftp://images.example'], ['images.example', '//images.example'],
    ['images.example', 'images.example'], ['images.example', 'http://images.example.evil.example'], ['images.example', 'http://evil.example/?http://images.example']] as const) {
    t.equal((await post(host, from)).status, 403, `${host} ${from}`)
  }
  t.match(JSON.parse((await post('127.0.0.1:8080', 'http://lan.example')).body).error.message, /^Pages of "http:\/\/lan\.example" may not send this: the server sees Host "127\.0\.0\.1:8080"\. .*let the proxy pass Host on .*--cors-origins adds its origin/)
  t.match(JSON.parse((await post('127.0.0.1:8080', 'http://lan.example', ['Sec-Fetch-Site: same-site'])).body).error.message, /and the browser says "Sec-Fetch-Site: same-site"/)
})

t.test('--cors-origins takes extensions and desktop programs, and * for extensions alone', async t => {
  const isAllowed = originMatcher(['moz-extension://*', 'chrome-extension://abcdefghijklmnop', 'app://obsidian.md', 'https://ui.example', 'http://localhost:3000'])
  for (const from of ['moz-extension://9c3d1a52-0000-4000-8000-000000000000', 'chrome-extension://abcdefghijklmnop', 'app://obsidian.md', 'https://ui.example', 'http://localhost:3000']) t.ok(isAllowed(from), from)
  for (const from of ['null', '', 'moz-extension://', 'moz-extension://*', 'moz-extension://a/b', 'moz-extension://a b', 'moz-extensionx://a', 'xmoz-extension://a', 'chrome-extension://other', 'app://other', 'app://*', 'https://moz-extension://x',
    'https://ui.example:444', 'http://localhost:3001']) t.notOk(isAllowed(from), from)
  for (const entry of ['null', '*', 'app://*', 'https://*', 'http://*.example', 'moz-extension://a*', 'moz-extension://*/', 'moz-extension:*', 'https://ui.example/', 'https://UI.example', 'https://ui.example:443', 'ui.example', 'httpx://a b', '']) {
    t.throws(() => originMatcher([entry]), { exitCode: 2, message: /^Expected origins such as .* for --cors-origins but received/ }, entry)
  }
  const from = 'Origin: moz-extension://9c3d'
  const app = await build(t, { auth: 'jwt', 'cors-origins': 'moz-extension://*' }, { models: false })
  const { status, headers } = await send(await listen(app), '/api/models', { method: 'OPTIONS', headers: [from, 'Access-Control-Request-Method: POST', 'Access-Control-Request-Headers: x-api-key'] })
  t.equal(status, 204)
  t.match(headers, { 'access-control-allow-origin': 'moz-extension://9c3d' })
})

t.test('content types: no spelling gets a body past its schema', async t => {
  const body = JSON.stringify({ prompt: 'a fox', width: 64, steps: 1, unknown_field: true })
  const tricks = [
    // CVE-2025-32442, CVE-2026-25223, CVE-2026-3419, CVE-2026-33806 and relatives
    'application/json', 'Application/JSON', 'application/json;', 'application/json ;', 'application/json ; charset=utf-8', 'application/json;charset=utf-8;x=y', 'application/json\t', 'application/json\ta',
    'application/json a', 'application/json garbage', 'application/json\t;a', '\tapplication/json', ' application/json', 'application/json,', 'application/json, text/plain', 'application/json/x',
    'application/json;boundary="', 'application/json; charset="utf-8', 'application/json;application/x-www-form-urlencoded',
    'application/jsonx', 'application/json+x', 'application/vnd.api+json', 'application/problem+json', 'application/ld+json', 'text/json', 'application/javascript', 'json', 'application', '/', ';', '*/*', '*',
    'text/plain', 'text/plain; application/json', 'application/x-www-form-urlencoded', 'application/x-www-form-urlencoded; application/json', 'multipart/form-data; boundary=application/json', 'text/html', 'x', ''
  ]
  for (const type of tricks) {
    const { status, body: answer } = await send(openPort, '/api/generate/txt2img', { method: 'POST', headers: [`Content-Type: ${type}`], body })
    t.ok(status === 400 || status === 415, `${JSON.stringify(type)}: ${status}`)
    if (status === 400) t.match(JSON.parse(answer).error.message, /unknown_field|header|valid|form/)
  }
  t.ok([400, 415].includes((await send(openPort, '/api/generate/txt2img', { method: 'POST', body })).status), 'none at all')
  const twice = await send(openPort, '/api/generate/txt2img', { method: 'POST', headers: ['Content-Type: text/plain', json], body })
  t.ok([400, 415].includes(twice.status), 'two')
  t.equal((await send(openPort, '/api/generate/txt2img', { method: 'POST', headers: [json, 'Content-Encoding: gzip'], body: gzipSync(body) })).status, 415, 'nothing is unpacked')
  t.equal((await send(openPort, '/api/generate/txt2img', { method: 'POST', headers: [json], body: Buffer.from(body, 'utf16le') })).status, 400)
})

t.test('bodies', async t => {
  const login = (body: string | Buffer, headers = [json]) => send(closedPort, '/api/auth/login', { method: 'POST', headers, body })
  const fields = `"username":"alice","password":${JSON.stringify(password)}`
  t.equal((await login(`{${fields}}`)).status, 200)
  for (const more of ['"__proto__":{"role":"admin"}', '"constructor":{"prototype":{"role":"admin"}}', '"value":{}', '"error":"boom"', '"role":"admin"', '"toString":1', '"\\u005f_proto__":{}', '"$async":true']) {
    t.equal((await login(`{${fields},${more}}`)).status, 400, more)
  }
  for (const body of ['', '{', '[]', 'null', '1', '"x"', `[{${fields}}]`, `{${fields}}x`, `\ufeff{${fields}`, `${fields}`, '{"username":["alice"],"password":"x"}', '{"username":{"$ne":null},"password":{"$ne":null}}',
    '{"username":"alice","password":true}', '{"username":"alice","password":null}', '{"username":"alice"}', '{"password":"x"}', `{"username":"alice","password":"${'x'.repeat(1025)}"}`, '{"username":"","password":"x"}',
    `{"username":"${'x'.repeat(256)}","password":"x"}`, '['.repeat(8000), `${'{"a":'.repeat(2000)}1${'}'.repeat(2000)}`]) {
    const { status, body: answer } = await login(body)
    t.equal(status, 400, `${body.slice(0, 40)}: ${answer.slice(0, 200)}`)
  }
  t.equal((await login(`{${fields},"x":"${'x'.repeat(17_000)}"}`)).status, 413, 'strangers send little')
  t.equal((await sendBytes(closedPort, Buffer.from(`POST /api/auth/login HTTP/1.1\r\nHost: 127.0.0.1\r\n${json}\r\nContent-Length: 99999999\r\n\r\n{`))).status, 413, 'and are not even heard out')
  const chunk = `1000\r\n${' '.repeat(4096)}\r\n`
  t.equal((await sendBytes(closedPort, Buffer.from(`POST /api/auth/login HTTP/1.1\r\nHost: 127.0.0.1\r\n${json}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n${chunk.repeat(5)}0\r\n\r\n`))).status, 413)
  t.equal((await send(closedPort, '/api/generate/txt2img', { method: 'POST', headers: [json], body: '{' })).status, 401, 'who may not come in is not read')
})

t.test('what the parser of HTTP refuses has the shape of every error', async t => {
  for (const [what, bytes, status, code, message] of [
    ['no method', 'FOO /api/health HTTP/1.1\r\nHost: x\r\n\r\n', 400, 'SDR_INVALID_REQUEST', /HTTP\/1\.1: Invalid method/],
    ['TLS', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', 400, 'SDR_INVALID_REQUEST', /HTTP\/1\.1/],
    ['two lengths', `POST /api/auth/login HTTP/1.1\r\nHost: x\r\n${json}\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}`, 400, 'SDR_INVALID_REQUEST', /Content-Length/],
    ['a long header', `GET /api/health HTTP/1.1\r\nHost: x\r\nX-Long: ${'x'.repeat(20_000)}\r\n\r\n`, 431, 'SDR_HEADERS_TOO_LARGE', /headers/]
  ] as const) {
    const answer = await sendBytes(closedPort, Buffer.from(bytes, 'latin1'))
    t.equal(answer.status, status, what)
    t.match(JSON.parse(answer.body), { error: { code, message, request_id: String } }, what)
  }
})

t.test('two credentials are one too many', async t => {
  const { key } = (await alice({ method: 'POST', url: '/api/auth/keys', body: { name: 'one' } })).json<{ key: string }>()
  const { key: second } = (await alice({ method: 'POST', url: '/api/auth/keys', body: { name: 'two' } })).json<{ key: string }>()
  const bearer = `Authorization: Bearer ${alice.token}`
  const basic = (text: string) => `Authorization: Basic ${Buffer.from(`x:${text}`).toString('base64')}`
  for (const headers of [[bearer, `X-API-Key: ${key}`], [`X-API-Key: ${key}`, bearer], [bearer, 'Authorization: Bearer x'], ['Authorization: Bearer x', bearer], [`X-API-Key: ${key}`, `X-API-Key: ${second}`],
    [`X-API-Key: ${key}`, basic(second)], [bearer, 'x-api-key:'], [`Authorization: Bearer ${key}`, `AUTHORIZATION: Bearer ${second}`], [bearer, bearer, `X-API-Key: ${key}`]]) {
    for (const target of ['/api/models', '/api/health', '/api/nothing']) {
      const { status, body } = await send(closedPort, target, { headers })
      t.equal(status, 400, headers.map(header => header.slice(0, 20)).join(' | '))
      t.equal(JSON.parse(body).error.code, 'SDR_AMBIGUOUS_CREDENTIALS')
    }
  }
  for (const headers of [[bearer, bearer], [`X-API-Key: ${key}`, basic(key)], [`X-API-Key: ${key}`, `Authorization: Bearer ${key}`]]) {
    t.equal((await send(closedPort, '/api/models', { headers })).status, 200, 'the same one twice is one')
  }
  // What a proxy with a password of its own adds is no key: the answer says so, not that the key beside it was wrong.
  const ofProxy = `Authorization: Basic ${Buffer.from('web:secret').toString('base64')}`
  for (const headers of [[ofProxy, `X-API-Key: ${key}`], [`X-API-Key: ${key}`, ofProxy], [ofProxy, bearer], [bearer, 'Authorization: Digest x']]) {
    const { status, body } = await send(closedPort, '/api/health', { headers })
    t.equal(status, 400)
    t.match(JSON.parse(body).error, { code: 'SDR_AMBIGUOUS_CREDENTIALS', message: /beside it an Authorization header that is neither.*proxy_set_header Authorization "";/ })
  }
  t.match(JSON.parse((await send(closedPort, '/api/health', { headers: [ofProxy] })).body).error, { code: 'SDR_INVALID_TOKEN', message: /API key as the password/ })
  t.equal((await send(closedPort, '/api/models', { headers: [`Authorization: Bearer ${alice.token}, Bearer x`] })).status, 401, 'a list is none')
  t.equal((await send(closedPort, '/api/models', { headers: ['Authorization: Bearer', ` ${alice.token}`] })).status, 400, 'folded lines are no HTTP any more')
})

t.test('the router stays quick whatever it is asked (CVE-2024-45813)', async t => {
  for (const part of ['a-', '-', '.', '%2e', ':', 'a:', '(', '%25', '/']) {
    const began = performance.now()
    const { status } = await send(closedPort, `/api/queue/job/${part.repeat(Math.floor(8000 / part.length))}`)
    t.ok([400, 401].includes(status))
    t.ok(performance.now() - began < 1000, `${part}: ${(performance.now() - began).toFixed(0)} ms`)
  }
})

t.test('answers say nothing that helps', async t => {
  const { headers } = await send(closedPort, '/api/models')
  t.notOk(headers['x-powered-by'] ?? headers.server)
  t.match(headers, { 'x-content-type-options': 'nosniff', 'content-security-policy': /default-src 'none'/, 'x-frame-options': /./, 'cache-control': 'no-store', 'referrer-policy': /./ })
  t.match((await send(closedPort, '/api/docs', { headers: ['Sec-Fetch-Mode: navigate'] })).headers['www-authenticate'], /^Bearer /, 'a browser that navigates gets a page, not a dialog')
  t.match((await send(closedPort, '/api/docs', { headers: ['Sec-Fetch-Mode: cors'] })).headers['www-authenticate'], /^Bearer/, 'a script is not')
})
