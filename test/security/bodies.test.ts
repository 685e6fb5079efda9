import { createConnection, type Socket } from 'node:net'
import { once } from 'node:events'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { build } from '../helper.ts'
import { listen, send } from './raw-http.ts'

/** Bodies that are large, slow, never come to their end, or are refused before: over real connections. */

t.setTimeout(240_000)

const MiB = 1024 * 1024
const json = 'Content-Type: application/json'

interface Client {
  socket: Socket
  /** What the server has sent so far. */
  received: () => string
  /** Fulfilled when the server has sent this. */
  until: (text: string | RegExp) => Promise<void>
  closed: Promise<unknown>
}

/** Sends the head of a request; the body is for the test to send. */
async function begin (t: Test, port: number, target: string, headers: string[]): Promise<Client> {
  const socket = createConnection(port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  let text = ''
  socket.on('error', () => {}).on('data', chunk => { text += chunk.toString() })
  const closed = new Promise(resolve => socket.once('close', resolve))
  await once(socket, 'connect')
  socket.write([`POST ${target} HTTP/1.1`, 'Host: 127.0.0.1', ...headers, '', ''].join('\r\n'))
  return {
    socket,
    received: () => text,
    async until (expected) {
      const end = Date.now() + 60_000
      while (text.match(expected) === null) {
        if (Date.now() > end) throw new Error(`Expected ${String(expected)} but received ${text}`)
        await new Promise(resolve => setTimeout(resolve, 10))
      }
    },
    closed
  }
}

async function drained (socket: Socket, closed: Promise<unknown>): Promise<void> {
  await Promise.race([new Promise(resolve => socket.once('drain', resolve)), closed])
}

/** As many clients do it: reads the answer only when everything is sent. */
async function sendThenRead (t: Test, port: number, target: string, headers: string[], bytes: number): Promise<number> {
  const { socket, until, received, closed } = await begin(t, port, target, [...headers, `Content-Length: ${bytes}`])
  socket.pause()
  const piece = Buffer.alloc(MiB, 'x')
  for (let left = bytes; left > 0; left -= piece.length) {
    if (socket.destroyed) return 0
    if (!socket.write(piece.subarray(0, left))) await drained(socket, closed)
  }
  socket.resume()
  await until('\r\n\r\n').catch(() => {})
  socket.destroy()
  return Number(received().split(' ')[1])
}

t.test('an early refusal is read by clients that send everything first', async t => {
  const open = await build(t, { auth: 'none', 'rate-limit': '100000' })
  const closed = await build(t, { auth: 'jwt', 'rate-limit': '100000', 'login-rate-limit': '100000' }, { models: false })
  const [openPort, closedPort] = [await listen(open), await listen(closed)]
  for (const [port, target, headers, bytes, status] of [
    [openPort, '/api/generate/img2img', [json], 45 * MiB, 413],
    [openPort, '/api/generate/img2img', [json, 'Connection: close'], 45 * MiB, 413],
    [openPort, '/api/generate/txt2img', [json], 9 * MiB, 413],
    [openPort, '/api/generate/inpaint', [json], 9 * MiB, 422],
    [openPort, '/api/generate/txt2img', ['Content-Type: text/plain'], 9 * MiB, 415],
    [openPort, '/api/generate/txt2img', [json, 'Content-Encoding: gzip'], 9 * MiB, 415],
    [openPort, '/api/generate/img2img', ['Content-Type: multipart/form-data; boundary=x'], 45 * MiB, 400],
    [openPort, '/api/nothing', ['Content-Type: text/plain'], 9 * MiB, 404],
    [openPort, '/api/models', ['Content-Type: text/plain'], 9 * MiB, 405],
    [openPort, '/api/%zz', [json], 9 * MiB, 400],
    [openPort, '/api/models/refresh', [json, 'Origin: https://evil.example'], 9 * MiB, 403],
    [closedPort, '/api/auth/login', [json], 5 * MiB, 413],
    [closedPort, '/api/generate/img2img', [json], 9 * MiB, 401],
    [closedPort, '/api/generate/img2img', [json, 'Connection: close'], 9 * MiB, 401]
  ] as Array<[number, string, string[], number, number]>) {
    for (let round = 0; round < 5; round++) {
      const got = await sendThenRead(t, port, target, headers, bytes)
      if (got !== status || round === 4) t.equal(got, status, `${target} ${headers.join(' ')}`)
    }
  }

  t.test('but not for ever', async t => {
    const { closed, received } = await begin(t, openPort, '/api/generate/txt2img', [json, `Content-Length: ${9 * MiB}`])
    const began = performance.now()
    await closed
    t.match(received(), /^HTTP\/1\.1 413/, 'the answer came at once')
    t.ok(performance.now() - began < 30_000, 'and a client that sends no more is left')
    const large = await begin(t, openPort, '/api/generate/txt2img', [json, `Content-Length: ${900 * MiB}`])
    await large.closed
    t.match(large.received(), /^HTTP\/1\.1 413[^]*connection: close/i, 'what is never read to its end is closed at once')
    const chunked = await begin(t, openPort, '/api/generate/txt2img', [json, 'Transfer-Encoding: chunked'])
    const piece = Buffer.concat([Buffer.from('100000\r\n'), Buffer.alloc(MiB, ' '), Buffer.from('\r\n')])
    let sent = 0
    while (!chunked.socket.destroyed && sent < 300) {
      if (!chunked.socket.write(piece)) await drained(chunked.socket, chunked.closed)
      sent++
    }
    t.ok(sent < 200, `${sent} MiB were read`)
    t.equal((await send(openPort, '/api/health')).status, 200)
  })
})

const times = { idle: 1000, body: 1500 }

t.test('bodies may be slow, but not without end', async t => {
  const app = await build(t, { auth: 'none' }, { connectionTimes: times })
  const port = await listen(app)
  for (const type of [json, 'Content-Type: multipart/form-data; boundary=x']) {
    const slow = await begin(t, port, '/api/generate/txt2img', [type, 'Content-Length: 100000'])
    const drip = setInterval(() => slow.socket.write('x'), 100)
    await slow.until(/received \d+ bytes in \d+ s/)
    clearInterval(drip)
    t.match(slow.received(), /^HTTP\/1\.1 408[^]*SDR_REQUEST_TIMEOUT[^]*1\.5 s and another second for each 32768 bytes/, type)
  }
  const honest = await begin(t, port, '/api/generate/txt2img', [json, `Content-Length: ${300_000}`])
  for (let sent = 0; sent < 300_000; sent += 20_000) {
    honest.socket.write(' '.repeat(20_000))
    await new Promise(resolve => setTimeout(resolve, 250)) // 80 kB a second, 3.75 s in all
  }
  await honest.until(/HTTP\/1\.1 400/)
  const silent = await begin(t, port, '/api/generate/txt2img', [json, 'Content-Length: 100'])
  await silent.closed
})

t.test('a caller holds a few uploads at once, all callers a few more', async t => {
  const app = await build(t, { auth: 'jwt', 'rate-limit': '100000', 'max-upload-size': '4' })
  const port = await listen(app)
  const authorization = async (name: string) => {
    await app.accounts.create({ username: name, password: 'correct horse battery staple', role: 'user' })
    const { token } = (await app.inject({
      method: 'POST', url: '/api/auth/login', body: { username: name, password: 'correct horse battery staple' }
    })).json<{ token: string }>()
    return `Authorization: Bearer ${token}`
  }
  const [alice, bob, carol] = [await authorization('alice'), await authorization('bob'), await authorization('carol')]
  const upload = (credential: string, length: string) =>
    begin(t, port, '/api/generate/img2img', [credential, json, length])
  const room = 'Transfer-Encoding: chunked' // nobody knows how much comes: counts as much as may come
  const settled = async () => { await new Promise(resolve => setTimeout(resolve, 300)) }

  const held: Client[] = []
  for (const credential of [alice, alice, alice]) held.push(await upload(credential, room))
  await settled()
  t.same(held.map(({ received }) => received()), ['', '', ''])
  const fourth = await upload(alice, room)
  await fourth.until(/HTTP\/1\.1 429[^]*retry-after: 2[^]*SDR_RATE_LIMITED/i)
  t.equal((await send(port, '/api/generate/txt2img', { method: 'POST', headers: [alice, json], body: '{}' })).status, 400, 'a small body is not held up')
  for (const credential of [bob, bob, bob]) held.push(await upload(credential, room))
  await settled()
  t.same(held.map(({ received }) => received()), ['', '', '', '', '', ''])
  await (await upload(carol, room)).until(/HTTP\/1\.1 503[^]*retry-after: 2[^]*SDR_UNAVAILABLE/i)

  await new Promise(resolve => setTimeout(resolve, 10_000))
  await (await upload(alice, room)).until(/HTTP\/1\.1 429/)
  t.same(held.map(({ received }) => received()), ['', '', '', '', '', ''], 'nothing makes room for who has some')
  const late = await upload(carol, room)
  await settled()
  t.match(held.map(({ received }) => received()).join(''), /^HTTP\/1\.1 408[^]*SDR_REQUEST_TIMEOUT[^]*Others wait/)
  t.equal(held.filter(({ received }) => received() === '').length, 5, 'one of the others makes room')
  late.socket.write('2\r\n{}\r\n0\r\n\r\n')
  await late.until(/HTTP\/1\.1 400/)

  held[0]!.socket.destroy()
  await settled()
  const again = await upload(alice, 'Content-Length: 200000')
  again.socket.write(`{"prompt":"a","init_image":"${'A'.repeat(200_000 - 30)}"}`)
  await again.until(/HTTP\/1\.1 400/)
  await settled()
  const next = await upload(alice, room)
  await settled()
  t.equal(next.received(), '', 'what was answered has given its room back')
})

t.test('?wait= outlasts the time for which a connection may be quiet', async t => {
  const app = await build(t, { auth: 'none' }, { connectionTimes: times })
  const port = await listen(app)
  const stop = await holdQueue(app)
  const answer = send(port, '/api/generate/txt2img?wait=3', {
    method: 'POST', headers: [json], body: '{"prompt":"a","width":64,"height":64,"steps":1}'
  })
  const began = performance.now()
  const { status, body } = await answer
  t.equal(status, 202, body)
  t.ok(performance.now() - began > 2500, 'after three idle times')
  stop()
})

/** Keeps the engine busy, so that jobs wait. */
async function holdQueue (app: FastifyInstance): Promise<() => void> {
  const { jobs } = app
  const body = { prompt: 'a', width: 512, height: 512, steps: 150 }
  const { id } = (await app.inject({ method: 'POST', url: '/api/generate/txt2img', body })).json<{ id: string }>()
  return () => { jobs.cancel(id).catch(() => {}) }
}
