import t from 'tap'
import { as, build, expectError } from '../helper.ts'
import { listen, send } from '../security/raw-http.ts'

const app = await build(t, { auth: 'jwt', 'rate-limit': '100000', 'login-rate-limit': '100000' })
const alice = await as(app, 'alice', 'admin')

t.test('a known URL that does not take the method says which it takes', async t => {
  for (const [method, url, allow] of [
    ['GET', '/api/generate/txt2img', 'POST'],
    ['HEAD', '/api/generate/txt2img', 'POST'],
    ['OPTIONS', '/api/generate/txt2img?x=1', 'POST'],
    ['PUT', '/api/models', 'GET, HEAD'],
    ['PATCH', '/api/queue/job/0190b5a0-0000-7000-8000-000000000000', 'DELETE, GET, HEAD'],
    ['POST', '/api/models/checkpoint/minit2i.safetensors', 'DELETE, GET, HEAD']
  ] as const) {
    const response = await alice({ method, url })
    t.equal(response.statusCode, 405, `${method} ${url}`)
    t.equal(response.headers.allow, allow)
    if (method === 'HEAD') continue
    expectError(t, response, 405, 'SDR_METHOD_NOT_ALLOWED', new RegExp(`received ${method}`))
    expectError(t, await app.inject({ method, url }), 401, 'SDR_UNAUTHENTICATED')
  }
  const port = await listen(app)
  const headers = [`Authorization: Bearer ${alice.token}`]
  const answer = await send(port, '/api/models', { method: 'PROPFIND', headers })
  t.match(answer, { status: 405, headers: { allow: 'GET, HEAD' } }, 'a method of other protocols')
})

t.test('an unknown URL says what is odd about it', async t => {
  for (const [url, message] of [
    ['/api/nothing', /^There is no GET \/api\/nothing\.$/],
    ['/api/models/', /a slash at its end: the URL is \/api\/models\.$/],
    ['/api/models//', /two slashes in a row: the URL is \/api\/models\.$/],
    ['/api/models/checkpoint/x/', /a slash at its end: the URL is \/api\/models\/checkpoint\/x\.$/],
    ['/api/models/checkpoint//x', /two slashes in a row: the URL is \/api\/models\/checkpoint\/x\.$/],
    ['/api/queue/status/', /a slash at its end: the URL is \/api\/queue\/status\.$/],
    ['//api/models', /two slashes in a row: the URL is \/api\/models\.$/],
    ['/api//models/?limit=1', /two slashes in a row: the URL is \/api\/models\.$/],
    ['//api/nothing', /it has two slashes in a row\.$/],
    [`/api/${'x/'.repeat(4000)}`, /^There is no GET .{200}; it has a slash at its end\.$/]
  ] as const) {
    expectError(t, await alice(url), 404, 'SDR_NOT_FOUND', message)
    expectError(t, await app.inject(url), 401, 'SDR_UNAUTHENTICATED')
  }
})
