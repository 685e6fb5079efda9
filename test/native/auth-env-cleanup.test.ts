import { copyFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { findAuthAddon, loadAuthAddon, type AuthAddon } from '../../native/index.ts'
import { makeAccount, noAddon, noPam, noRoot, openFolder, pamServices, runNode } from '../fixtures/pam/system.ts'

/** A check's thread outlives what waits for it: workers that end, processes that exit. Each script must end well. */

const found = await findAuthAddon()
const file = found.ok ? found.path : ''

/** Runs a script with `addon` and `slow`, a check that fails after 300 ms; what it prints, if it ends well. */
function runScript (t: Test, script: string): string {
  const confDir = pamServices(t, { slow: ['auth required script hidden sleep=300 return=7'] })
  const start = `
    const { Worker } = require('worker_threads')
    const wait = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds))
    const load = 'const addon = require(${JSON.stringify(file)});' +
      'const slow = () => addon.pamAuthenticate({ service: "slow", user: "mona", password: "x", confDir: "${confDir}" });'
    eval(load.replaceAll('const ', 'var '));`
  return runNode(t, `${start}(async () => {${script}})()`)
}

t.test('a process waits for its checks, then ends', { skip: noPam }, async (t) => {
  t.equal(runScript(t, 'slow().then(verdict => console.log(verdict.code))'), 'denied\n')
})

t.test('env-cleanup: exit while checks run', { skip: noPam }, async (t) => {
  for (const delay of [0, 150, 299, 300, 301]) {
    runScript(t, `for (let n = 0; n < 8; n++) slow(); setTimeout(() => process.exit(), ${delay})`)
  }
})

t.test('env-cleanup: workers end while their checks run', { skip: noPam }, async (t) => {
  runScript(t, `
    for (const ending of ['', 'setTimeout(() => process.exit(), 50)', 'setTimeout(() => { throw 1 }, 50)']) {
      const worker = new Worker(load + 'for (let n = 0; n < 8; n++) slow();' + ending, { eval: true })
      const ended = new Promise(resolve => worker.on('exit', resolve).on('error', () => {}))
      if (ending === '') setTimeout(() => worker.terminate(), 50)
      await ended
    }
    await wait(600)`)
})

t.test('env-cleanup: workers end as their checks do', { skip: noPam }, async (t) => {
  runScript(t, `
    const ends = []
    for (let delay = 280; delay < 340; delay += 4) {
      const worker = new Worker(load + 'for (let n = 0; n < 4; n++) slow(); setTimeout(() => process.exit(), ' + delay + ')',
        { eval: true })
      ends.push(new Promise(resolve => worker.on('exit', resolve)))
    }
    await Promise.all(ends)
    await wait(600)`)
})

t.test('env-cleanup: a worker that alone has loaded the addon ends first', { skip: noPam }, async (t) => {
  // The last environment that uses an addon unloads its code, on which the thread still runs.
  const copy = join(openFolder(t), 'copy.node')
  copyFileSync(file, copy)
  runScript(t, `
    const worker = new Worker(load.replace(${JSON.stringify(file)}, ${JSON.stringify(copy)}) + 'slow()', { eval: true })
    setTimeout(() => worker.terminate(), 150)
    await new Promise(resolve => worker.on('exit', resolve))
    await wait(600)`)
})

t.test('worker threads have results of their own', { skip: noPam }, async (t) => {
  t.equal(runScript(t, `
    const workers = Array.from({ length: 4 }, () => new Worker(load +
      'slow().then(verdict => require("worker_threads").parentPort.postMessage(verdict.code))', { eval: true }))
    const codes = await Promise.all([slow().then(verdict => verdict.code),
      ...workers.map(worker => new Promise(resolve => worker.once('message', resolve)))])
    console.log(codes.join())`), 'denied,denied,denied,denied,denied\n')
})

t.test('loaded twice', { skip: noAddon }, async (t) => {
  const require = createRequire(import.meta.url)
  const copy = join(openFolder(t), 'auth.node')
  copyFileSync(file, copy)
  const first = await loadAuthAddon()
  delete require.cache[file]
  const addons = [first, require(file) as AuthAddon, require(copy) as AuthAddon]
  for (const addon of addons) t.match(await addon.lookup('root'), { uid: 0 })
  t.equal(await loadAuthAddon(), require(file))
})

t.test('the end of a child is noticed while pam_unix runs its helper', { skip: noPam || noRoot }, async (t) => {
  // Not root: only then does pam_unix (Debian's) start its helper, which takes SIGCHLD away from the whole process.
  const { name, password } = makeAccount(t)
  const confDir = pamServices(t, { unix: ['auth required pam_unix.so', 'account required pam_unix.so'] })
  const copy = join(openFolder(t), 'auth.node')
  copyFileSync(file, copy)
  const script = `
    const { execFileSync, spawn } = require('child_process')
    process.initgroups('${name}', Number(execFileSync('id', ['-g', '${name}'])))
    process.setgid(Number(execFileSync('id', ['-g', '${name}'])))
    process.setuid(Number(execFileSync('id', ['-u', '${name}'])))
    process.on('SIGCHLD', () => {})
    const addon = require('${copy}')
    const request = { service: 'unix', user: '${name}', password: '${password}', confDir: '${confDir}' }
    const check = async () => {
      for (let n = 0; n < 10; n++) if ((await addon.pamAuthenticate(request)).code !== 'ok') throw new Error('refused')
    }
    const children = async () => {
      for (let n = 0; n < 50; n++) await new Promise(resolve => spawn('true').once('exit', resolve))
    }
    Promise.all([check(), check(), check(), check(), children(), children()]).then(() => console.log('all'))`
  t.equal(runNode(t, script), 'all\n')
})
