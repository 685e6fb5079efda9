import t from 'tap'
import { Gate } from '../../../lib/util/gate.ts'

t.test('runs few, lets some wait and refuses the rest', async t => {
  const gate = new Gate({ running: 2, waiting: 2, what: 'logins' })
  let active = 0
  let most = 0
  const work = async () => {
    most = Math.max(most, ++active)
    await new Promise(resolve => setTimeout(resolve, 5))
    active--
  }
  const results = await Promise.allSettled(Array.from({ length: 6 }, () => gate.run('alice', work)))
  t.same(results.map(({ status }) => status), ['fulfilled', 'fulfilled', 'fulfilled', 'fulfilled', 'rejected', 'rejected'])
  t.match((results[5] as PromiseRejectedResult).reason, { code: 'SDR_UNAVAILABLE', retryAfter: 2 })
  t.equal(most, 2)
  await gate.run('alice', work)
  await t.rejects(gate.run('alice', async () => { throw new Error('inside') }), { message: 'inside' })
  await Promise.all([gate.run('alice', work), gate.run('alice', work)])
  t.equal(most, 2, 'a failure gives its place back')
})

/** Starts calls that run until they are ended, and says which run. */
function calls (gate: Gate) {
  const running: string[] = []
  const ends = new Map<string, () => void>()
  const start = (name: string, weight?: number) => gate.run(name[0]!, async () => {
    running.push(name)
    await new Promise<void>(resolve => ends.set(name, resolve))
    running.splice(running.indexOf(name), 1)
  }, weight)
  const settled = () => new Promise(resolve => setImmediate(resolve))
  return { running, start, settled, async end (name: string) { ends.get(name)!(); await settled() } }
}

t.test('leaves places and a part of the line to other callers', async t => {
  const gate = new Gate({ running: 3, waiting: 4, runningForOne: 2, waitingForOne: 2, what: 'uploads' })
  const { running, start, settled, end } = calls(gate)
  const all = ['a1', 'a2', 'a3', 'a4'].map(name => start(name))
  await t.rejects(start('a5'), { code: 'SDR_RATE_LIMITED', statusCode: 429, retryAfter: 2 })
  all.push(start('b1'))
  await settled()
  t.same(running, ['a1', 'a2', 'b1'], 'the third place is not for the first caller')
  all.push(start('b2'), start('c1'))
  await t.rejects(start('d1'), { code: 'SDR_UNAVAILABLE', statusCode: 503 })
  await end('a1')
  t.same(running, ['a2', 'b1', 'c1'], 'who has nothing running goes first')
  await end('a2')
  t.same(running, ['b1', 'c1', 'a3'])
  for (const name of ['b1', 'c1', 'a3', 'a4', 'b2']) await end(name)
  await Promise.all(all)
})

t.test('weighs work, and lets a heavy call run in the end', async t => {
  const gate = new Gate({ running: 10, waiting: 10, what: 'bytes' })
  const { running, start, settled, end } = calls(gate)
  const all = [start('a1', 6), start('b1', 8), start('c1', 1)]
  await settled()
  t.same(running, ['a1'])
  await end('a1')
  t.same(running, ['b1', 'c1'])
  await end('b1')
  await end('c1')
  await Promise.all(all)
  const leave = await gate.enter('a', 10)
  leave()
  leave()
  await gate.run('b', async () => {}, 10)
  await t.rejects(Promise.race([gate.run('b', async () => { throw new Error('inside') }, 10)]), { message: 'inside' })
})

t.test('tells a caller without a line that its own share is full', async t => {
  const gate = new Gate({ running: 4, runningForOne: 2, waiting: 0, what: 'bytes' })
  const leave = await gate.enter('a', 2)
  await t.rejects(gate.enter('a', 1), { code: 'SDR_RATE_LIMITED', retryAfter: 2 })
  await gate.enter('b', 2)
  await t.rejects(gate.enter('c', 1), { code: 'SDR_UNAVAILABLE', retryAfter: 2 })
  leave()
  await gate.enter('c', 1)
})
