import { createConnection } from 'node:net'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { buildApp } from '../../app.ts'
import { as, testOptions, testPasswordCost, workspace } from '../helper.ts'
import { listen, send } from './raw-http.ts'

/** Answers that are asked for and not read, over real connections. */

t.setTimeout(120_000)

t.test('one caller cannot fill the memory with answers that it does not read', async t => {
  const { models, data } = workspace(t, { models: false })
  const app = await buildApp(testOptions({ 'models-dir': [models], 'data-dir': data, auth: 'jwt' }), { passwordCost: testPasswordCost })
  t.teardown(() => app.close())
  // More than the buffers of a connection hold.
  const text = 'x'.repeat(20 * 1024 * 1024)
  app.get('/api/large', { config: { anyCaller: true } }, async (_request, reply) => reply
    .headers({ etag: '"large"', 'cache-control': 'private, max-age=1000', 'content-disposition': 'inline; filename="large"' }).send(text))
  await app.ready()
  const port = await listen(app)
  const [bob, carol] = [await as(app, 'bob'), await as(app, 'carol')]
  const authorization = ({ token }: { token: string }) => `Authorization: Bearer ${token}`
  const ask = async (caller: { token: string }, target = '/api/large') => await send(port, target, { headers: [authorization(caller)] })

  const sockets = []
  for (let asked = 0; asked < 3; asked++) {
    const socket = createConnection(port, '127.0.0.1').on('error', () => {}).pause()
    t.teardown(() => socket.destroy())
    await once(socket, 'connect')
    socket.write(['GET /api/large HTTP/1.1', 'Host: 127.0.0.1', authorization(bob), '', ''].join('\r\n'))
    sockets.push(socket)
  }
  await sleep(500)
  const { status, headers, body } = await ask(bob)
  t.equal(status, 429)
  t.match(body.slice(0, 500), /Too many answers that are not read yet of this caller/)
  t.match(headers, { 'retry-after': '2', 'cache-control': 'no-store', 'content-length': String(body.length) })
  t.notOk('etag' in headers || 'content-disposition' in headers, 'and nothing is kept in place of the answer')
  t.equal((await ask(bob, '/api/auth/me')).status, 200, 'short answers go on')
  t.equal((await ask(carol)).status, 200, 'and so do all of another caller')

  for (const socket of sockets) socket.destroy()
  await sleep(500)
  for (let time = 0; time < 5; time++) t.equal((await ask(bob)).status, 200, 'the room comes back')
})
