import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import sharp from 'sharp'
import t, { type Test } from 'tap'
import { cleanImage } from '../../../lib/media/container.ts'
import { ImageProcesses } from '../../../lib/media/image-processes.ts'
import { until } from '../../server-process.ts'
import { jpegOfScans, pngOfTexts } from './bombs.ts'

const small = { format: 'png', resize: { width: 8, height: 8 } } as const
const slow = jpegOfScans(3000)
const size = { width: 8192, height: 4096 }

const photo = async () =>
  cleanImage(await sharp({ create: { width: 64, height: 48, channels: 3, background: 'teal' } }).jpeg().toBuffer())

function start (t: Test, bounds: ConstructorParameters<typeof ImageProcesses>[1] = {}) {
  const failures: string[] = []
  const processes = new ImageProcesses(reason => failures.push(reason), bounds)
  t.teardown(async () => processes.close())
  return { processes, failures }
}

const isAlive = (pid: number) => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

t.test('starts a process for the first image, uses it again, and ends it when idle', async t => {
  const { processes } = start(t, { idle: 0.3 })
  t.same(processes.pids, [])
  t.match(await processes.make(await photo(), { format: 'webp', quality: 80 }), { format: 'webp', width: 64, height: 48 })
  const [pid] = processes.pids
  t.match(await processes.make(await photo(), { format: 'png', resize: { width: 32 } }), { format: 'png', width: 32, height: 24 })
  t.same(processes.pids, [pid])
  await until(async () => processes.pids.length === 0)
  t.notOk(isAlive(pid!))
  t.ok(await processes.make(await photo(), small), 'and another one starts')
})

t.test('gives the process no secrets', { skip: process.platform !== 'linux' }, async t => {
  process.env.SDREST_JWT_SECRET = 'a secret of the server'
  t.teardown(() => { delete process.env.SDREST_JWT_SECRET })
  const { processes } = start(t)
  await processes.make(await photo(), small)
  t.notMatch(readFileSync(`/proc/${processes.pids[0]}/environ`, 'utf8'), /SDREST|a secret/)
})

// None of these gets through `cleanImage`: this is what stops those that nobody has thought of yet.
t.test('ends a decoder that takes too much time or memory, and serves the next image', async t => {
  const { processes } = start(t, { seconds: 2 })
  const begin = performance.now()
  await t.rejects(processes.make({ bytes: slow, ...size }, small), { message: 'it takes longer than 2 s to decode' })
  t.ok(performance.now() - begin < 10_000)
  const { processes: tight } = start(t, { seconds: 60 })
  await t.rejects(tight.make({ bytes: pngOfTexts(40), width: 64, height: 64 }, small), { message: /^it takes more than \d+ MiB to decode$/ })
  t.ok(await tight.make(await photo(), small))
  await t.rejects(processes.make({ bytes: Buffer.from('a poem'), width: 1, height: 1 }, small), { message: /unsupported image format/ })
  t.ok(await processes.make(await photo(), small))
})

t.test('loses one image with a killed process', async t => {
  const { processes, failures } = start(t)
  const lost = processes.make({ bytes: slow, ...size }, small)
  const [pid] = processes.pids
  setTimeout(() => process.kill(pid!, 'SIGKILL'), 500)
  await t.rejects(lost, { code: 'SDR_UNAVAILABLE', retryAfter: 2 })
  t.same(failures, ['The image process ended by SIGKILL'])
  const crashed = processes.make({ bytes: slow, ...size }, small)
  const [second] = processes.pids
  setTimeout(() => process.kill(second!, 'SIGSEGV'), 500)
  await t.rejects(crashed, { message: 'its decoder was ended by SIGSEGV' })
  t.ok(await processes.make(await photo(), small))
  process.kill(processes.pids[0]!, 'SIGKILL')
  await until(async () => processes.pids.length === 0)
  t.ok(await processes.make(await photo(), small), 'also while it was idle')
})

t.test('detects a process that lies, is silent or cannot run', async t => {
  const picture = await photo()
  const message = (head: object, bytes = '') => {
    const text = JSON.stringify(head)
    return `const b = Buffer.from(${JSON.stringify(bytes)}, 'base64'), l = Buffer.alloc(8); l.writeUInt32LE(${text.length}); ` +
      `l.writeUInt32LE(b.length, 4); process.stdout.write(Buffer.concat([l, Buffer.from(${JSON.stringify(text)}), b]))`
  }
  const other = picture.bytes.toString('base64')
  for (const [what, script, reason] of [
    ['another image', `process.stdin.once('data', () => { ${message({}, other)} })`, /made something else.*jpeg of 64 × 48/],
    ['not an image', `process.stdin.once('data', () => { ${message({}, 'AAAA')} })`, /made something else.*not a PNG/],
    ['without being asked', `${message({})}; setInterval(() => {}, 1000)`, /made something else|does not keep to the protocol/],
    ['more than an image', "process.stdin.once('data', () => process.stdout.write(Buffer.alloc(20, 255)))", /longer than it may be/],
    ['what is not JSON', "process.stdin.once('data', () => process.stdout.write('\\x01\\0\\0\\0\\0\\0\\0\\0{'))", /keep to the protocol/],
    ['its end', 'process.exit(3)', /ended with exit code 3/],
    ['an error', "throw new Error('Could not load the sharp module')", /ended with exit code 1: .*sharp module/]
  ] as const) {
    const file = join(t.testdir({ 'script.cjs': script }), 'script.cjs')
    const { processes, failures } = start(t, { script: file, seconds: 20 })
    await t.rejects(processes.make(picture, small), { code: 'SDR_UNAVAILABLE' }, what)
    t.match(failures.join(), reason)
    await until(async () => processes.pids.length === 0)
  }
})

t.test('serves others while one caller has many slow images', async t => {
  const { processes } = start(t, { seconds: 4 })
  const send = async (caller: string, bytes: Buffer) =>
    await processes.uploads.run(caller, async () => processes.make({ bytes, ...size }, small))
  const mallory = Array.from({ length: 8 }, async () => await send('mallory', slow).catch((error: Error & { code?: string }) => error))
  await new Promise(resolve => setTimeout(resolve, 500))
  const begin = performance.now()
  const picture = await photo()
  t.ok(await processes.uploads.run('alice', async () => processes.make(picture, small)))
  t.ok(await processes.conversions.run('alice', async () => processes.make(picture, small)))
  t.ok(performance.now() - begin < 3500, `${performance.now() - begin} ms`)
  t.equal(processes.pids.length <= 3, true, 'and takes one process')
  await processes.close()
  const codes = (await Promise.all(mallory)).map(result => (result as { code?: string }).code)
  t.equal(codes.filter(code => code === 'SDR_RATE_LIMITED').length, 3, 'what waits is bounded, too')
  t.equal(codes.filter(code => code === 'SDR_DRAINING').length >= 1, true, 'and ends with the server')
  t.same(processes.pids, [])
})
