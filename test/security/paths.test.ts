import t from 'tap'
import { as, build } from '../helper.ts'
import { listen, send, sendBytes } from './raw-http.ts'

/**
 * Path tricks around the public list. Open are GET /api/health, /api/status and, by option, /api/models/types; the
 * tricks try to reach the rest through them. Whatever the server makes of a target, it must not answer with content.
 */
const app = await build(t, { auth: 'jwt', 'public-paths': '/api/models/types', 'login-rate-limit': '100000', 'rate-limit': '100000' })
const port = await listen(app)
const alice = await as(app, 'alice', 'admin')

/** What a stranger may be told: who are you, or that is no request. */
const isRefusal = (status: number) => status === 400 || status === 401

t.test('the doors that are open', async t => {
  for (const target of ['/api/health', '/api/status', '/api/models/types', '/api/health?x=1', '/api/models/types?a=/../../users']) {
    t.equal((await send(port, target)).status, 200, target)
  }
  t.equal((await send(port, '/api/health', { method: 'HEAD' })).status, 200)
  t.equal((await send(port, '/api/models/types', { method: 'HEAD' })).status, 200, 'HEAD follows GET')
  t.equal((await send(port, `http://127.0.0.1:${port}/api/health`)).status, 200, 'the absolute form is the same request')
})

t.test('no spelling of a path opens another', async t => {
  const targets = [
    // duplicate, trailing and encoded slashes
    '//api/models', '/api//models', '///api///models///', '/api/models/', '/api/models//', '/api%2fmodels', '/api%2Fmodels', '/%2fapi/models',
    '/api/models%2f', '/api/models%2ftypes', '/api/models%2Ftypes', '/api/models/types/', '/api/models//types', '/api/models/types%2f',
    '/api/models/types%2f..', '/api/health/', '//api/health', '/api//health', '/api/health%2f',
    // dot segments, encoded or not, once or twice
    '/api/health/../models', '/api/health/../../api/models', '/api/health/..%2fmodels', '/api/health/%2e%2e/models', '/api/health/.%2e/models',
    '/api/health/%2e%2e%2fmodels', '/api/health%2f%2e%2e%2fmodels', '/api/health%2f..%2fmodels', '/api/./models', '/./api/models', '/../api/models',
    '/api/health/%252e%252e/models', '/api/health/%252e%252e%252fmodels', '/api/models/types/../../users', '/api/models/types/..%2f..%2fusers',
    '/api/models/types/%2e%2e', '/api/health/....//models', '/api/health/%c0%ae%c0%ae/models', '/api/health/..\u00a0/models', '/api/health/..;/models',
    // letters: case, encoded, full width
    '/API/MODELS', '/Api/Models', '/api/MODELS', '/API/health', '/api/HEALTH', '/%61pi/models', '/api/%6dodels', '/api/%6Dodels', '/api/mode%6cs',
    '/api/%75sers', '/api/mod%65ls/', '/\uff41pi/models',
    // separators of other servers
    '/api/models;/api/health', '/api/models;jsessionid=1', '/api/health;/../models', '/api;/models', '/api/models;', '/api/models%3b', '/api/health;a=b',
    '\\api\\models', '/api\\models', '/api/health\\..\\models', '/api/health/..\\models', '/api/health%5c..%5cmodels', '/api%5cmodels',
    // ends of strings
    '/api/models%00', '/api/models%00/api/health', '/api/health%00/../models', '/api/models%00.json', '/api/users%00', '/api/models%20', '/api/models%09',
    '/api/models%0a', '/api/models%0d%0a', '/api/models.json', '/api/models.', '/api/models~', '/api/models*', '/api/*', '/api/models/%2a',
    '/api/models?/api/health', '/api/models?public=true', '/api/models#/api/health', '/api/models%23', '/api/models%3f', '/api/users?x=/api/health',
    '/api/models&x', '/api/models,/api/health', '/api/models|/api/health', '/api/models/:id', '/api/models/{id}',
    // malformed encodings
    '/api/models%', '/api/models%2', '/api/models%zz', '/api/%ff', '/api/%u006dodels', '/api/health/%', '/%',
    // other forms of a target
    'http://127.0.0.1/api/models', 'http://evil.example/api/models', 'https://127.0.0.1/api/users', 'http:///api/models', 'http://127.0.0.1//api/models',
    'http://127.0.0.1/api/health/../models', 'http://u:p@127.0.0.1/api/users', 'ftp://127.0.0.1/api/models', 'file:///api/models', 'api/models', '*', '?', '#',
    '/api/health@127.0.0.1/api/models', '//127.0.0.1/api/models', '/http://127.0.0.1/api/models', '127.0.0.1:80',
    // unknown and dangerous names, and one as long as can be
    '/', '', '/api', '/api/', '/__proto__', '/api/__proto__', '/api/constructor', '/api/models/__proto__', '/.env', '/.git/config', '/jobs.db',
    '/api/docs/static/../../../package.json', '/api/docs/static/..%2f..%2fpackage.json', `/api/queue/job/${'a'.repeat(2000)}`, `/api/nothing/${'a'.repeat(2000)}`,
    `/api/models/${'x/'.repeat(1000)}`
  ]
  for (const target of targets) {
    const { status, body } = await send(port, target)
    t.ok(isRefusal(status), `${JSON.stringify(target.slice(0, 60))} is refused: ${status}`)
    t.notMatch(body, /minit2i|"users"|"operationId"/, 'and tells nothing')
  }
})

t.test('known and unknown URLs get the same answer, so that routes cannot be listed', async t => {
  const answers = await Promise.all([
    '/api/models', '/api/users', '/api/queue/jobs', '/api/nothing', '/api/auth/me', '/api/docs', '/api/docs/static/index.html', '/robots.txt',
    `/api/queue/job/${'a'.repeat(2000)}`, `/api/nothing/${'a'.repeat(2000)}`
  ].map(async target => await send(port, target)))
  for (const { status, headers, body } of answers) {
    t.equal(status, 401)
    t.equal(JSON.parse(body).error.message, JSON.parse(answers[0]!.body).error.message)
    t.same(Object.keys(headers).sort(), Object.keys(answers[0]!.headers).sort())
  }
})

t.test('methods', async t => {
  for (const method of ['HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'PROPFIND', 'SEARCH', 'QUERY', 'PURGE', 'LINK', 'REPORT']) {
    for (const target of ['/api/models', '/api/users', ...(method === 'HEAD' ? [] : ['/api/health', '/api/models/types'])]) {
      const { status, headers } = await send(port, target, { method })
      t.ok(isRefusal(status), `${method} ${target}: ${status}`)
      t.notOk(headers.allow, 'and does not say what would work')
    }
  }
  for (const method of ['get', 'Get', 'GETT', 'FOO', 'G\tT', '']) {
    const { status } = await sendBytes(port, Buffer.from(`${method} /api/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`))
    t.equal(status, 400, `method ${JSON.stringify(method)}`)
  }
})

t.test('headers that rewrite the path or the method elsewhere do nothing', async t => {
  const headers = [
    ...['X-HTTP-Method-Override', 'X-HTTP-Method', 'X-Method-Override', '_method'].map(name => `${name}: GET`),
    ...['X-Original-URL', 'X-Rewrite-URL', 'X-Forwarded-URI', 'X-Forwarded-Prefix', 'X-Forwarded-Path', 'X-Original-URI', 'Forwarded', 'Referer',
      'X-Accel-Redirect', 'Base-Url', 'Request-Uri', 'X-Envoy-Original-Path', 'Destination'].map(name => `${name}: /api/health`)
  ]
  for (const header of headers) {
    t.equal((await send(port, '/api/models', { headers: [header] })).status, 401, header)
    t.equal((await send(port, '/api/users', { method: 'POST', headers: [header] })).status, 401, `POST with ${header}`)
    const { status, body } = await send(port, '/api/health', { headers: [header.replace('/api/health', '/api/users')] })
    t.equal(status, 200)
    t.match(JSON.parse(body), { status: 'ok' }, 'it stays what it is')
  }
  for (const header of ['X-User: alice', 'X-Remote-User: alice', 'Remote-User: alice', 'X-Forwarded-User: alice', 'X-Auth-Request-User: alice',
    'X-Forwarded-For: 127.0.0.1', 'X-Real-IP: 127.0.0.1', 'X-Client-IP: 127.0.0.1', 'Client-IP: 127.0.0.1', 'X-Custom-IP-Authorization: 127.0.0.1']) {
    t.equal((await send(port, '/api/models', { headers: [header] })).status, 401, header)
  }
})

t.test('requests that are not quite HTTP', async t => {
  const head = 'GET /api/models HTTP/1.1'
  for (const bytes of [
    'GET /api/models\r\n\r\n',
    'GET /api/health /api/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n',
    'GET /api/health\t/api/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n',
    'GET /api/health\n/api/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n',
    `${head}\r\n Host: x\r\nConnection: close\r\n\r\n`,
    `${head}\r\nHost : x\r\nConnection: close\r\n\r\n`,
    `${head}\r\nConnection: close\r\n\r\n`,
    'GET /api/models HTTP/1.0\r\n\r\n',
    'GET /api/models HTTP/2.0\r\nHost: x\r\nConnection: close\r\n\r\n',
    'POST /api/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /api/models HTTP/1.1\r\n\r\n',
    'POST /api/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\nGET /api/models HTTP/1.1\r\nHost: x\r\n\r\n'
  ]) {
    const { status, body } = await sendBytes(port, Buffer.from(bytes))
    t.ok(isRefusal(status) || status === 505, `${JSON.stringify(bytes.slice(0, 60))}: ${status}`)
    t.notMatch(body, /minit2i/)
  }
  const { status, body } = await send(port, '/api/models', { headers: ['Upgrade: h2c', 'HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA'] })
  t.equal(status, 401, 'no upgrade around the guard')
  t.notMatch(body, /minit2i/)
})

t.test('with credentials the same tricks find nothing that is not there', async t => {
  const headers = [`Authorization: Bearer ${alice.token}`]
  t.equal((await send(port, '/api/models', { headers })).status, 200)
  for (const target of ['//api/models', '/api/models/', '/api//models', '/API/models', '/api/models;a', '/api/health/../models', '/api/models%00',
    '/api/docs/static/../index.js', '/api/docs/static/..%2f..%2fpackage.json', '/api/docs/static/%2e%2e/%2e%2e/package.json', '/api/docs/static/..\\..\\package.json',
    '/api/docs/package.json', '/api/docs/index.js', '/api/docs/static//', '/api/docs/static/../../../../../../etc/passwd']) {
    const { status, body } = await send(port, target, { headers })
    t.ok([400, 403, 404].includes(status), `${target}: ${status}`)
    t.notMatch(body, /root:|"name":/, 'and no file')
  }
})
