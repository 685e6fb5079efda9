import { createHmac, createSign, generateKeyPairSync, randomBytes } from 'node:crypto'
import t, { type Test } from 'tap'
import { as, build, expectError, password } from '../helper.ts'
import { listen, send } from './raw-http.ts'

/**
 * Forged and stale tokens. The tests know the secret and sign for themselves: each forgery differs from a token that is
 * accepted by one thing only, so it is refused for that thing.
 */
const secret = randomBytes(32).toString('hex')
const app = await build(t, { auth: 'jwt', 'jwt-secret': secret, 'jwt-expiration': '60', 'login-rate-limit': '100000', 'rate-limit': '100000' })
const port = await listen(app)
const alice = await as(app, 'alice', 'admin')
const bob = await as(app, 'bob')
await as(app, 'root', 'admin')

type Json = Record<string, unknown>
const encode = (part: unknown) => Buffer.from(typeof part === 'string' ? part : JSON.stringify(part)).toString('base64url')
const decode = (token: string, part: number) => JSON.parse(Buffer.from(token.split('.')[part]!, 'base64url').toString()) as Json
const hmac = (input: string, key: string | Buffer = secret, hash = 'sha256') => createHmac(hash, key).update(input).digest('base64url')

const realHeader = decode(alice.token, 0)
const realClaims = decode(alice.token, 1)
const now = Math.floor(Date.now() / 1000)

function sign (header: unknown = realHeader, claims: unknown = realClaims, key: string | Buffer = secret, hash = 'sha256'): string {
  const input = `${encode(header)}.${encode(claims)}`
  return `${input}.${hmac(input, key, hash)}`
}

const use = async (token: string, target = '/api/auth/me') => await send(port, target, { headers: [`Authorization: Bearer ${token}`] })

/** Refused at a closed route, and at a public one too: a wrong credential is never a silent stranger. */
async function refuses (t: Test, token: string, what: string): Promise<void> {
  for (const target of ['/api/auth/me', '/api/health']) {
    const { status, headers, body } = await use(token, target)
    t.equal(status, 401, `${what}, ${target}: ${body}`)
    t.match(headers['www-authenticate'], /^Bearer/)
    t.match(JSON.parse(body).error.code, /^SDR_(INVALID_TOKEN|TOKEN_EXPIRED)$/)
  }
}

t.test('what the server signs is accepted, and so is the same signed here', async t => {
  t.same(realHeader, { alg: 'HS256', typ: 'JWT' })
  t.match(realClaims, { iss: 'stable-diffusion-rest', aud: 'stable-diffusion-rest', sub: alice.id, jti: String, sid: String, iat: Number, exp: Number, typ: 'access' })
  t.equal(Object.keys(realClaims).length, 8, 'and tells nothing else, above all no role')
  t.equal((realClaims.exp as number) - (realClaims.iat as number), 3600)
  t.equal((await use(alice.token)).status, 200)
  t.equal((await use(sign())).status, 200)
  t.match(JSON.parse((await use(sign({ ...realHeader, kid: '../../../../dev/null' }))).body), { username: 'alice' }, 'nobody asks for a key id')
})

t.test('algorithms', async t => {
  const [, payload] = alice.token.split('.') as [string, string, string]
  const signature = alice.token.split('.')[2]!
  for (const alg of ['none', 'None', 'NONE', 'nOnE', 'none ', '', 'hs256', 'HS256 ', 'null', null, undefined, 0, true, ['HS256'], { toString: 'HS256' }]) {
    const header = encode({ ...realHeader, alg })
    await refuses(t, `${header}.${payload}.`, `alg ${JSON.stringify(alg)} without a signature`)
    await refuses(t, `${header}.${payload}.${hmac(`${header}.${payload}`)}`, `alg ${JSON.stringify(alg)} with one`)
    await refuses(t, `${header}.${payload}.${signature}`, `alg ${JSON.stringify(alg)} with that of another header`)
  }
  for (const [alg, hash] of [['HS384', 'sha384'], ['HS512', 'sha512'], ['HS256', 'sha512'], ['HS512', 'sha256']] as const) {
    await refuses(t, sign({ ...realHeader, alg }, realClaims, secret, hash), `${alg} made with ${hash}: the algorithm is pinned`)
  }
  const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
  for (const alg of ['RS256', 'RS384', 'RS512', 'PS256', 'ES256', 'EdDSA']) {
    const input = `${encode({ ...realHeader, alg })}.${payload}`
    await refuses(t, `${input}.${createSign('sha256').update(input).sign(privateKey, 'base64url')}`, `${alg} signed with a key of one's own`)
    await refuses(t, `${input}.${hmac(input)}`, `${alg} with an HMAC of the secret`)
  }
  for (const type of ['spki', 'pkcs1'] as const) {
    const pem = publicKey.export({ type, format: 'pem' })
    await refuses(t, sign(realHeader, realClaims, pem as string), `an HMAC with a public key (${type})`)
  }
})

t.test('keys that the token names or brings', async t => {
  const { publicKey, privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
  const own = { kty: 'oct', k: encode('key of the attacker'), alg: 'HS256' }
  for (const [header, key] of [
    [{ kid: '/dev/null' }, ''], [{ kid: '../../../../../../dev/null' }, '\0'], [{ kid: "' UNION SELECT 'key of the attacker" }, 'key of the attacker'],
    [{ kid: '| sleep 1' }, 'x'], [{ kid: '' }, ''], [{ kid: null }, ''], [{ kid: { toString: 1 } }, ''], [{ kid: 'jwt-secret' }, 'jwt-secret'],
    [{ jku: `http://127.0.0.1:${port}/api/health` }, 'key of the attacker'], [{ x5u: `http://127.0.0.1:${port}/api/health` }, 'key of the attacker'],
    [{ jwk: own }, 'key of the attacker'], [{ x5c: [encode('certificate')] }, 'certificate'], [{ x5t: 'x' }, 'x']
  ] as Array<[Json, string]>) {
    await refuses(t, sign({ ...realHeader, ...header }, realClaims, key), JSON.stringify(header))
  }
  const header = encode({ ...realHeader, alg: 'RS256', jwk: publicKey.export({ format: 'jwk' }) })
  const input = `${header}.${encode(realClaims)}`
  await refuses(t, `${input}.${createSign('sha256').update(input).sign(privateKey, 'base64url')}`, 'a key in the token')
  for (const key of ['', 'secret', 'stable-diffusion-rest', secret.slice(0, 32), `${secret}\n`, Buffer.from(secret, 'hex')]) {
    await refuses(t, sign(realHeader, realClaims, key), `a guessed secret ${String(key).slice(0, 8)}`)
  }
})

t.test('critical extensions that nobody here understands', async t => {
  for (const crit of [['exp'], ['b64'], ['x-policy'], [], 'x-policy', ['alg'], [1], null, {}, ['x-policy', 'x-policy']]) {
    const token = sign({ ...realHeader, crit, 'x-policy': 'none', b64: false })
    if (crit === null) t.equal((await use(token)).status, 200, 'null is none')
    else await refuses(t, token, `crit ${JSON.stringify(crit)}`)
  }
})

t.test('signatures', async t => {
  const [header, payload, signature] = alice.token.split('.') as [string, string, string]
  const last = signature.at(-1)!
  for (const token of [
    `${header}.${payload}`, `${header}.${payload}.`, `${header}..${signature}`, `.${payload}.${signature}`, '..', '...', '.', header, `${header}.`,
    `${header}.${payload}.${signature}.`, `${header}.${payload}.${signature}.x`, `x.${header}.${payload}.${signature}`, `${header}.${payload}.${payload}.${signature}`,
    `${header}.${payload}.${signature}=`, `${header}.${payload}.${signature}==`, `${header}=.${payload}.${signature}`,
    `${header}.${payload}.${signature.slice(0, -1)}`, `${header}.${payload}.${signature.slice(1)}`, `${header}.${payload}.${signature}A`, `${header}.${payload}.${signature}${signature}`,
    `${header}.${payload}.${signature.slice(0, -1)}${last === 'A' ? 'Q' : 'A'}`, `${header}.${payload}.${signature.toUpperCase()}`,
    `${header}.${encode({ ...realClaims, sub: bob.id })}.${signature}`, `${header}.${encode({ ...realClaims, role: 'admin' })}.${signature}`,
    `${encode({ alg: 'HS256' })}.${payload}.${signature}`, `${header}.${payload}.${Buffer.alloc(32).toString('base64url')}`,
    `${header}.${payload}.null`, `${header}.${payload}.undefined`, `${header} .${payload}.${signature}`, `${header}%2e${payload}%2e${signature}`,
    `${encode('null')}.${payload}.${signature}`, `${encode('[]')}.${payload}.${signature}`, `${encode('{')}.${payload}.${signature}`,
    JSON.stringify({ header, payload, signature }), 'null', 'undefined', 'true', '[object Object]', '0', 'x'.repeat(4000), `${'e30.'.repeat(900)}e30`
  ]) await refuses(t, token, token.replaceAll(header, 'H').replaceAll(payload, 'P').replaceAll(signature, 'S').slice(0, 40))
  for (const claims of ['null', '[]', '"x"', '1', '{', '']) await refuses(t, sign(realHeader, claims), `claims ${claims}`)
  t.equal((await use('x'.repeat(8000))).status, 401, 'too long to be looked at')
})

t.test('claims', async t => {
  for (const name of Object.keys(realClaims)) {
    const { [name]: _, ...others } = realClaims
    await refuses(t, sign(realHeader, others), `without ${name}`)
    for (const value of [null, '', [], {}, true, [realClaims[name]]]) {
      // Several audiences are allowed by the standard; this server's is among them.
      if (name === 'aud' && JSON.stringify(value) === JSON.stringify([realClaims.aud])) continue
      await refuses(t, sign(realHeader, { ...realClaims, [name]: value }), `${name} ${JSON.stringify(value)}`)
    }
  }
  for (const [name, value] of [
    ['iss', 'stable-diffusion-rest '], ['iss', 'https://stable-diffusion-rest'], ['iss', ['stable-diffusion-rest', 'https://evil.example']], ['iss', 'STABLE-DIFFUSION-REST'],
    ['aud', 'other'], ['aud', ['other']], ['aud', 'stable-diffusion-rest.evil.example'],
    ['typ', 'refresh'], ['typ', 'ACCESS'], ['typ', 'JWT'], ['typ', 'access '],
    ['sub', bob.id], ['sub', 'alice'], ['sub', 'operator'], ['sub', 'guest'], ['sub', '%'], ['sub', "' OR 1=1 --"], ['sub', '__proto__'], ['sub', 0],
    ['sid', decode(bob.token, 1).sid], ['sid', '0190b5a0-0000-7000-8000-000000000000'], ['sid', '%'], ['sid', "' OR '1'='1"], ['sid', '__proto__'],
    ['nbf', now + 3600], ['nbf', 1e300], ['nbf', 'tomorrow'], ['nbf', null]
  ] as Array<[string, unknown]>) await refuses(t, sign(realHeader, { ...realClaims, [name]: value }), `${name} ${JSON.stringify(value)}`)
  t.equal((await use(sign(realHeader, { ...realClaims, nbf: now - 1, role: 'admin', permissions: ['users:manage'] }))).status, 200)
  const asBob = sign(realHeader, { ...decode(bob.token, 1), role: 'admin', permissions: ['users:manage'], admin: true })
  t.match(JSON.parse((await use(asBob)).body), { role: 'user', permissions: ['models:read', 'generate', 'queue:read'] }, 'the role comes from the store')
  t.equal((await use(asBob, '/api/users')).status, 403)
})

t.test('times', async t => {
  for (const exp of [now - 60, now - 6, 0, -1, -1e15, 1, now + 600.5, now + 0.5, 1e300, Number.MAX_SAFE_INTEGER, 2 ** 53, 9e15, `${now + 600}`, '9999999999', '1e300', [now + 600],
    now * 1000 + 600_000]) {
    await refuses(t, sign(realHeader, { ...realClaims, exp }), `exp ${JSON.stringify(exp)}`)
  }
  for (const [iat, exp] of [
    [now - 7200, now + 60], [now + 600, now + 1200], [now + 0.5, now + 60], [-1e15, 1e15], [0, now + 60], [1e300, 1e300]
  ]) {
    await refuses(t, sign(realHeader, { ...realClaims, iat, exp }), `iat ${iat}, exp ${exp}: longer than a token of this server lives, or not from the past`)
  }
  const expired = JSON.parse((await use(sign(realHeader, { ...realClaims, iat: now - 120, exp: now - 60 }))).body)
  t.equal(expired.error.code, 'SDR_TOKEN_EXPIRED', 'a client can tell that it should refresh')
  t.equal((await use(sign(realHeader, { ...realClaims, iat: now - 1, exp: now + 3599 }))).status, 200)
})

t.test('a token in any other place is none', async t => {
  for (const headers of [[`Cookie: token=${alice.token}`], [`Cookie: authorization=Bearer ${alice.token}`], [`X-Access-Token: ${alice.token}`], [`Proxy-Authorization: Bearer ${alice.token}`],
    [`Token: ${alice.token}`], [`X-Authorization: Bearer ${alice.token}`]]) {
    t.match(JSON.parse((await send(port, '/api/auth/me', { headers })).body), { error: { code: 'SDR_UNAUTHENTICATED' } })
  }
  for (const query of ['token', 'access_token', 'jwt', 'authorization', 'api_key', 'key']) {
    t.equal((await send(port, `/api/auth/me?${query}=${alice.token}`)).status, 401, query)
  }
  for (const header of [alice.token, `Token ${alice.token}`, `JWT ${alice.token}`, `Bearer: ${alice.token}`, `Bearer ${alice.token} x`, `Bearer,${alice.token}`, 'Bearer', 'Bearer ',
    `Bearer "${alice.token}"`, `Bearer\t${alice.token}`, `Basic ${alice.token}`, `Basic ${encode(`alice:${password}`)}`, `Basic ${encode(`x:${alice.token}`)}`, 'Negotiate x', 'Digest username="alice"']) {
    t.equal((await send(port, '/api/auth/me', { headers: [`Authorization: ${header}`] })).status, 401, header.slice(0, 12))
  }
  t.equal((await send(port, '/api/auth/me', { headers: [`authorization: bearer   ${alice.token}`] })).status, 200, 'scheme and header name in any case')
})

t.test('refresh tokens and access tokens do not stand in for each other', async t => {
  await refuses(t, alice.refreshToken, 'a refresh token as an access token')
  for (const token of [alice.token, 'sdrr_', `sdrr_${'A'.repeat(43)}`, '%', "' OR 1=1 --"]) {
    const { status, body } = await refresh(token) // 400: longer than one can be
    t.ok(status === 401 || status === 400, body)
  }
  t.equal((await send(port, '/api/auth/me', { headers: [`X-API-Key: ${alice.refreshToken}`] })).status, 401)
  t.equal((await send(port, '/api/auth/me', { headers: [`X-API-Key: ${alice.token}`] })).status, 401)
})

async function refresh (token: string) {
  return await send(port, '/api/auth/refresh', { method: 'POST', headers: ['Content-Type: application/json'], body: JSON.stringify({ refresh_token: token }) })
}

t.test('tokens after logout, password change, role change, disable and delete', async t => {
  const carol = await as(app, 'carol')
  t.equal((await use(carol.token)).status, 200)
  t.equal((await carol({ method: 'POST', url: '/api/auth/logout' })).statusCode, 204)
  await refuses(t, carol.token, 'after logout (and nothing was cached)')
  t.equal((await refresh(carol.refreshToken)).status, 401)

  const [first, second, third] = [await as(app, 'carol'), await as(app, 'carol'), await as(app, 'carol')]
  const [session] = (await second('/api/auth/sessions')).json().sessions.filter(({ current }: { current: boolean }) => current)
  t.equal((await first({ method: 'DELETE', url: `/api/auth/sessions/${session.id}` })).statusCode, 204)
  await refuses(t, second.token, 'after its session was ended from another one')

  const change = { method: 'POST', url: '/api/auth/password', body: { current_password: password, new_password: 'a new long password' } } as const
  t.equal((await first({ ...change, body: { ...change.body, current_password: 'wrong' } })).statusCode, 403, 'not 401: a client would end its session')
  t.equal((await first(change)).statusCode, 204)
  t.equal((await use(first.token)).status, 200, 'the session that changed the password goes on')
  await refuses(t, third.token, 'after a password change elsewhere')
  t.equal((await app.inject({ method: 'POST', url: '/api/auth/login', body: { username: 'carol', password } })).statusCode, 401)

  const patch = async (body: Json) => await alice({ method: 'PATCH', url: `/api/users/${first.id}`, body })
  t.equal((await use(first.token, '/api/users')).status, 403)
  await patch({ role: 'admin' })
  t.equal((await use(first.token, '/api/users')).status, 200, 'a new role counts at once')
  await patch({ role: 'user' })
  t.equal((await use(first.token, '/api/users')).status, 403, 'and so does its loss')

  await patch({ password })
  await refuses(t, first.token, 'after an administrator reset the password')
  const again = await as(app, 'carol')
  await patch({ disabled: true })
  await refuses(t, again.token, 'after disabling')
  t.equal((await refresh(again.refreshToken)).status, 401)
  await patch({ disabled: false })
  await refuses(t, again.token, 'enabling gives no old session back')
  const last = await as(app, 'carol')
  await alice({ method: 'DELETE', url: `/api/users/${first.id}` })
  await refuses(t, last.token, 'after deletion')
  t.equal((await refresh(last.refreshToken)).status, 401)
  await as(app, 'carol')
  await refuses(t, last.token, 'another account of the same name is another account')
})

t.test('tokens of another server', async t => {
  const foreign = sign(realHeader, realClaims, randomBytes(32))
  await refuses(t, foreign, 'with another secret')
  const other = await build(t, { auth: 'jwt', 'jwt-secret': secret }, { models: false })
  const stranger = await as(other, 'alice', 'admin')
  t.equal((await stranger('/api/auth/me')).statusCode, 200)
  await refuses(t, stranger.token, 'with the same secret and name: the session is not known here')
})

t.test('API keys that are nearly right', async t => {
  const { json: made } = await alice({ method: 'POST', url: '/api/auth/keys', body: { name: 'alice' } })
  const { key: aliceKey } = made<{ key: string }>()
  const { key: bobKey } = (await bob({ method: 'POST', url: '/api/auth/keys', body: { name: 'bob' } })).json<{ key: string }>()
  const [, aliceId, aliceSecret] = aliceKey.split('_') as [string, string, string]
  const bobSecret = bobKey.split('_').slice(2).join('_')
  const rest = aliceKey.slice(`sdr_${aliceId}_`.length)
  const basic = (text: string) => `Authorization: Basic ${Buffer.from(text).toString('base64')}`
  for (const header of [`X-API-Key: ${aliceKey}`, `Authorization: Bearer ${aliceKey}`, basic(`alice:${aliceKey}`), basic(`:${aliceKey}`), basic(`bob:${aliceKey}`)]) {
    t.match(JSON.parse((await send(port, '/api/auth/me', { headers: [header] })).body), { username: 'alice', via: 'api-key' }, header.slice(0, 21))
  }
  for (const key of [
    `sdr_${aliceId}_${bobSecret}`, `sdr_${aliceId}_`, `sdr_${aliceId}`, 'sdr_', `sdr_${aliceId}_${rest.slice(0, -1)}`, `sdr_${aliceId}_${rest}A`, `SDR_${aliceId}_${rest}`,
    `sdr_${aliceId.toUpperCase()}x_${rest}`, `sdr_%_${rest}`, `sdr_' OR 1=1 --_${rest}`, `sdr_${aliceId}_${rest.toLowerCase()}`, `${aliceKey},${bobKey}`, `${aliceKey}.`, aliceSecret,
    `sdr_${'0'.repeat(16)}_${rest}`, `${aliceKey}${aliceKey}`
  ]) {
    t.equal((await send(port, '/api/health', { headers: [`X-API-Key: ${key}`] })).status, 401, key.slice(0, 24))
  }
})

t.test('OAuth 2.0 gets the tokens of login and refresh, and its errors', async t => {
  const app = await build(t, { auth: 'jwt', 'login-rate-limit': '1000' })
  const alice = await as(app, 'alice')
  const token = async (fields: Record<string, string> | string, headers = {}) => await app.inject({
    method: 'POST',
    url: '/api/auth/token',
    headers: { 'content-type': 'application/x-www-form-urlencoded', ...headers },
    body: typeof fields === 'string' ? fields : new URLSearchParams(fields).toString()
  })
  const grant = { grant_type: 'password', username: 'alice', password }
  // Swagger UI sends the empty name and secret of a client as HTTP Basic.
  const first = await token({ ...grant, scope: '', client_id: 'x' }, { authorization: `Basic ${Buffer.from(':').toString('base64')}` })
  t.equal(first.statusCode, 200, first.body)
  t.match(first.json(), { token_type: 'Bearer', expires_in: 3600 - 1, refresh_token: /^sdrr_/ })
  const me = async (access: string) => (await app.inject({ url: '/api/auth/me', headers: { authorization: `Bearer ${access}` } })).json()
  t.match(await me(first.json().access_token), { username: 'alice', via: 'jwt' })

  const next = await token({ grant_type: 'refresh_token', refresh_token: first.json().refresh_token })
  t.match(await me(next.json().access_token), { username: 'alice' })
  expectError(t, await token({ grant_type: 'refresh_token', refresh_token: first.json().refresh_token }), 401, 'SDR_INVALID_TOKEN', /used before/)

  expectError(t, await token({ ...grant, password: 'wrong' }), 401, 'SDR_INVALID_CREDENTIALS')
  expectError(t, await token({ grant_type: 'password', username: 'alice' }), 400, 'SDR_INVALID_REQUEST', /for password but received nothing/)
  expectError(t, await token({ grant_type: 'client_credentials' }), 400, 'SDR_INVALID_REQUEST', /one of password, refresh_token for grant_type/)
  expectError(t, await token('grant_type=password&username=alice&username=bob&password=x'), 400, 'SDR_INVALID_REQUEST', /one value for username but received several/)
  expectError(t, await token(`username=${'x'.repeat(17_000)}`), 413, 'SDR_BODY_TOO_LARGE')
  expectError(t, await token({ ...grant, username: 'alice\0' }), 400, 'SDR_INVALID_REQUEST')
  expectError(t, await alice({ method: 'POST', url: '/api/auth/login', headers: { 'content-type': 'application/x-www-form-urlencoded' }, body: 'username=alice' }), 415, 'SDR_UNSUPPORTED_MEDIA_TYPE')
})
