import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import type { Job } from '../../lib/jobs/job.ts'
import { blocksOf } from '../docs-commands.ts'
import { build, expectError, workspace } from '../helper.ts'
import { startServer, until } from '../server-process.ts'

const secret = randomBytes(32).toString('hex')
const request = { prompt: 'a fox', width: 64, steps: 1, seed: 1 }

t.test('a server that calls nobody, or not this host, says so', async t => {
  const off = await build(t)
  const post = (webhookUrl: unknown, app = off) => app.inject({ method: 'POST', url: '/api/generate/txt2img', body: { ...request, webhook_url: webhookUrl } })
  expectError(t, await post('https://hooks.example/x'), 403, 'SDR_FORBIDDEN', /webhook_url: .*--webhook-hosts/)
  expectError(t, await post('no URL'), 400, 'SDR_INVALID_REQUEST', /Expected an http or https URL .* for webhook_url/)
  for (const bad of ['', 7, {}, `https://hooks.example/${'x'.repeat(2048)}`]) {
    expectError(t, await post(bad), 400, 'SDR_INVALID_REQUEST', /webhook_url/)
  }
  const on = await build(t, { 'webhook-hosts': 'hooks.example', 'webhook-secret': secret })
  const refused = await post('https://hooks.example.evil/?hooks.example', on)
  expectError(t, refused, 403, 'SDR_FORBIDDEN', /hooks.example.evil is not one of the hosts/)
  t.match(refused.json().error.details, [{ field: 'webhook_url' }])
  t.same((await on.inject('/api/queue/jobs')).json().jobs, [], 'nothing was accepted')

  const { components: { schemas } } = (await on.inject('/api/openapi.json')).json()
  for (const type of ['Txt2Img', 'Img2Img', 'Inpaint', 'ControlNet', 'Upscale']) {
    t.equal(schemas[`${type}Request`].properties.webhook_url.maxLength, 2048, type)
  }
})

t.test('the end of a job arrives, also after the server was killed before it could tell', async t => {
  const received: Array<{ headers: IncomingHttpHeaders, body: string }> = []
  const statuses = [503, 204, 410]
  const receiver = createServer(async (incoming, response) => {
    const chunks: Buffer[] = []
    for await (const chunk of incoming) chunks.push(chunk as Buffer)
    received.push({ headers: incoming.headers, body: Buffer.concat(chunks).toString() })
    response.writeHead(statuses.shift() ?? 204).end()
  }).listen(0, '127.0.0.1')
  await once(receiver, 'listening')
  t.teardown(() => {
    receiver.closeAllConnections()
    receiver.close()
  })
  const address = `127.0.0.1:${(receiver.address() as AddressInfo).port}`

  const { folder, models, data } = workspace(t)
  const parameters = ['--models-dir', models, '--data-dir', data, '--webhook-hosts', address]
  const start = () => startServer(t, parameters, { env: { SDREST_WEBHOOK_SECRET: secret } })
  const submit = async (path: string) => (await server.json<Job>('/api/generate/txt2img?wait=60', {
    method: 'POST', body: JSON.stringify({ ...request, webhook_url: `http://${address}${path}` }), headers: { 'idempotency-key': path }
  })).body
  let server = await start()
  const job = await submit('/first?token=x')
  t.equal(job.status, 'completed')
  t.notOk(JSON.stringify(job).includes(address), 'where it is told is nobody else’s business')
  await until(async () => server.log.some(({ msg }) => msg === 'Webhook not delivered'))
  await server.end('SIGKILL')
  t.equal(received.length, 1)

  server = await start()
  await until(async () => server.log.some(({ msg }) => msg === 'Webhook delivered'))
  t.equal(received.length, 2)
  for (const { body, headers } of received) {
    t.same(JSON.parse(body), { type: 'job.completed', timestamp: job.finished_at, data: job })
    t.equal(headers['webhook-id'], job.id, 'the same for each try')
  }
  t.equal((await submit('/first?token=x')).id, job.id, 'a retry of the request is not another job')
  const other = await server.json('/api/generate/txt2img', {
    method: 'POST', body: JSON.stringify({ ...request, webhook_url: `http://${address}/other` }), headers: { 'idempotency-key': '/first?token=x' }
  })
  t.match(other, { status: 409, body: { error: { code: 'SDR_IDEMPOTENCY_CONFLICT' } } })

  const gone = await submit('/gone')
  await until(async () => server.log.some(({ msg }) => msg === 'Webhook given up'))
  t.equal(received.length, 3, 'a receiver that is gone is not asked again')
  t.equal(JSON.parse(received[2]!.body).data.id, gone.id)
  t.notOk(JSON.stringify(server.log).includes('token=x'), 'the log names the host alone')

  const [block] = blocksOf('docs/queue.md').filter(({ language }) => language === 'js')
  writeFileSync(join(folder, 'verify.mjs'), block!.text)
  const { isAuthentic } = await import(pathToFileURL(join(folder, 'verify.mjs')).href)
  for (const { headers, body } of received) {
    t.ok(isAuthentic(headers, body, secret), 'docs/queue.md verifies it')
    t.notOk(isAuthentic(headers, `${body} `, secret))
    t.notOk(isAuthentic(headers, body, `${secret}0`))
    t.notOk(isAuthentic({ ...headers, 'webhook-timestamp': '1' }, body, secret), 'an old one is none')
  }
  t.match(await server.end(), { code: 0 })
})
