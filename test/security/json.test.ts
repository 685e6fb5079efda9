import fc from 'fast-check'
import t from 'tap'
import { build, expectError } from '../helper.ts'

/** What strangers may send before they have logged in. */
const app = await build(t, { auth: 'jwt', 'login-rate-limit': '100000', 'rate-limit': '100000' }, { models: false })
const login = (body: string | Buffer) => app.inject({
  method: 'POST', url: '/api/auth/login', headers: { 'content-type': 'application/json' }, body
})

t.test('escapes that JSON does not have', async t => {
  for (const name of ['\\u0041\\U0041', '\\U0041', '\\uD83D\\U0041', '\\x41', '\\u00', '\\u', '\\']) {
    expectError(t, await login(`{"username":"${name}","password":"x"}`), 400, 'SDR_INVALID_JSON')
  }
  expectError(t, await login('{"username":"\\uD83D\\udE00\\u0041","password":"x"}'), 401, 'SDR_INVALID_CREDENTIALS')
})

t.test('no bytes make a defect', async () => {
  const piece = fc.oneof(
    fc.constantFrom(
      '{', '}', '[', ']', '"', ':', ',', '\\', '\\u', '\\U', '\\ud83d', '\\udE00', 'u0041', '"username":', '"password":"x"',
      '"__proto__":', '"constructor":{"prototype":1}', '1e999', '-', 'null', '\ufeff', '\0', ' '
    ),
    fc.string({ unit: 'binary' })
  )
  await fc.assert(fc.asyncProperty(fc.oneof(
    fc.array(piece).map(pieces => Buffer.from(pieces.join(''))),
    fc.array(piece).map(pieces => Buffer.from(`{"username":"${pieces.join('')}","password":"x"}`)),
    fc.uint8Array().map(bytes => Buffer.from(bytes)),
    fc.json().map(text => Buffer.from(text))
  ), async body => {
    const { statusCode, body: answer } = await login(body)
    return [400, 401, 429].includes(statusCode) && answer.includes('"SDR_')
  }), { numRuns: 1500 })
})
