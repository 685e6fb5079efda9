import { spawn } from 'node:child_process'
import { Agent, get } from 'node:http'
import { text } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import { password, workspace } from '../helper.ts'
import { runProgram, startServer, type RunningServer } from '../server-process.ts'

/**
 * A flood of logins must not starve the rest: with 200 a second arriving at a server that hashes at the real cost,
 * GET /api/health stays under 50 ms at the 99th percentile.
 */
const [rate, seconds, bound] = [200, 5, 50]

/** Tries, each with another flood: a machine that does other things may miss one. */
const tries = 4

/**
 * Sends logins at a fixed rate, whether or not the server keeps up, each on a connection of its own, as strangers
 * would; in a process of its own, so that they cost this one nothing. Prints how many got which status.
 */
const flood = `
  const { request } = require('node:http')
  const [url, rate, seconds, isSpread] = JSON.parse(process.argv[1])
  const statuses = {}
  const count = status => { statuses[status] = (statuses[status] ?? 0) + 1 }
  const began = performance.now()
  let sent = 0
  const timer = setInterval(() => {
    const elapsed = Math.min(seconds, (performance.now() - began) / 1000)
    for (; sent < elapsed * rate; sent++) {
      const headers = { 'content-type': 'application/json', ...(isSpread && { 'x-forwarded-for': '198.18.' + (sent >> 8) + '.' + (sent & 255) }) }
      const login = request(url + '/api/auth/login', { method: 'POST', agent: false, headers }, response => response.resume().on('end', () => count(response.statusCode)))
      login.on('error', error => count(error.code))
      login.end(JSON.stringify({ username: 'user' + sent, password: 'wrong' }))
    }
    if (elapsed === seconds) clearInterval(timer)
  }, 5)
  process.on('exit', () => console.log(JSON.stringify(statuses)))`

async function sendFlood (url: string, isSpread: boolean): Promise<Record<string, number>> {
  const child = spawn(process.execPath, ['-e', flood, JSON.stringify([url, rate, seconds, isSpread])], { env: { PATH: process.env.PATH }, stdio: ['ignore', 'pipe', 'inherit'] })
  return JSON.parse(await text(child.stdout)) as Record<string, number>
}

const agent = new Agent({ keepAlive: true })
t.teardown(() => agent.destroy())

/** Milliseconds that an answer of 200 takes. */
async function timeHealth ({ url }: RunningServer): Promise<number> {
  const began = performance.now()
  const status = await new Promise<number>((resolve, reject) => {
    get(`${url}/api/health`, { agent }, response => response.resume().on('end', () => resolve(response.statusCode!))).on('error', reject)
  })
  if (status !== 200) throw new Error(`/api/health answers ${status}`)
  return performance.now() - began
}

function percentile99 (times: number[]): number {
  return times.sort((a, b) => a - b)[Math.ceil(times.length * 0.99) - 1]!
}

/**
 * Floods a server and asks it for its health all the while. Other work of this machine slows it down as well, so a
 * second server, which gets no logins, is asked in turn: where this one is slow, too, a multiple counts.
 */
async function measure (flooded: RunningServer, quiet: RunningServer, isSpread: boolean) {
  const times = { flooded: [] as number[], quiet: [] as number[] }
  const progress = { isOver: false }
  const statuses = sendFlood(flooded.url, isSpread).finally(() => { progress.isOver = true })
  while (!progress.isOver) {
    times.flooded.push(await timeHealth(flooded))
    times.quiet.push(await timeHealth(quiet))
    await new Promise(resolve => setTimeout(resolve, 5))
  }
  return {
    statuses: await statuses,
    asked: times.flooded.length,
    flooded: percentile99(times.flooded),
    quiet: percentile99(times.quiet)
  }
}

async function start (t: Test, parameters: string[]): Promise<RunningServer> {
  const { data } = workspace(t, { models: false })
  t.equal((await runProgram(['user', 'add', 'alice', '--password-stdin', '--data-dir', data], { input: password })).code, 0)
  return await startServer(t, ['--auth', 'jwt', '--data-dir', data, ...parameters])
}

for (const { name, parameters, isSpread } of [
  { name: 'from one address', parameters: [], isSpread: false },
  // Each from a new address and with a new name, so no bucket and no back-off stops any: only the bound on hashes does.
  { name: 'from everywhere', parameters: ['--login-rate-limit', '100000', '--trust-proxy', '127.0.0.1'], isSpread: true }
]) {
  t.test(`${rate} logins a second, ${name}`, async t => {
    const [flooded, quiet] = [await start(t, parameters), await start(t, [])]
    const statuses: Record<string, number> = {}
    let [count, isQuick, seen] = [0, false, '']
    for (; count < tries && !isQuick; count++) {
      const { statuses: these, asked, ...times } = await measure(flooded, quiet, isSpread)
      for (const [status, number] of Object.entries(these)) statuses[status] = (statuses[status] ?? 0) + number
      isQuick = asked > 100 && times.flooded < Math.max(bound, 2.5 * times.quiet)
      seen = `${JSON.stringify(these)}; health asked ${asked} times, at the 99th percentile ${times.flooded.toFixed(1)} ms, without a flood ${times.quiet.toFixed(1)} ms`
      t.comment(seen)
    }
    t.ok(isQuick, seen)
    const all = count * rate * seconds
    const putOff = statuses[isSpread ? 503 : 429]!
    t.ok(statuses[401]! > 0, 'some passwords were looked at')
    t.ok(putOff > all / 2, 'most were put off')
    t.ok(statuses[401]! + (statuses[429] ?? 0) + (statuses[503] ?? 0) > all * 0.9, 'and all but a few connections got an answer, no other than these')
    const login = async () => (await flooded.json('/api/auth/login', { method: 'POST', headers: isSpread ? { 'x-forwarded-for': '203.0.113.1' } : {}, body: JSON.stringify({ username: 'alice', password }) })).status
    if (isSpread) t.equal(await login(), 200, 'when it is over who comes from elsewhere can log in')
    // More than two minutes' worth, because a minute may have ended since the flood, or end now.
    else t.ok((await Promise.all(Array.from({ length: 41 }, login))).includes(429), 'that address is held back')
  })
}
