import { execFileSync, spawnSync } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { Agent, request } from 'node:https'
import { join } from 'node:path'
import { connect, type SecureVersion, type TLSSocket } from 'node:tls'
import t from 'tap'
import { without } from '../fixtures/pam/system.ts'
import { workspace } from '../helper.ts'
import { runProgram, startServer, until, type RunningServer } from '../server-process.ts'

const noOpenssl = without('openssl', spawnSync('openssl', ['version']).status === 0)

t.test('--tls-cert and --tls-key, read again on SIGHUP', { skip: noOpenssl }, async t => {
  const { folder, data } = workspace(t, { models: false })
  const [cert, key] = [join(folder, 'cert.pem'), join(folder, 'key.pem')]
  const parameters = ['--tls-cert', cert, '--tls-key', key, '--data-dir', data, '--auth', 'jwt']
  /** Puts a new certificate with its key in place; its serial number. */
  function renew (): string {
    execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', '/CN=localhost',
      '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1', '-keyout', key, '-out', cert], { stdio: 'ignore' })
    return new X509Certificate(readFileSync(cert)).serialNumber
  }
  const first = renew()
  const server = await startServer(t, parameters)
  t.match(server.url, /^https:/)
  t.equal(await served(server), first)

  const agent = new Agent({ keepAlive: true, maxSockets: 1, rejectUnauthorized: false })
  t.teardown(() => agent.destroy())
  const { socket, headers } = await health(server, agent)
  t.match(headers['strict-transport-security'], /max-age=31536000/)

  const told = async (level: number, words: RegExp, times: number) => await until(async () =>
    server.log.filter(entry => entry.level === level && words.test(String(entry.msg))).length === times)
  const second = renew()
  t.not(second, first)
  t.equal(await served(server), first, 'not before it is asked to')
  process.kill(server.child.pid!, 'SIGHUP')
  await told(30, /certificate was read again/, 1)
  t.equal(await served(server), second, 'a new connection gets the new one')
  t.equal((await health(server, agent)).socket, socket, 'and the old connection goes on')

  const keyOfSecond = readFileSync(key)
  const broken: Record<string, () => void> = {
    'no certificate': () => writeFileSync(cert, 'nonsense'),
    'half of one': () => writeFileSync(cert, readFileSync(cert).subarray(0, 100)),
    'the key of another': () => {
      renew()
      writeFileSync(key, keyOfSecond)
    },
    'a missing file': () => rmSync(key)
  }
  for (const [index, [name, breakIt]] of Object.entries(broken).entries()) {
    breakIt()
    process.kill(server.child.pid!, 'SIGHUP')
    await told(50, /cannot be used; the old one stays/, index + 1)
    t.equal(await served(server), second, name)
    t.equal((await health(server, agent)).socket, socket)
  }
  t.notMatch(JSON.stringify(server.log), /PRIVATE KEY/)

  const third = renew()
  process.kill(server.child.pid!, 'SIGHUP')
  await told(30, /certificate was read again/, 2)
  t.equal(await served(server), third, 'a good one is taken again')

  for (const version of ['TLSv1', 'TLSv1.1'] as SecureVersion[]) {
    await t.rejects(served(server, { minVersion: version, maxVersion: version, ciphers: 'DEFAULT@SECLEVEL=0' }), version)
  }
  t.match(await served(server, { minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' }), third)
  await t.rejects(fetch(server.url.replace('https', 'http') + '/api/health'), 'nobody is answered without')
  agent.destroy()
  t.match(await server.end(), { code: 0 })
})

t.test('what can be no certificate is one line at the start', { skip: noOpenssl }, async t => {
  const { folder, data } = workspace(t, { models: false })
  writeFileSync(join(folder, 'cert.pem'), 'nonsense')
  const { code, stderr } = await runProgram(['--tls-cert', join(folder, 'cert.pem'), '--tls-key', join(folder, 'cert.pem'), '--data-dir', data, '--auth', 'jwt', '--port', '0'])
  t.equal(code, 4, stderr)
  t.match(stderr, /certificate .*cert\.pem/)
  t.equal(stderr.trim().split('\n').length, 1)
})

/** Serial number of the certificate that a new connection gets. */
async function served (server: RunningServer, options: object = {}): Promise<string> {
  const socket = connect({ host: '127.0.0.1', port: Number(new URL(server.url).port), rejectUnauthorized: false, ...options })
  await once(socket, 'secureConnect')
  const { serialNumber } = socket.getPeerCertificate()
  socket.destroy()
  return serialNumber
}

async function health (
  server: RunningServer, agent: Agent
): Promise<{ socket: TLSSocket, headers: Record<string, unknown> }> {
  return await new Promise((resolve, reject) => {
    request(`${server.url}/api/health`, { agent }, response => {
      response.resume().on('end', () => response.statusCode === 200 ? resolve({ socket: response.socket as TLSSocket, headers: response.headers }) : reject(new Error(String(response.statusCode))))
    }).on('error', reject).end()
  })
}
