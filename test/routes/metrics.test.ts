import { execFileSync, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import t from 'tap'
import { as, build, expectError, workspace } from '../helper.ts'
import { startServer } from '../server-process.ts'

interface Sample {
  name: string
  labels: Record<string, string>
  value: number
}

/** The parser of the Prometheus project's own client for Python (Debian: python3-prometheus-client). */
const python = '/usr/bin/python3'
const parser = `
import json, sys
from prometheus_client.parser import text_string_to_metric_families
families = list(text_string_to_metric_families(sys.stdin.read()))
print(json.dumps({'types': {f.name: f.type for f in families}, 'samples': [{'name': s.name, 'labels': s.labels, 'value': s.value} for f in families for s in f.samples]}))`

function parse (text: string): { samples: Sample[], types: Record<string, string> } {
  return JSON.parse(execFileSync(python, ['-c', parser], { input: text, encoding: 'utf8', maxBuffer: 2 ** 26 }))
}

const lacksParser = spawnSync(python, ['-c', 'import prometheus_client.parser']).status !== 0
const skip = lacksParser && process.env.CI !== 'true' && 'python3-prometheus-client is not installed'

const sum = (samples: Sample[], name: string, labels: Record<string, string> = {}) => samples
  .filter(sample => sample.name === name &&
    Object.entries(labels).every(([label, value]) => sample.labels[label] === value))
  .reduce((total, { value }) => total + value, 0)

t.test('what happens is counted, in words of few values', { skip }, async t => {
  const app = await build(t, { auth: 'jwt' })
  const alice = await as(app, 'alice', 'admin')
  await app.inject({ method: 'POST', url: '/api/auth/login', body: { username: 'alice', password: 'not the password' } })
  await app.inject('/api/models')
  await alice('/api/models/checkpoint%2Fminit2i.safetensors')
  await alice('/api/no/such/thing')
  await alice({ method: 'GET', url: '/api/%2e%2e/secret-word?token=secret-word' })
  await alice({ method: 'PROPFIND' as 'GET', url: '/api/models' })
  await app.inject({ url: '/api/models', headers: { authorization: 'Bearer secret-word' } })
  const job = await alice({ method: 'POST', url: '/api/generate/txt2img?wait=60', body: { prompt: 'secret-word', width: 64, steps: 4, seed: 1 } })
  t.equal(job.json().status, 'completed')

  const answer = await alice('/metrics')
  t.equal(answer.statusCode, 200)
  t.match(answer.headers['content-type'], /^text\/plain; version=0\.0\.4/)
  t.notMatch(answer.body, /secret-word|alice|minit2i/)
  const { samples, types } = parse(answer.body)

  t.equal(sum(samples, 'sdrest_http_requests_total', { route: '/api/models', status: '401' }), 2)
  t.equal(sum(samples, 'sdrest_http_requests_total', { route: '/api/models/*', status: '200' }) + sum(samples, 'sdrest_http_requests_total', { route: '/api/models/{id}', status: '200' }), 1)
  t.equal(sum(samples, 'sdrest_http_requests_total', { route: 'unknown' }), 3, 'unknown URLs and methods are one route')
  t.equal(sum(samples, 'sdrest_http_request_duration_seconds_count', { route: '/api/generate/txt2img' }), 1)
  t.equal(sum(samples, 'sdrest_auth_decisions_total', { credential: 'none', outcome: 'SDR_UNAUTHENTICATED' }), 1)
  t.equal(sum(samples, 'sdrest_auth_decisions_total', { credential: 'token', outcome: 'SDR_INVALID_TOKEN' }), 1)
  t.ok(sum(samples, 'sdrest_auth_decisions_total', { credential: 'token', outcome: 'allowed' }) >= 2)
  t.equal(sum(samples, 'sdrest_audit_events_total', { event: 'login', outcome: 'success' }), 1)
  t.equal(sum(samples, 'sdrest_audit_events_total', { event: 'login', outcome: 'failure' }), 1)
  t.equal(sum(samples, 'sdrest_jobs_ended_total', { type: 'txt2img', status: 'completed' }), 1)
  t.equal(sum(samples, 'sdrest_job_wait_seconds_count'), 1)
  t.equal(sum(samples, 'sdrest_job_run_seconds_count', { status: 'completed' }), 1)
  t.ok(sum(samples, 'sdrest_job_run_seconds_sum') > 0)
  t.ok(sum(samples, 'sdrest_step_seconds_count') >= 3, 'each step but perhaps the first')
  t.equal(sum(samples, 'sdrest_model_load_seconds_count'), 1)
  t.equal(sum(samples, 'sdrest_model_headers_total', { source: 'read' }), 1)
  t.equal(sum(samples, 'sdrest_models', { type: 'checkpoint' }), 1)
  t.equal(sum(samples, 'sdrest_engine_up'), 1)
  t.equal(sum(samples, 'sdrest_engine_restarts_total'), 0)
  t.equal(sum(samples, 'sdrest_queue_capacity'), 1000)
  t.ok(sum(samples, 'process_cpu_seconds_total') > 0)
  t.ok(Math.abs(sum(samples, 'process_start_time_seconds') + process.uptime() - Date.now() / 1000) < 2)

  for (const [name, type] of Object.entries(types)) {
    t.match(name, /^(sdrest|process|nodejs)_[a-z0-9_]+$/)
    if (type === 'counter') t.ok(samples.some(sample => sample.name === `${name}_total`) || !samples.some(sample => sample.name.startsWith(name)), `${name} ends in _total`)
  }
})

t.test('/metrics is a route like any other', async t => {
  const app = await build(t, { auth: 'jwt' }, { models: false })
  expectError(t, await app.inject('/metrics'), 401, 'SDR_UNAUTHENTICATED')
  const bob = await as(app, 'bob')
  expectError(t, await bob('/metrics'), 403, 'SDR_FORBIDDEN')
  const { id: userId } = await as(app, 'alice', 'admin')
  const { key } = await app.keys.create({ userId, name: 'prometheus', permissions: ['system:read'] })
  t.equal((await app.inject({ url: '/metrics', headers: { authorization: `Bearer ${key}` } })).statusCode, 200)
  expectError(t, await app.inject({ url: '/api/models', headers: { authorization: `Bearer ${key}` } }), 403, 'SDR_FORBIDDEN')

  const open = await build(t, { auth: 'jwt', 'public-paths': '/metrics' }, { models: false })
  t.equal((await open.inject('/metrics')).statusCode, 200)
  expectError(t, await open.inject('/api/models'), 401, 'SDR_UNAUTHENTICATED')
})

t.test('--metrics-listen answers scrapers and nothing else', async t => {
  const { models, data } = workspace(t)
  const server = await startServer(t, ['--models-dir', models, '--data-dir', data, '--auth', 'jwt', '--metrics-listen', '127.0.0.1:0', '--allowed-hosts', 'metrics.example'])
  const announced = server.log.find(({ msg }) => /^Metrics at/.test(msg as string))
  const [url] = /http:\S+metrics/.exec(announced!.msg as string)!
  const answer = await fetch(url)
  t.equal(answer.status, 200)
  t.match(await answer.text(), /^sdrest_engine_up\{device="[^"]+"\} 1$/m)
  t.match(await (await fetch(url, { method: 'HEAD' })).text(), '')
  for (const [path, init] of [['/', {}], ['/metrics/', {}], ['/api/models', {}], ['/metrics?x=1', {}], ['/metrics', { method: 'POST', body: 'x' }]] as const) {
    t.equal((await fetch(new URL(path, url), init)).status, 404, path)
  }
  const asked = async (host: string) => {
    const socket = connect(Number(new URL(url).port), '127.0.0.1')
    socket.write(`GET /metrics HTTP/1.0\r\n${host}\r\n`)
    let text = ''
    for await (const chunk of socket.setEncoding('utf8')) text += chunk
    return text
  }
  for (const host of ['Host: rebound.example\r\n', 'Host: 127.0.0.1.evil.example:9464\r\n', '']) t.match(await asked(host), /^HTTP\/1\.1 421 (?!.*sdrest_)/s, `a rebound page reads nothing: ${host}`)
  for (const host of ['Host: localhost:9464\r\n', 'Host: [::1]\r\n', 'Host: Metrics.example\r\n']) t.match(await asked(host), /^HTTP\/1\.1 200 .*sdrest_engine_up/s, host)
  const raw = connect(Number(new URL(url).port), '127.0.0.1')
  raw.end('rubbish\r\n\r\n')
  await once(raw.resume(), 'close')
  t.equal((await fetch(`${server.url}/metrics`)).status, 401, 'the main address still asks')
  t.match(await server.end(), { code: 0 })
})
