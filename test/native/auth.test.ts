import { execFileSync, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { closeSync, copyFileSync, openSync, readFileSync, readSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { connect, createServer, type Socket } from 'node:net'
import { once } from 'node:events'
import { join } from 'node:path'
import t from 'tap'
import { loadAuthAddon, findAuthAddon, type AuthAddon, type VerdictCode } from '../../native/index.ts'
import {
  makeAccount, noAddon, noPam, noRoot, openFolder, pamServices, runNode, setPassword, system
} from '../fixtures/pam/system.ts'

const addon = noAddon ? {} as AuthAddon : await loadAuthAddon()
const unusedName = 'sdrest-nobody-has-this-name'

t.test('PAM: the stack decides, and its answers keep their meaning', { skip: noPam }, async (t) => {
  const auth = 'auth required script'
  const account = 'account required script'
  const services: Record<string, { lines: string[], code: VerdictCode, user?: string, message?: RegExp }> = {
    permit: { lines: ['auth required pam_permit.so', 'account required pam_permit.so'], code: 'ok', user: 'mona' },
    deny: { lines: ['auth required pam_deny.so', 'account required pam_deny.so'], code: 'denied' },
    right: { lines: [`${auth} hidden password=sesame`, account], code: 'ok', user: 'mona' },
    wrong: { lines: [`${auth} hidden password=other`, account], code: 'denied', message: /^authentication: / },
    renamed: { lines: [`${auth} hidden rename=mona.lisa`, account], code: 'ok', user: 'mona.lisa' },
    origin: { lines: [`${auth} rhost=192.0.2.7 tty=http`, account], code: 'ok', user: 'mona' },
    'other-origin': { lines: [`${auth} rhost=192.0.2.8`, account], code: 'denied' },
    'second-hidden': { lines: [`${auth} hidden hidden`, account], code: 'second_factor', message: /more than the password/ },
    'second-echo': { lines: [`${auth} hidden echo`, account], code: 'second_factor' },
    'second-in-account': { lines: [`${auth} hidden`, `${account} hidden`], code: 'second_factor' },
    'second-optional': { lines: [`${auth} hidden`, 'auth optional script hidden', account], code: 'ok', user: 'mona' },
    'says-why': { lines: [`${auth} say=closed return=7`, account], code: 'denied', message: /\(closed\)/ },
    'acct-expired': { lines: [auth, `${account} return=13`], code: 'account_expired', message: /^account check: / },
    'new-password': { lines: [auth, `${account} return=12`], code: 'password_expired' },
    'old-password': { lines: [auth, `${account} return=27`], code: 'password_expired' },
    'not-here': { lines: [auth, `${account} return=6`], code: 'account_locked' },
    'not-yet': { lines: [`${auth} return=6`, account], code: 'denied' },
    'no-server': { lines: [`${auth} return=9`, account], code: 'unavailable' },
    'no-module': { lines: ['auth required pam_sdrest_missing.so', account], code: 'unavailable' },
    'no-account-phase': { lines: [auth], code: 'account_locked' }
  }
  const confDir = pamServices(t, Object.fromEntries(Object.entries(services).map(([name, { lines }]) => [name, lines])))
  for (const [service, { code, user = '', message }] of Object.entries(services)) {
    const verdict = await addon.pamAuthenticate(
      { service, user: 'mona', password: 'sesame', remoteHost: '192.0.2.7', tty: 'http', confDir })
    t.match(verdict, { code, user }, `${service}: ${verdict.message}`)
    t.match(verdict.message, message ?? (code === 'ok' ? /^$/ : /\w/))
  }
  t.match(await addon.pamAuthenticate({ service: 'PERMIT', user: 'mona', password: Buffer.from('x'), confDir }),
    { code: 'ok' }, 'libpam reads service names in lower case')
})

t.test('PAM: a service without a file is not the service "other"', { skip: noPam }, async (t) => {
  const confDir = pamServices(t, { other: ['auth required pam_permit.so', 'account required pam_permit.so'] })
  const verdict = await addon.pamAuthenticate({ service: 'missing', user: 'mona', password: 'x', confDir })
  t.match(verdict, { code: 'service_missing', user: '', message: `${confDir}/missing` })
  t.match(addon.pamProblem('missing', confDir), /create it/)
  t.equal(addon.pamProblem('other', confDir), null)
  t.equal(addon.pamProblem(), null)
  t.match(addon.pamProblem('sdrest-missing'), '/etc/pam.d/sdrest-missing')
})

t.test('PAM: the delay after a failure is told, not slept', { skip: noPam }, async (t) => {
  const confDir = pamServices(t, {
    slow: ['auth optional pam_faildelay.so delay=4000000', 'auth required pam_deny.so'],
    fast: ['auth optional pam_faildelay.so delay=4000000', 'auth required pam_permit.so', 'account required pam_permit.so']
  })
  const began = performance.now()
  const { code, delayMs } = await addon.pamAuthenticate({ service: 'slow', user: 'mona', password: 'x', confDir })
  t.equal(code, 'denied')
  t.ok(delayMs >= 1000 && delayMs <= 6000, `libpam varies 4 s by half: ${delayMs}`)
  t.ok(performance.now() - began < 1000)
  t.match(await addon.pamAuthenticate({ service: 'fast', user: 'mona', password: 'x', confDir }), { code: 'ok', delayMs: 0 })
})

t.test('a real account, both ways', { skip: noPam || noRoot }, async (t) => {
  const confDir = pamServices(t, { unix: ['auth required pam_unix.so', 'account required pam_unix.so'] })
  const { name, password } = makeAccount(t)
  const check = async (
    wanted: { pam: VerdictCode, unix: VerdictCode }, what: string, secret = password, user = name
  ) => {
    const pam = await addon.pamAuthenticate({ service: 'unix', user, password: secret, confDir })
    const unix = await addon.unixAuthenticate({ user, password: secret })
    t.same({ pam: pam.code, unix: unix.code }, wanted, `${what}: ${pam.message}; ${unix.message}`)
    for (const verdict of [pam, unix]) t.equal(verdict.user, verdict.code === 'ok' ? user : '')
  }
  const refused = { pam: 'denied', unix: 'denied' } as const

  await check({ pam: 'ok', unix: 'ok' }, 'right password')
  await check(refused, 'wrong password', `${password}x`)
  await check(refused, 'prefix of the password', password.slice(0, -1))
  await check(refused, 'longer than crypt(3) takes', 'x'.repeat(1024))
  await check(refused, 'unknown user', password, unusedName)
  await check(refused, 'root, whose password is not this one', password, 'root')

  system('usermod', ['--shell', '/usr/sbin/nologin', name])
  await check({ pam: 'ok', unix: 'account_locked' }, 'a shell that refuses (PAM: pam_shells would look)')
  system('usermod', ['--shell', '/bin/sh', name])

  system('usermod', ['--lock', name])
  await check({ pam: 'denied', unix: 'account_locked' }, 'locked')
  await check(refused, 'locked, wrong password', 'wrong')
  system('usermod', ['--unlock', name])

  system('chage', ['--lastday', '0', name])
  await check({ pam: 'password_expired', unix: 'password_expired' }, 'must be changed first')
  system('chage', ['--lastday', '2020-01-01', '--maxdays', '30', name])
  await check({ pam: 'password_expired', unix: 'password_expired' }, 'password too old')
  await check(refused, 'password too old, wrong password', 'wrong')
  system('chage', ['--inactive', '10', name])
  await check({ pam: 'password_expired', unix: 'password_expired' }, 'password too old for too long')
  system('chage', ['--maxdays', '-1', '--inactive', '-1', name])
  await check({ pam: 'ok', unix: 'ok' }, 'in order again')

  system('chage', ['--expiredate', '2020-01-01', name])
  await check({ pam: 'account_expired', unix: 'account_expired' }, 'account expired')
  await check(refused, 'account expired, wrong password', 'wrong')
  system('chage', ['--expiredate', '-1', name])
  await check({ pam: 'ok', unix: 'ok' }, 'never expires')

  for (const method of ['SHA512', 'SHA256', 'DES']) {
    setPassword(name, 'short', '--crypt-method', method)
    await check({ pam: 'ok', unix: 'ok' }, method, 'short')
    await check(refused, `${method}, wrong password`, 'wrong')
  }
  for (const hash of ['*', '!', '!!', '!*', 'x', '$99$salt$hash']) {
    setPassword(name, hash, '--encrypted')
    await check(refused, `no password can match ${hash}`)
  }
  system('passwd', ['--delete', name])
  await check(refused, 'no password, any password')
})

t.test('root is refused with the right password', { skip: noRoot }, async (t) => {
  const { name, password } = makeAccount(t, '--non-unique', '--uid', '0')
  t.match(await addon.unixAuthenticate({ user: name, password }), { code: 'denied', message: /uid 0/, user: '' })
})

t.test('PAM: uid 0 is refused whatever its name, and however PAM came to it', { skip: noPam || noRoot }, async (t) => {
  const { name } = makeAccount(t, '--non-unique', '--uid', '0')
  const confDir = pamServices(t, {
    permit: ['auth required pam_permit.so', 'account required pam_permit.so'],
    renamed: [`auth required script rename=${name}`, 'account required script']
  })
  for (const [service, user] of [['permit', name], ['permit', 'root'], ['renamed', 'mona']] as const) {
    t.match(await addon.pamAuthenticate({ service, user, password: 'x', confDir }), { code: 'denied', message: /uid 0/, user: '' }, `${service} ${user}`)
  }
  t.match(await addon.pamAuthenticate({ service: 'permit', user: 'mona', password: 'x', confDir }), { code: 'ok', user: 'mona' })
})

t.test('without privilege the reason is told', { skip: noRoot }, async (t) => {
  const found = await findAuthAddon()
  if (!found.ok) throw new Error(found.reason)
  const copy = join(openFolder(t), 'auth.node')
  copyFileSync(found.path, copy)
  const { name, password } = makeAccount(t)
  const script = `
    process.setgroups([]); process.setgid(65534); process.setuid(65534)
    const addon = require(${JSON.stringify(copy)})
    addon.unixAuthenticate(${JSON.stringify({ user: name, password })}).then(verdict =>
      console.log(JSON.stringify({ ...verdict, problem: addon.unixProblem() })))`
  const answer = JSON.parse(runNode(t, script))
  t.match(answer, { code: 'no_privilege', user: '', message: /shadow.*uid 65534/, problem: answer.message })
  t.equal(addon.unixProblem(), null)
})

t.test('an unknown user takes as long as a wrong password', { skip: noRoot }, async (t) => {
  const { name } = makeAccount(t)
  setPassword(name, 'something', '--crypt-method', 'YESCRYPT')
  const fastest: Record<string, number> = { [name]: Infinity, [unusedName]: Infinity }
  const isAlike = () => {
    const [known, unknown] = [fastest[name]!, fastest[unusedName]!]
    return known < unknown * 1.5 && unknown < known * 1.5
  }
  // The fastest of many: what the check itself needs, without what else this machine does; a busy one takes more tries.
  for (let round = 0; round < 15 || (round < 150 && !isAlike()); round++) {
    for (const user of [name, unusedName]) {
      const began = performance.now()
      t.match(await addon.unixAuthenticate({ user, password: 'wrong' }), { code: 'denied' })
      fastest[user] = Math.min(fastest[user]!, performance.now() - began)
    }
  }
  t.ok(isAlike(), `known ${fastest[name]} ms, unknown ${fastest[unusedName]} ms`)
})

t.test('waiting checks do not hold up files', { skip: noPam }, async (t) => {
  const confDir = pamServices(t, { slow: ['auth required script sleep=1500 return=7'] })
  const began = performance.now()
  const checks = Array.from({ length: 8 }, () => addon.pamAuthenticate({ service: 'slow', user: 'mona', password: 'x', confDir }))
  let reads = 0
  while (performance.now() - began < 1000) {
    await readFile(new URL(import.meta.url))
    reads++
  }
  t.ok(reads > 100, `${reads} files read while 8 checks slept`)
  for (const { code } of await Promise.all(checks)) t.equal(code, 'denied')
  t.ok(performance.now() - began < 5000, 'the checks ran side by side')
})

t.test('a bound on threads', { skip: noPam }, async (t) => {
  const confDir = pamServices(t, { slow: ['auth required script sleep=500 return=7'] })
  const check = () => addon.pamAuthenticate({ service: 'slow', user: 'mona', password: 'x', confDir })
  const checks = Array.from({ length: 64 }, check)
  t.throws(check, { message: /Too many/ })
  await Promise.all(checks)
  t.match(await check(), { code: 'denied' })
})

t.test('the password does not stay in memory', { skip: noPam || noRoot || (process.platform !== 'linux' && 'needs /proc') },
  async (t) => {
    const found = await findAuthAddon()
    if (!found.ok) throw new Error(found.reason)
    const confDir = pamServices(t, { unix: ['auth required pam_unix.so', 'account required pam_unix.so'] })
    const { name } = makeAccount(t)
    const password = randomBytes(150).toString('base64url')
    const part = password.slice(80, 120) // freed memory loses its first bytes to the allocator
    setPassword(name, password)
    // The password comes by pipe into one buffer, so that the only copies are those that the addon makes.
    const script = `
      const { readSync } = require('fs')
      const addon = require(${JSON.stringify(found.path)})
      const password = Buffer.alloc(${password.length})
      readSync(0, password)
      process.send('here')
      // Not once: without a listener the process would end before its memory is looked at.
      process.on('message', async () => {
        const codes = []
        for (let round = 0; round < 3; round++) {
          const request = { service: 'unix', user: '${name}', password, confDir: '${confDir}' }
          codes.push((await addon.pamAuthenticate(request)).code, (await addon.unixAuthenticate(request)).code)
        }
        password.fill(0)
        process.send(codes)
      })`
    const child = spawn(process.execPath, ['-e', script], { stdio: ['pipe', 'inherit', 'inherit', 'ipc'] })
    t.teardown(() => child.kill('SIGKILL'))
    child.stdin!.write(password)
    await once(child, 'message')
    t.ok(occurrences(child.pid!, part) > 0, 'it is seen where it is')
    child.send('go')
    t.same((await once(child, 'message'))[0], Array(6).fill('ok'))
    t.equal(occurrences(child.pid!, part), 0, 'it is gone')
  })

/** How often the writable memory of another process holds a text. */
function occurrences (pid: number, text: string): number {
  const memory = openSync(`/proc/${pid}/mem`, 'r')
  let count = 0
  for (const line of readFileSync(`/proc/${pid}/maps`, 'latin1').split('\n')) {
    const match = /^(\w+)-(\w+) rw/.exec(line)
    if (match === null || line.endsWith('[vvar]')) continue
    const [start, end] = [parseInt(match[1]!, 16), parseInt(match[2]!, 16)]
    const chunk = Buffer.alloc(Math.min(end - start, 1 << 24))
    for (let position = start; position < end; position += chunk.length - text.length) {
      let size
      try {
        size = readSync(memory, chunk, 0, Math.min(chunk.length, end - position), position)
      } catch {
        break // reserved, never used
      }
      for (let at = -1; (at = chunk.subarray(0, size).indexOf(text, at + 1)) >= 0;) count++
      if (position + size >= end) break
    }
  }
  closeSync(memory)
  return count
}

t.test('accounts and their groups', { skip: noAddon }, async (t) => {
  const uid = process.getuid!()
  const name = execFileSync('id', ['-un'], { encoding: 'utf8' }).trim()
  t.same(await addon.lookup(name), { name, uid, gid: Number(execFileSync('id', ['-g', name], { encoding: 'utf8' })) })
  const numbers = execFileSync('id', ['-G', name], { encoding: 'utf8' }).trim().split(' ').map(Number)
  const groups = await addon.groupsOf(name)
  t.same(groups!.map(group => group.gid).sort(), numbers.sort())
  t.equal(groups!.find(group => group.gid === 0)?.name ?? 'root', 'root')
  t.equal(await addon.lookup(unusedName), null)
  t.equal(await addon.groupsOf(unusedName), null)
})

t.test('the process behind a socket', { skip: noAddon }, async (t) => {
  const path = join(openFolder(t), 'socket')
  const server = createServer().listen(path)
  await once(server, 'listening')
  const client = connect(path)
  const [socket] = await once(server, 'connection') as [Socket & { _handle: { fd: number } }]
  t.same(addon.peerCredentials(socket._handle.fd), { pid: process.pid, uid: process.getuid!(), gid: process.getgid!() })
  client.destroy()
  server.close()

  const internet = createServer().listen(0, '127.0.0.1')
  await once(internet, 'listening')
  t.throws(() => addon.peerCredentials((internet as unknown as { _handle: { fd: number } })._handle.fd), /Unix socket/)
  internet.close()
  t.throws(() => addon.peerCredentials(-1), /Bad file descriptor/)
  t.throws(() => addon.peerCredentials('1' as never), /Expected a file descriptor/)
})

t.test('bad arguments are refused before a thread starts', { skip: noAddon }, async (t) => {
  const unix = { user: 'mona', password: 'x' }
  const pam = { ...unix, service: 'login' }
  for (const [call, message] of [
    [() => addon.unixAuthenticate(undefined as never), /Expected an object/],
    [() => addon.unixAuthenticate({ ...unix, user: 7 as never }), /string for user/],
    [() => addon.unixAuthenticate({ ...unix, user: '' }), /1 to 255 bytes for user but received 0/],
    [() => addon.unixAuthenticate({ ...unix, user: 'é'.repeat(128) }), /received 256/],
    [() => addon.unixAuthenticate({ ...unix, user: 'a\0b' }), /control characters in user/],
    [() => addon.unixAuthenticate({ ...unix, user: 'a\nb' }), /control characters in user/],
    [() => addon.unixAuthenticate({ ...unix, user: '../a' }), /no slash/],
    [() => addon.unixAuthenticate({ ...unix, password: '' }), /1 to 1024 bytes for password but received 0/],
    [() => addon.unixAuthenticate({ ...unix, password: new Uint8Array(1025).fill(1) }), /received 1025/],
    [() => addon.unixAuthenticate({ ...unix, password: 'a\0b' }), /NUL/],
    [() => addon.unixAuthenticate({ ...unix, password: new Float64Array(1) as never }), /string or a Uint8Array/],
    [() => addon.pamAuthenticate({ ...pam, service: '../login' }), /letters, digits/],
    [() => addon.pamAuthenticate({ ...pam, service: '.' }), /begin/],
    [() => addon.pamAuthenticate({ ...pam, service: 'x'.repeat(65) }), /1 to 64/],
    [() => addon.pamAuthenticate({ ...pam, remoteHost: 'a\nb' }), /control characters in remoteHost/],
    [() => addon.pamAuthenticate({ ...pam, tty: '' }), /tty/],
    [() => addon.lookup('x'.repeat(256)), /1 to 255/],
    [() => addon.groupsOf(undefined as never), /string for user/]
  ] as Array<[() => unknown, RegExp]>) t.throws(call, { name: 'TypeError', message })
  // The bounds themselves are inside.
  t.match(await addon.unixAuthenticate({ user: 'x'.repeat(255), password: 'x'.repeat(1024) }), { code: /denied|no_privilege/ })
})
