import { createHmac } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import type { Job, NewJob } from '../../../../lib/jobs/job.ts'
import { drawingExecutors } from '../../../../lib/generation/run/drawing.ts'
import { JobQueue, type JobQueueOptions } from '../../../../lib/jobs/queue.ts'
import { AllowList } from '../../../../lib/network/allow-list.ts'
import { isPublicAddress } from '../../../../lib/network/public-address.ts'
import { checkUrl, post } from '../../../../lib/jobs/webhooks/delivery.ts'
import { ScriptedEngine } from '../fixtures/scripted-engine.ts'
import { until } from '../fixtures/until.ts'

const secret = 'a secret that only the receiver knows'

interface Received {
  headers: IncomingHttpHeaders
  body: string
}

/** A receiver that answers with the given statuses in turn, the last one for ever. */
async function receiver (
  t: Test, answers: Array<number | ((request: IncomingMessage, response: ServerResponse) => void)> = [204]
) {
  const received: Received[] = []
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    received.push({ headers: request.headers, body: Buffer.concat(chunks).toString() })
    const answer = answers.length > 1 ? answers.shift()! : answers[0]!
    if (typeof answer === 'function') answer(request, response)
    else response.writeHead(answer, { location: '/elsewhere' }).end('x'.repeat(100_000))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  return { received, port, url: `http://127.0.0.1:${port}/hook?x=1` }
}

function open (t: Test, options: Partial<JobQueueOptions> = {}) {
  const queues: JobQueue[] = []
  t.teardown(() => queues[0]?.close())
  const log: Array<[object, string]> = []
  const note = (details: object, message: string) => { log.push([details, message]) }
  const queue = new JobQueue({
    dataDir: options.dataDir ?? t.testdir({}),
    devices: [{ name: 'auto', engine: new ScriptedEngine() }],
    logger: { debug: note, info: note, warn: note, error: note },
    executors: drawingExecutors(({ model }) => ({ files: { model }, options: {}, parameters: { prompt: '', width: 3, height: 2, seed: 1 }, attachments: {} })),
    ...options
  })
  queues.push(queue)
  return { queue, log }
}

const request = (webhookUrl: string, owner = 'ann'): NewJob => ({ type: 'txt2img', owner, model: 'checkpoint/a', parameters: { prompt: 'x' }, webhookUrl })
const ended = (queue: JobQueue, { id }: Job) => queue.waitFor(id, 10_000)
const hosts = new AllowList(['127.0.0.1'], '--webhook-hosts')

t.test('a receiver that is silent delays only its own caller', async t => {
  const silent = await receiver(t, [() => {}])
  const quick = await receiver(t)
  const { queue } = open(t, { webhooks: { hosts, secret } })
  await queue.start()
  for (let index = 0; index < 20; index++) await ended(queue, await queue.submit(request(silent.url, 'bob')))
  await until(() => silent.received.length === 2)
  const start = performance.now()
  await ended(queue, await queue.submit(request(quick.url, 'carol')))
  await until(() => quick.received.length === 1)
  t.ok(performance.now() - start < 5000, 'not the 10 s of a try that gets no answer')
  await ended(queue, await queue.submit(request(silent.url, 'carol')))
  await until(() => silent.received.length === 3)
  t.pass('nor at the same host')
})

t.test('one host and one caller have a part of the places', async t => {
  const silent = await receiver(t, [() => {}])
  const quick = await receiver(t)
  const { queue } = open(t, { webhooks: { hosts, secret } })
  await queue.start()
  for (let index = 0; index < 30; index++) await ended(queue, await queue.submit(request(silent.url, `bob ${index % 10}`)))
  await until(() => silent.received.length === 8)
  await ended(queue, await queue.submit(request(quick.url, 'bob 1')))
  await until(() => quick.received.length === 1)
  t.equal(silent.received.length, 8)
})

t.test('webhooks that are not delivered yet are bounded for each caller', async t => {
  const { queue } = open(t, { webhooks: { hosts, secret }, webhooksPerOwner: 2 })
  const url = 'http://127.0.0.1:9/'
  for (let job = 0; job < 2; job++) await queue.submit(request(url))
  await t.rejects(queue.submit(request(url)), { code: 'SDR_QUEUE_FULL', statusCode: 429, message: /^2 webhooks of your jobs/ })
  t.equal((await queue.status()).queued, 2, 'the job was not accepted')
  await queue.submit(request(url, 'bob'))
  const { webhookUrl, ...silent } = request(url)
  await queue.submit(silent)
})

t.test('the end of a job is told, signed, and tried again until it is heard', async t => {
  const { received, url } = await receiver(t, [500, 302, (_request, response) => response.destroy(), 204])
  const { queue, log } = open(t, { webhooks: { hosts, secret, delays: [5, 5, 5] } })
  await queue.start()
  const job = await ended(queue, await queue.submit(request(url)))
  await until(() => log.some(([, message]) => message === 'Webhook delivered'))
  t.equal(received.length, 4, 'a redirect is not followed')
  for (const { headers, body } of received) {
    t.same(JSON.parse(body), { type: 'job.completed', timestamp: job.finished_at, data: job })
    const { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signature } = headers
    t.equal(id, job.id)
    t.ok(Math.abs(Number(timestamp) - Date.now() / 1000) < 30)
    t.equal(signature, `v1,${createHmac('sha256', secret).update(`${id}.${timestamp}.${body}`).digest('base64')}`)
    t.match(headers, { 'content-type': 'application/json' })
  }

  await queue.drain(1000)
  const cancelled = await queue.submit(request(url)).catch(error => error)
  t.match(cancelled, { code: 'SDR_DRAINING' })
})

t.test('it is given up after the last try, and at once when the receiver is gone', async t => {
  for (const [status, tries] of [[503, 3], [410, 1]] as const) {
    await t.test(String(status), async t => {
      const { received, url } = await receiver(t, [status])
      const { queue, log } = open(t, { webhooks: { hosts, secret, delays: [5, 5] } })
      await queue.start()
      await queue.submit(request(url))
      await until(() => log.some(([, message]) => message === 'Webhook given up'))
      t.equal(received.length, tries)
      t.notOk(JSON.stringify(log).includes('x=1'), 'the log names the host alone: a URL may carry a secret')
    })
  }
})

t.test('what could not be told is told after a restart', async t => {
  const { received, url } = await receiver(t, [500, 204])
  const dataDir = t.testdir({})
  const first = open(t, { dataDir, webhooks: { hosts, secret, delays: [50] } })
  const job = await first.queue.submit(request(url))
  t.match(await first.queue.cancel(job.id), { status: 'cancelled' })
  await until(() => received.length === 1)
  await first.queue.close()
  const second = open(t, { dataDir, webhooks: { hosts, secret } })
  await second.queue.start()
  await until(() => second.log.some(([, message]) => message === 'Webhook delivered'))
  t.match(JSON.parse(received[1]!.body), { type: 'job.cancelled', data: { id: job.id } })
})

t.test('only the hosts that the operator lists, and of those only public addresses', async t => {
  const { received, port, url } = await receiver(t)
  const { queue } = open(t)
  await t.rejects(queue.submit(request(url)), { code: 'SDR_FORBIDDEN', message: /--webhook-hosts/ }, 'off by default')
  const listed = new AllowList(['hooks.example:8443', 'Other.Example', '[::1]:9', 'fd00::1'], '--webhook-hosts')
  for (const good of ['https://hooks.example:8443/x', 'http://other.example/', 'https://OTHER.example:77', 'http://[::1]:9/', 'http://[fd00::1]/']) {
    t.ok(checkUrl(good, listed), good)
  }
  for (const bad of ['https://hooks.example/', 'http://hooks.example.evil:8443', 'http://127.0.0.1/', 'http://[::1]:10/', 'http://evil/?other.example', 'http://other.example.']) {
    t.throws(() => checkUrl(bad, listed), { code: 'SDR_FORBIDDEN' }, bad)
  }
  for (const bad of ['', 'x', 'ftp://other.example', 'file:///etc/passwd', 'http://me@other.example', 'http://:x@other.example', `http://other.example/${'x'.repeat(2048)}`]) {
    t.throws(() => checkUrl(bad, listed), { code: 'SDR_INVALID_REQUEST' }, bad.slice(0, 40))
  }

  const send = (target: string, ...entries: string[]) =>
    post({ id: 'id', body: '{}' }, { url: target, hosts: new AllowList(entries, '--webhook-hosts'), secret, signal: AbortSignal.timeout(10_000) })
  const named = url.replace('127.0.0.1', 'localhost')
  await t.rejects(send(named, 'localhost'), { message: /localhost leads to .*, which is not public; list that address/ })
  t.equal(received.length, 0)
  t.equal(await send(named, 'localhost', `127.0.0.1:${port}`, `[::1]:${port}`), 204, 'unless the address is listed too')
  t.equal(await send(url, `127.0.0.1:${port}`), 204)
  // Other ways to write a loopback address are that address.
  for (const odd of ['http://2130706433/', 'http://0x7f.1/', 'http://127.1/']) await t.rejects(send(odd, 'example.org'), { code: 'SDR_FORBIDDEN' })
})

t.test('which addresses are public', async t => {
  for (const address of ['8.8.8.8', '172.32.0.1', '100.128.0.1', '2606:4700::1111', '2a00:1450::1']) t.ok(isPublicAddress(address), address)
  for (const address of [
    '127.0.0.1', '10.1.2.3', '172.16.0.1', '172.31.255.255', '192.168.1.1', '169.254.169.254', '100.64.0.1', '0.0.0.0', '224.0.0.1', '255.255.255.255',
    '::1', '::', 'fe80::1', 'fd00::1', 'ff02::1', '::ffff:127.0.0.1', '::ffff:8.8.8.8', '64:ff9b::7f00:1', '2002:7f00:1::', '2001:db8::1', 'localhost', ''
  ]) t.notOk(isPublicAddress(address), address)
  // Where clouds tell machines about themselves: Azure, Equinix Metal, Alibaba, Oracle, Tencent, Scaleway, AWS, Google.
  for (const address of ['168.63.129.16', '192.80.8.124', '100.100.100.200', '192.0.0.192', '169.254.0.23', '169.254.42.42', '169.254.170.2',
    'fd00:ec2::254', 'fd20:ce::254', 'fd00:42::42', 'fd00:c1::a9fe:a9fe', 'fe80::a9fe:a9fe', '::ffff:168.63.129.16', '64:ff9b::a83f:8110', '2002:a83f:8110::'
  ]) t.notOk(isPublicAddress(address), address)
  for (const address of ['168.63.129.15', '168.63.129.17']) t.ok(isPublicAddress(address), address)
  for (const entry of ['', 'http://x', 'a b', 'x:99999', '[x]', '[127.0.0.1]', 'x:', '*.example']) {
    t.throws(() => new AllowList([entry], '--webhook-hosts'), { exitCode: 2, message: /host:port for --webhook-hosts/ }, entry)
  }
})
