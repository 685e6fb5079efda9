import { createHmac, randomBytes } from 'node:crypto'
import t from 'tap'
import { tokenSecret } from '../../lib/accounts/secrets.ts'
import { as, build } from '../helper.ts'
import { listen, send, sendBytes } from './raw-http.ts'

/**
 * What was once found in the libraries in use, as far as it could concern this server. requests.test.ts has those of
 * content types, Host, CSRF and the router; tokens.test.ts has more of tokens.
 */
const limits = { 'login-rate-limit': '100000', 'rate-limit': '100000' }
const secret = randomBytes(32).toString('hex')
const closed = await build(t, { auth: 'jwt', 'jwt-secret': secret, ...limits }, { models: false })
const closedPort = await listen(closed)
const alice = await as(closed, 'alice', 'admin')
const bob = await as(closed, 'bob')
const open = await build(t, { auth: 'none', ...limits })
const openPort = await listen(open)

type Json = Record<string, unknown>
const encode = (part: Json) => Buffer.from(JSON.stringify(part)).toString('base64url')
const [realHeader, realClaims] = alice.token.split('.').slice(0, 2).map(part => JSON.parse(Buffer.from(part, 'base64url').toString()) as Json) as [Json, Json]
function sign (header: Json, claims: Json, key = secret): string {
  const input = `${encode(header)}.${encode(claims)}`
  return `${input}.${createHmac('sha256', key).update(input).digest('base64url')}`
}
const me = async (token: string) => {
  const { status, body } = await send(closedPort, '/api/auth/me', { headers: [`Authorization: Bearer ${token}`] })
  return { status, username: JSON.parse(body).username as string | undefined }
}

t.test('fast-jwt', async t => {
  t.match(await me(sign(realHeader, realClaims)), { status: 200 }, 'what is changed below is good')
  t.match(await me(sign(realHeader, { ...realClaims, iss: ['https://evil.example', realClaims.iss] })), { status: 401 }, 'CVE-2025-30144: one of several issuers is none')
  t.match(await me(sign({ ...realHeader, crit: ['x-policy'], 'x-policy': 'none' }, realClaims)), { status: 401 }, 'GHSA-hm7r-c7qw-ghp6: critical extensions that nobody understands')
  for (const kid of [undefined, 'unknown', '']) t.match(await me(sign({ ...realHeader, kid }, realClaims, '')), { status: 401 }, 'CVE-2026-44351: an empty key')
  for (const space of ['', ' ', '\n', '\t\r\n']) {
    for (const type of ['PUBLIC KEY', 'RSA PUBLIC KEY', 'CERTIFICATE', 'EC PRIVATE KEY']) {
      const pem = `${space}-----BEGIN ${type}-----\n${'A'.repeat(64)}\n-----END ${type}-----`
      t.throws(() => tokenSecret({ jwtSecret: pem }, t.testdir()), { exitCode: 2, message: /random bytes/ }, 'CVE-2023-48223, CVE-2026-34950: what is half public is no secret')
    }
  }
})

t.test('remembered tokens are told apart (GHSA-rp9m-7r4c-75qg)', async t => {
  for (const round of [1, 2]) {
    t.match(await me(alice.token), { status: 200, username: 'alice' }, `round ${round}`)
    t.match(await me(bob.token), { status: 200, username: 'bob' })
    const [header, payload, signature] = alice.token.split('.') as [string, string, string]
    const [, otherPayload, otherSignature] = bob.token.split('.') as [string, string, string]
    for (const token of [`${header}.${payload}.${otherSignature}`, `${header}.${otherPayload}.${signature}`, `${header}.${payload}.`, `${header}.${payload}`, `${alice.token}x`, alice.token.slice(0, -1)]) {
      t.match(await me(token), { status: 401 })
    }
  }
})

t.test('@fastify/static and @fastify/swagger-ui (CVE-2026-6414, CVE-2024-22207)', async t => {
  const targets = ['/api/docs%2fstatic%2fswagger-ui.css', '/api/docs/static%2fswagger-ui.css', '/api%2fdocs/static/swagger-ui.css', '/api/docs%5cstatic%5cswagger-ui.css', '/api/docs/static/%2e%2e%2fpackage.json',
    '/api/docs/package.json', '/api/docs/index.js', '/api/docs/lib/routes.js', '/api/docs/static/../index.js', '/api/docs/static/..%5c..%5cpackage.json', '/api/docs/static/%00']
  t.equal((await send(closedPort, '/api/docs/static/swagger-ui.css', { headers: [`Authorization: Bearer ${alice.token}`] })).status, 200, 'the file is there')
  for (const target of targets) {
    t.ok([400, 401].includes((await send(closedPort, target)).status), `${target} for a stranger`)
    const { status, body } = await send(closedPort, target, { headers: [`Authorization: Bearer ${alice.token}`] })
    t.ok([302, 400, 403, 404].includes(status), `${target}: ${status}`)
    t.notMatch(body, /"name":|\.swagger-ui|module\.exports/, 'no file but those that are meant to be seen')
  }
})

t.test('@fastify/multipart (CVE-2023-25576, CVE-2022-24434)', async t => {
  const post = (body: string, boundary = 'x') => send(openPort, '/api/generate/img2img', { method: 'POST', headers: [`Content-Type: multipart/form-data; boundary=${boundary}`], body })
  const part = (name: string, more = '') => `--x\r\nContent-Disposition: form-data; name="${name}"${more}\r\n\r\n1\r\n`
  const bodies: Record<string, string> = {
    'ten thousand fields': Array.from({ length: 10_000 }, (_, count) => part(`f${count}`)).join('') + '--x--\r\n',
    'ten thousand files': Array.from({ length: 10_000 }, (_, count) => part('init_image', `; filename="${count}"`)).join('') + '--x--\r\n',
    'the same field again and again': part('prompt').repeat(10_000) + '--x--\r\n',
    'a part header that is none': '--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x\r\n\r\n\r\n--x--\r\n',
    'a header that crashed dicer': '------WebKitFormBoundaryoo6vortfDzBsDiro\r\n Content-Disposition: form-data; name="bildbeschreibung"\r\n\r\n\r\n------WebKitFormBoundaryoo6vortfDzBsDiro--',
    'a header without end': `--x\r\nContent-Disposition: form-data; name="${'a'.repeat(200_000)}`,
    'no end': part('prompt'),
    'names of prototypes': `${part('__proto__')}${part('constructor')}${part('toString')}--x--\r\n`,
    nothing: ''
  }
  for (const [name, body] of Object.entries(bodies)) {
    const began = performance.now()
    const { status } = await post(body, name.includes('dicer') ? '----WebKitFormBoundaryoo6vortfDzBsDiro' : 'x')
    t.ok(status >= 400 && status < 500, `${name}: ${status}`)
    t.ok(performance.now() - began < 10_000, 'in time')
    t.equal((await send(openPort, '/api/health')).status, 200, 'the server goes on')
  }
})

t.test('what is sent before the end of a request is not waited for (smuggling)', async t => {
  const { status, body } = await sendBytes(closedPort, Buffer.from(
    'GET /api/health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\nContent-Length: 60\r\nConnection: close\r\n\r\n0\r\n\r\nGET /api/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'))
  t.equal(status, 400)
  t.notMatch(body, /"models"/)
})
