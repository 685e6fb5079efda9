import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { request } from 'node:https'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { parse } from 'yaml'
import { packageRoot } from '../../lib/util/package-root.ts'
import { password, workspace } from '../helper.ts'
import { runProgram, startServer, until } from '../server-process.ts'

const deploy = (name: string) => join(packageRoot, 'deploy', name)
const lacks = (program: string, argument: string) => process.env.CI !== 'true' && spawnSync(program, [argument]).error !== undefined && `${program} is not installed`

async function freePort (): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  return port
}

interface Answer {
  status: number
  body: string
  /** Milliseconds since the request at which each part came. */
  parts: Array<{ at: number, text: string }>
}

/** Asks the proxy, whose certificate nobody signed. */
async function ask (url: string, { method = 'GET', headers = {}, body }: { method?: string, headers?: Record<string, string>, body?: string } = {}): Promise<Answer> {
  const start = performance.now()
  const outgoing = request(url, { method, headers, rejectUnauthorized: false, agent: false }).end(body)
  const [response] = await once(outgoing, 'response') as [import('node:http').IncomingMessage]
  const parts: Answer['parts'] = []
  for await (const chunk of response) parts.push({ at: performance.now() - start, text: String(chunk) })
  return { status: response.statusCode!, body: parts.map(({ text }) => text).join(''), parts }
}

t.test('nginx in front: TLS, client addresses, events as they come, uploads', { skip: lacks('nginx', '-v') }, async t => {
  const { folder, models, data } = workspace(t)
  await runProgram(['user', 'add', 'alice', '--password-stdin', '--data-dir', data], { input: password })
  const server = await startServer(t, ['--models-dir', models, '--data-dir', data, '--auth', 'jwt', '--trust-proxy', '127.0.0.1'])
  const [certificate, key] = [join(folder, 'cert.pem'), join(folder, 'key.pem')]
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2', '-subj', '/CN=images.example', '-keyout', key, '-out', certificate], { stdio: 'ignore' })

  const port = await freePort()
  // The example as it is, but for where things are on this machine.
  const site = readFileSync(deploy('nginx.conf'), 'utf8')
    .replace('127.0.0.1:8080', new URL(server.url).host).replace('listen 443', `listen 127.0.0.1:${port}`).replace(/^.*listen \[::\].*\n/m, '')
    .replace('/etc/ssl/certs/images.example.pem', certificate).replace('/etc/ssl/private/images.example.key', key)
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(name => `${name}_temp_path ${join(folder, name)};`).join('\n')
  writeFileSync(join(folder, 'nginx.conf'), `daemon off;\nmaster_process off;\npid ${join(folder, 'pid')};\nerror_log stderr warn;\nevents {}\nhttp {\naccess_log off;\n${temporary}\n${site}\n}\n`)
  const nginx = spawn('nginx', ['-p', folder, '-c', join(folder, 'nginx.conf')], { stdio: ['ignore', 'ignore', 'pipe'] })
  let complaints = ''
  nginx.stderr.setEncoding('utf8').on('data', (text: string) => { complaints += text })
  t.teardown(async () => {
    if (nginx.exitCode === null && nginx.kill('SIGKILL')) await once(nginx, 'exit')
  })
  const proxy = `https://127.0.0.1:${port}`
  await until(async () => await ask(`${proxy}/api/health`).then(({ status }) => status === 200, () => nginx.exitCode !== null && t.bailout(complaints)))

  const json = { 'content-type': 'application/json' }
  const post = (path: string, body: object, headers = {}) => ask(proxy + path, { method: 'POST', headers: { ...json, ...headers }, body: JSON.stringify(body) })
  const login = JSON.parse((await post('/api/auth/login', { username: 'alice', password }, { 'x-forwarded-for': '203.0.113.9' })).body)
  const bearer = { authorization: `Bearer ${login.token}` }
  t.match(server.log.find(({ msg, event }) => msg === 'audit' && event === 'login'), { address: '127.0.0.1' }, 'the address is the one that nginx saw, not the one the client made up')

  const job = JSON.parse((await post('/api/generate/txt2img', { prompt: 'a fox', width: 128, steps: 60, seed: 1 }, bearer)).body)
  const events = await ask(`${proxy}/api/queue/job/${job.id}/events`, { headers: bearer })
  t.match(events.parts.at(-1)!.text, /event: done/)
  t.ok(events.parts.length >= 10, `the events came in ${events.parts.length} parts`)
  const whole = events.parts.at(-1)!.at
  t.ok(events.parts.filter(({ at }) => at < whole * 0.8).length >= 5, 'and not all at the end')

  const image = 'A'.repeat(8 * 1024 * 1024)
  t.equal((await post('/api/generate/img2img', { prompt: 'x', init_image: image }, bearer)).status, 400, 'what is larger than nginx takes unless told arrives, and is no image')
  t.equal((await ask(`${proxy}/api/generate/img2img`, { method: 'POST', headers: { ...json, ...bearer, 'content-length': String(65 * 1024 * 1024) } }).catch(() => ({ status: 413 }))).status, 413)
  t.equal((await ask(`${proxy}/metrics`, { headers: bearer })).status, 404)
})

t.test('the systemd unit is one, and a hardened one', { skip: lacks('systemd-analyze', '--version') }, async t => {
  const { folder } = workspace(t, { models: false })
  const [plain, dropIn] = ['stable-diffusion-rest.service', 'engine-user.conf'].map(name => readFileSync(deploy(name), 'utf8'))
  // As systemd reads a drop-in: after the unit.
  for (const [text, threshold] of [[plain!, 25], [plain! + dropIn!, 30]] as const) {
    // verify looks for the program.
    const unit = join(folder, 'stable-diffusion-rest.service')
    writeFileSync(unit, text.replace('/usr/local/bin/stable-diffusion-rest', process.execPath))
    const verified = spawnSync('systemd-analyze', ['verify', '--man=no', unit], { encoding: 'utf8' })
    t.notMatch(verified.stderr, /stable-diffusion-rest\.service.*(Unknown|Invalid|Failed|not executable)/i, verified.stderr)
    const security = spawnSync('systemd-analyze', ['security', '--offline=true', `--threshold=${threshold}`, unit], { encoding: 'utf8' })
    t.equal(security.status, 0, `${security.stdout.split('\n').slice(-3).join('\n')}${security.stderr}`)
  }
})

t.test('systemd is told when the server is ready and when it stops', { skip: lacks('systemd-notify', '--version') }, async t => {
  const { folder, models, data } = workspace(t)
  const socket = join(folder, 'notify')
  const receiver = spawn('/usr/bin/python3', ['-uc', 'import socket,sys\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\ns.bind(sys.argv[1])\nwhile 1: print(s.recv(4096).decode())', socket])
  t.teardown(() => receiver.kill('SIGKILL'))
  let told = ''
  receiver.stdout.setEncoding('utf8').on('data', (text: string) => { told += text })
  await until(async () => existsSync(socket))
  const server = await startServer(t, ['--models-dir', models, '--data-dir', data], { env: { NOTIFY_SOCKET: socket } })
  await until(async () => told.includes('READY=1'))
  t.notMatch(told, 'STOPPING')
  t.match(await server.end(), { code: 0 })
  await until(async () => told.includes('STOPPING=1'))
})

t.test('the Dockerfiles use options that exist, and the health check', async t => {
  for (const name of ['Dockerfile', 'Dockerfile.cuda']) {
    const text = readFileSync(deploy(name), 'utf8')
    for (const option of text.match(/SDREST_[A-Z_]+/g) ?? []) t.match(readFileSync(join(packageRoot, 'docs', 'configuration.md'), 'utf8'), `\`${option}\``)
    t.match(text, /^HEALTHCHECK .* CMD \["stable-diffusion-rest", "health"\]$/m)
  }
})

t.test('the health check asks the server that was configured', { skip: lacks('openssl', 'version') }, async t => {
  const { folder, data } = workspace(t, { models: false })
  const [cert, key, file] = ['cert.pem', 'key.pem', 'server.yaml'].map(name => join(folder, name)) as [string, string, string]
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2', '-subj', '/CN=images.example', '-keyout', key, '-out', cert], { stdio: 'ignore' })
  const port = String(await freePort())
  writeFileSync(file, `port: ${port}\nallowed-hosts: [images.example]\n`)
  for (const [name, env, url] of [
    ['a port', { SDREST_PORT: port, SDREST_HOST: '0.0.0.0' }, `http://127.0.0.1:${port}`],
    ['a certificate of another name', { SDREST_PORT: port, SDREST_TLS_CERT: cert, SDREST_TLS_KEY: key }, `https://127.0.0.1:${port}`],
    ['a configuration file', { SDREST_CONFIG: file, SDREST_HOST: '[::1]', SDREST_AUTH: 'none' }, `http://[::1]:${port}`]
  ] as const) {
    const all = { SDREST_DATA_DIR: data, SDREST_AUTH: 'jwt', ...env }
    t.match(await runProgram(['health'], { env: all }), { code: 1, stdout: '', stderr: new RegExp(`${port} is not up: ECONNREFUSED\n$`) }, name)
    // startServer would take any port by its options.
    const server = await startServer(t, ['--port', port], { env: all })
    const began = performance.now()
    t.match(await runProgram(['health'], { env: all }), { code: 0, stdout: `${url} is up\n` }, name)
    t.ok(performance.now() - began < 5000)
    await server.end()
    t.equal((await runProgram(['health'], { env: all })).code, 1)
  }
  const silent = createServer().listen(0, '127.0.0.1')
  await once(silent, 'listening')
  t.teardown(() => silent.close())
  const { port: taken } = silent.address() as { port: number }
  t.match(await runProgram(['health', '--port', String(taken)]), { code: 1, stderr: /is not up: no answer within 3 s/ })
  t.match(await runProgram(['health', '--port', 'x']), { code: 1, stderr: /Expected a whole number/ })
  t.match(await runProgram(['health', '--port', '0']), { code: 1, stderr: /give it one/ })
})

t.test('compose.yaml builds from the Dockerfile, keeps the data, and starts the server as without it', async t => {
  const { services, volumes } = parse(readFileSync(deploy('compose.yaml'), 'utf8'), { merge: true }) as {
    services: Record<string, Record<'command' | 'volumes', string[]> & { build: Record<'dockerfile', string> & { args?: object } }>
    volumes: Record<string, unknown>
  }
  const dockerfile = readFileSync(deploy('Dockerfile'), 'utf8')
  t.same(Object.keys(services), ['server', 'vulkan'])
  for (const [name, { build, command, volumes: mounts }] of Object.entries(services)) {
    t.equal(build.dockerfile, 'deploy/Dockerfile', name)
    for (const argument of Object.keys(build.args ?? {})) t.match(dockerfile, `ARG ${argument}=`, name)
    t.match(dockerfile, `CMD ${JSON.stringify(command).replaceAll(',', ', ')}`, 'as without compose')
    t.match(mounts, ['data:/data', /:\/models:ro$/], name)
  }
  t.ok('data' in volumes)
})
