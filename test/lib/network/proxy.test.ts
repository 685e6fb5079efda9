import { execFileSync, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer, request as httpRequest, type IncomingMessage } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import { connect, createServer as createTcpServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { requestFile } from '../../../lib/models/pull/request.ts'
import { AllowList } from '../../../lib/network/allow-list.ts'
import { ask } from '../../../lib/network/ask.ts'
import { checkProxies, proxyFor } from '../../../lib/network/proxy.ts'
import { post } from '../../../lib/jobs/webhooks/delivery.ts'
import { without } from '../../fixtures/pam/system.ts'

const variables = ['HTTPS_PROXY', 'https_proxy', 'HTTP_PROXY', 'http_proxy', 'ALL_PROXY', 'all_proxy', 'NO_PROXY', 'no_proxy']
t.beforeEach(() => { for (const name of variables) delete process.env[name] })

const hosts = (...entries: string[]) => new AllowList(entries, '--pull-hosts')
const signal = () => AbortSignal.timeout(20_000)
const urlOf = (server: Server) => `127.0.0.1:${(server.address() as AddressInfo).port}`

async function listen<S extends Server> (t: Test, server: S): Promise<S> {
  const sockets = new Set<Socket>()
  server.on('connection', socket => sockets.add(socket))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return server
}

/** A proxy as a company has it; it resolves each name to this machine. */
async function proxy (t: Test, { authorization }: { authorization?: string } = {}) {
  const asked: Array<{ line: string, headers: IncomingMessage['headers'] }> = []
  const mayPass = (request: IncomingMessage) => {
    asked.push({ line: `${request.method} ${request.url}`, headers: request.headers })
    return authorization === undefined || request.headers['proxy-authorization'] === authorization
  }
  const server = createServer((request, response) => {
    if (!mayPass(request)) return response.writeHead(407, { 'proxy-authenticate': 'Basic realm="company"' }).end('a page')
    const { port, pathname } = new URL(request.url!)
    request.pipe(httpRequest({ host: '127.0.0.1', port, path: pathname, method: request.method, headers: request.headers }, answer => {
      response.writeHead(answer.statusCode!, answer.headers)
      answer.pipe(response)
    }))
  })
  server.on('connect', (request: IncomingMessage, client: Socket) => {
    if (!mayPass(request)) return client.end('HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="company"\r\nContent-Length: 6\r\n\r\na page')
    const target = connect(Number(request.url!.split(':').at(-1)), '127.0.0.1', () => {
      client.write('HTTP/1.1 200 Connection established\r\n\r\n')
      client.pipe(target).pipe(client)
    })
    for (const socket of [client, target]) socket.on('error', () => { client.destroy(); target.destroy() })
  })
  return { asked, address: urlOf(await listen(t, server)) }
}

async function textOf (response: IncomingMessage): Promise<string> {
  let text = ''
  for await (const chunk of response) text += String(chunk)
  return text
}

t.test('sends http through the proxy in absolute form, and hides the credentials from the host', async t => {
  const seen: IncomingMessage[] = []
  const host = urlOf(await listen(t, createServer((request, response) => { seen.push(request); response.end('hello') })))
  const { asked, address } = await proxy(t, { authorization: `Basic ${Buffer.from('ann:p@ss').toString('base64')}` })
  process.env.http_proxy = `http://ann:p%40ss@${address}/`
  // A name that is not known here is for the proxy to resolve.
  const url = new URL(`http://files.invalid:${host.split(':')[1]}/a`)
  const { response } = await requestFile(url, {}, { hosts: hosts('files.invalid'), tokens: new Map(), hub: url }, signal())
  t.equal(await textOf(response), 'hello')
  t.equal(asked[0]!.line, `GET ${url.href}`)
  t.equal(seen[0]!.headers.host, url.host)

  t.equal(await post({ id: 'x', body: '{}' }, { url: url.href, hosts: hosts('files.invalid'), secret: 's', signal: signal() }), 200, 'so do webhooks')
  t.equal(asked[1]!.line, `POST ${url.href}`)

  process.env.http_proxy = `http://ann:wrong@${address}`
  const failed = requestFile(url, {}, { hosts: hosts('files.invalid'), tokens: new Map(), hub: url }, signal())
  await t.rejects(failed, { name: 'NetworkError', isPassing: false, message: `The proxy http://${address} (http_proxy) answers 407: it does not accept the user name and password of that address.` })
  delete process.env.http_proxy
  process.env.HTTP_PROXY = address
  await t.rejects(post({ id: 'x', body: '{}' }, { url: url.href, hosts: hosts('files.invalid'), secret: 's', signal: signal() }),
    { name: 'NetworkError', message: /\(HTTP_PROXY\) answers 407: it wants a user name and a password/ })
})

t.test('sends https through a tunnel, and checks the certificate of the host', { skip: without('openssl', spawnSync('openssl', ['version']).status === 0) }, async t => {
  const folder = t.testdir({})
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', '/CN=files.invalid',
    '-addext', 'subjectAltName=DNS:files.invalid', '-keyout', join(folder, 'key'), '-out', join(folder, 'cert')], { stdio: 'ignore' })
  const [key, cert] = [readFileSync(join(folder, 'key')), readFileSync(join(folder, 'cert'))]
  let seen = 0
  const { port } = (await listen(t, createHttpsServer({ key, cert }, (_, response) => { seen++; response.end('hello') }))).address() as AddressInfo
  const { asked, address } = await proxy(t, { authorization: `Basic ${Buffer.from('ann:pass').toString('base64')}` })
  process.env.HTTPS_PROXY = `http://ann:pass@${address}`
  const question = { hosts: hosts('127.0.0.1'), signal: signal(), headers: {} }
  const trusting = { ...question, ca: cert }
  const url = new URL(`https://files.invalid:${port}/a`)
  t.equal(await textOf(await ask(url, trusting)), 'hello')
  t.equal(asked[0]!.line, `CONNECT files.invalid:${port}`)
  await t.rejects(ask(url, question), { code: 'DEPTH_ZERO_SELF_SIGNED_CERT' })
  for (const other of [`https://other.invalid:${port}`, `https://127.0.0.1:${port}`]) {
    await t.rejects(ask(new URL(other), trusting), { code: 'ERR_TLS_CERT_ALTNAME_INVALID' }, other)
  }
  t.equal(seen, 1)

  process.env.HTTPS_PROXY = `http://${address}`
  await t.rejects(ask(url, trusting), { name: 'NetworkError', message: /answers 407: it wants a user name/ })
  process.env.NO_PROXY = 'files.invalid'
  await t.rejects(ask(url, trusting), { code: 'ENOTFOUND' }, 'without the proxy nothing knows that name')
})

t.test('refuses addresses behind a proxy that the server may not reach', async t => {
  const { asked, address } = await proxy(t)
  Object.assign(process.env, { http_proxy: `http://${address}`, https_proxy: `http://${address}` })
  for (const url of ['https://127.0.0.1/x', 'https://169.254.169.254/x', 'https://[::1]/x', 'https://localhost/x', 'http://10.0.0.1/']) {
    await t.rejects(ask(new URL(url), { hosts: hosts('localhost'), signal: signal(), headers: {} }), { name: 'PrivateAddressError' }, url)
  }
  t.same(asked, [])
})

t.test('names an unusable proxy without its password, and limits the wait for it', async t => {
  const url = new URL('https://files.invalid/x')
  const question = { hosts: hosts(), signal: signal(), headers: {} }
  const closed = await listen(t, createTcpServer())
  const address = urlOf(closed)
  closed.close()
  process.env.https_proxy = `http://ann:hush@${address}`
  await t.rejects(ask(url, question), { name: 'NetworkError', isPassing: false, message: `The proxy http://${address} (https_proxy) can't be reached (ECONNREFUSED).` })
  process.env.https_proxy = 'http://ann:hush@proxy.invalid:3128'
  await t.rejects(ask(url, question), { message: /^The proxy http:\/\/proxy\.invalid:3128 \(https_proxy\) can't be reached \(E[A-Z_]+\)\.$/ })
  const silent = await listen(t, createTcpServer())
  const gone = once(silent, 'connection').then(async ([socket]) => await once((socket as Socket).resume(), 'close'))
  process.env.https_proxy = `http://ann:hush@${urlOf(silent)}`
  await t.rejects(ask(url, { ...question, proxyTimeout: 200 }), { name: 'NetworkError', isPassing: true, message: /did not answer within 0\.2 s\.$/ })
  await gone
  t.pass('and the connection to it is closed')
  await t.rejects(ask(url, { ...question, signal: AbortSignal.timeout(200) }), { name: 'TimeoutError' }, 'who asked may give up sooner')
})

t.test('reads the variables as curl does', async t => {
  const origin = (url: string, environment: Record<string, string>) => proxyFor(new URL(url), environment)?.url.origin
  t.equal(origin('https://a.example/', {}), undefined)
  t.equal(origin('https://a.example/', { HTTP_PROXY: 'http://p:1' }), undefined)
  t.equal(origin('https://a.example/', { HTTPS_PROXY: 'p:1' }), 'http://p:1', 'a scheme is not needed')
  t.equal(origin('https://a.example/', { HTTPS_PROXY: 'http://p:1', https_proxy: 'https://q:2' }), 'https://q:2')
  t.equal(origin('https://a.example/', { HTTPS_PROXY: '' }), undefined)
  t.equal(origin('http://a.example/', { ALL_PROXY: 'http://p:1' }), 'http://p:1')
  t.equal(origin('http://a.example/', { ALL_PROXY: 'http://p:1', NO_PROXY: '*', no_proxy: 'b.example' }), 'http://p:1')

  const table: Array<[list: string, direct: string[], proxied: string[]]> = [
    ['*', ['a.example', '10.1.1.1'], []],
    ['a.example, .b.example *.c.example', ['a.example', 'x.A.example', 'a.example.', 'b.example', 'x.b.example', 'x.y.c.example'], ['xa.example', 'example', 'a.example.com']],
    ['a.example:8443', ['a.example:8443', 'x.a.example:8443'], ['a.example']],
    ['10.0.0.0/8,192.0.2.7,fd00::/8,[::1]:8080,2001:db8::7', ['10.9.9.9', '192.0.2.7', '[fd12::1]', '[::1]:8080', '[2001:db8:0::7]'], ['11.0.0.1', '192.0.2.70', '[fe80::1]', '[::1]', 'x.192.0.2.7.example']],
    ['1,10.0.0.0/99,/,:,.,:80,[', [], ['10.0.0.1', 'a.example']]
  ]
  for (const [list, direct, proxied] of table) {
    const of = (host: string) => origin(`https://${host}/`, { https_proxy: 'http://p:1', no_proxy: list })
    for (const host of direct) t.equal(of(host), undefined, `${host} in ${list}`)
    for (const host of proxied) t.equal(of(host), 'http://p:1', `${host} not in ${list}`)
  }
})

t.test('refuses a wrong variable at the start, and does not repeat its value', async t => {
  for (const value of ['socks5://ann:hush@p:1080', 'http://ann:hush@p/path', 'http://', 'http://ann:hu%sh@p:1', 'http://ann:hush@p:99999', 'hush '.repeat(2000)]) {
    t.throws(() => checkProxies({ HTTPS_PROXY: value, NO_PROXY: '*' }), { exitCode: 2, message: /^Expected http:\/\/host:port .* HTTPS_PROXY(?!.*hu)/ }, value.slice(0, 40))
  }
  t.throws(() => checkProxies({ all_proxy: 'socks5://p' }), { message: /socks5:\/\/ is not supported/ })
  t.doesNotThrow(() => checkProxies({ http_proxy: 'p', HTTPS_PROXY: 'https://u:p@[::1]:1/' }))
})
