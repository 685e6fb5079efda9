import t from 'tap'
import { doubledProgram } from '../doubled-program.ts'
import { workspace } from '../helper.ts'
import { png } from '../lib/jobs/fixtures/scripted-engine.ts'
import { startServer, until } from '../server-process.ts'

t.setTimeout(300_000)

const bytes = png(64, 64).toString('base64')
const image = { index: 0, width: 64, height: 64, seed: 1 }
const info = { engine: 'portable', version: '1', device: 'x', capabilities: null, samplers: ['euler'], schedulers: ['discrete'], weight_types: [] }
type Messages = Array<[kind: string, contents: unknown]>
const good: Messages = [['image', image]]

/** What the engine says during a job. */
const malformed: Array<[name: string, what: { messages: Messages, times?: number, result?: unknown }]> = [
  ...[1.5, {}, null, -1, 'x', undefined].map(seed => [`a seed of ${JSON.stringify(seed)}`, { messages: [['image', { ...image, seed }]] }]),
  ...[{}, null, '../../x', -1, 5].map(index => [`an index of ${JSON.stringify(index)}`, { messages: [['image', { ...image, index }]] }]),
  ['two images with one index', { messages: [...good, ...good] }],
  ['a size that the bytes do not have', { messages: [['image', { ...image, width: 128 }]] }],
  ['3000 images', { messages: good, times: 3000 }],
  ['capabilities of null', { messages: [['info', info], ...good] }],
  ['a second hello', { messages: [['hello', null], ...good] }],
  ['a progress of text', { messages: [['progress', { phase: 'sampling', step: 'x', steps: 2, index: 0 }], ...good] }],
  ['a result of text', { messages: good, result: 'x' }],
  ['milliseconds of null', { messages: good, result: { generate_ms: null } }]
] as Array<[string, { messages: Messages }]>

t.test('a malformed message costs its job, and the next one is drawn', async t => {
  const { models, data } = workspace(t)
  const server = await startServer(t, ['--models-dir', models, '--data-dir', data], { program: doubledProgram(t) })
  const draw = async (what: object): Promise<object> => {
    const { body: { id }, status } = await server.json('/api/generate/txt2img', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ prompt: `say ${JSON.stringify({ png: bytes, ...what })}`, width: 64, height: 64 })
    })
    t.equal(status, 202)
    return await until(async () => {
      const { body } = await server.json(`/api/queue/job/${id}`)
      return ['completed', 'failed', 'cancelled'].includes(body.status) && body as object
    })
  }
  const whole = async (name: string) =>
    t.match(await draw({ messages: good }), { status: 'completed', attempts: 1, images: [{ width: 64 }] }, `the next job after ${name}`)
  await whole('the start')
  for (const [name, what] of malformed) {
    t.match(await draw(what), { status: 'failed', attempts: 2, error: { code: 'engine_crashed', message: /Expected|sent|second|image/ }, images: [] }, name)
    await whole(name)
  }

  t.match(await draw({ messages: [['log', 100_000], ['log', 'a\n\u001b[31mb']], times: 2000, result: undefined }), { status: 'failed' }, 'lines without end, and no image')
  await whole('20 MB of lines')
  const lines = server.log.map(line => JSON.stringify(line))
  t.ok(lines.length < 3000, `${lines.length} lines`)
  t.ok(lines.every(line => line.length < 20_000))
  t.match((await server.json('/api/health')).status, 200)
  t.match(await server.end(), { code: 0 })
})
