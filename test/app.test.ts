import t from 'tap'
import { buildApp } from '../app.ts'
import { build, expectError, testOptions, workspace } from './helper.ts'
import { until } from './lib/engine/helper.ts'

/** Processes that this one has started and that have not ended. */
function children (): number {
  return process.getActiveResourcesInfo().filter(name => name === 'ProcessWrap').length
}

t.test('an application that cannot be built leaves no engine behind, and no lock', async (t) => {
  const { models, data } = workspace(t)
  const options = { 'models-dir': [models], 'data-dir': data }
  const before = children()
  await t.rejects(buildApp(testOptions({ ...options, 'webhook-hosts': ['example.org'] })), { message: /--webhook-secret/ })
  t.ok(await until(() => children() === before), 'the engine of one whose queue cannot be opened')

  const app = await build(t, options, { models: false })
  t.equal(children(), before + 1)
  const second = testOptions({ ...options, 'data-dir': app.folders.data })
  await t.rejects(buildApp(second), { message: /Another server works on this queue/ })
  t.ok(await until(() => children() === before + 1), 'the engine of a second one, and not that of the first')
  const { statusCode } = await app.inject('/api/queue/status')
  t.equal(statusCode, 200, 'which goes on')
})

t.test('every schema of every route can be compiled', async (t) => {
  const app = await build(t, {}, { models: false, compileAtOnce: true })
  t.equal((await app.inject('/api/health')).statusCode, 200)
  const wrong = await buildApp(testOptions({ 'data-dir': workspace(t).data }), { compileAtOnce: true })
  wrong.get('/wrong', { schema: { response: { 200: { $ref: 'Missing#' } } } }, async () => ({}))
  await t.rejects(async () => await wrong.ready(), { code: 'FST_ERR_SCH_SERIALIZATION_BUILD' })
  await wrong.close()
})

t.test('nothing but an option limits how long it takes to start and to drain', async (t) => {
  const { initialConfig } = await build(t, {}, { models: false })
  t.equal(initialConfig.pluginTimeout, 0)
})

t.test('a body is small, unless the route takes images, and a refusal says how small', async (t) => {
  const app = await build(t, {}, { models: false })
  const post = async (url: string, bytes: number, headers = {}) =>
    await app.inject({ method: 'POST', url, headers: { 'content-type': 'application/json', ...headers }, payload: Buffer.alloc(bytes, ' ') })
  const urls = ['auth/login', 'auth/refresh', 'auth/password', 'auth/keys', 'users', ...['load', 'unload', 'hash', 'convert', 'pull'].map(action => `models/${action}`)]
  for (const url of urls) {
    const refused = await post(`/api/${url}`, 16 * 1024 + 1)
    expectError(t, refused, 413, 'SDR_BODY_TOO_LARGE', /^Expected at most 16384 bytes for body but received 16385$/)
    t.match(refused.json().error.details, [{ field: 'body', expected: 'at most 16384 bytes', received: '16385' }])
    expectError(t, await post(`/api/${url}`, 16 * 1024), 400, 'SDR_INVALID_JSON')
  }
  expectError(t, await post('/api/generate/txt2img', 9 * 1024 * 1024), 413, 'SDR_BODY_TOO_LARGE', /Expected at most 8388608 bytes/)

  const longest = JSON.stringify({ current_password: '\u{1f98a}'.repeat(1024), new_password: '\u{1f98a}'.repeat(1024) })
  const answer = await app.inject({ method: 'POST', url: '/api/auth/password', headers: { 'content-type': 'application/json' }, payload: longest })
  expectError(t, answer, 409, 'SDR_CONFLICT', /no logins/) // the longest that is valid fits
})
