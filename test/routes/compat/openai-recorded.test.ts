import type { InjectOptions } from 'fastify'
import sharp from 'sharp'
import t from 'tap'
import { buildScripted } from './scripted.ts'

/**
 * What each client sends, by its sources, and what it needs of the answer. The clients that the npm registry has are in
 * openai-clients.test.ts.
 */

interface Answer {
  created: number
  data: Array<{ b64_json?: unknown, url?: string }>
}

const isPng = (base64: unknown) => typeof base64 === 'string' && base64.startsWith('iVBORw0KGgo')

const json = (url: string, body: object, headers: Record<string, string> = {}): InjectOptions =>
  ({ method: 'POST', url, headers, body })

/** As FormData of a browser or of Node.js writes it. */
async function form (url: string, fields: Array<[string, string | Buffer]>): Promise<InjectOptions> {
  const data = new FormData()
  for (const [name, value] of fields) {
    if (typeof value === 'string') data.append(name, value)
    else data.append(name, new Blob([new Uint8Array(value)], { type: 'image/png' }), 'image.png')
  }
  const response = new Response(data)
  return {
    method: 'POST',
    url,
    headers: { 'content-type': response.headers.get('content-type')! },
    payload: Buffer.from(await response.arrayBuffer())
  }
}

const image = await sharp({ create: { width: 64, height: 64, channels: 3, background: '#ff2000' } }).png().toBuffer()
const mask = await sharp({ create: { width: 64, height: 64, channels: 4, background: '#0000' } }).png().toBuffer()

const one = (answer: Answer) => answer.data.length === 1 && isPng(answer.data[0]!.b64_json)

const requests: Array<[client: string, request: InjectOptions, needs: (answer: Answer) => boolean]> = [
  ['Open WebUI', json('/v1/images/generations?api-version=2024-02-01', { model: 'dall-e-2', prompt: 'a fox', n: 1, size: '64x64', response_format: 'b64_json', steps: 4, whatever: true }, { 'x-openwebui-user-name': 'bob' }), one],
  ['Open WebUI, gpt-image, without a size', json('/v1/images/generations', { model: 'gpt-image-1', prompt: 'a fox', n: 2 }), ({ data }) => data.length === 2 && data.every(({ b64_json }) => isPng(b64_json))],
  ['Open WebUI, edit', await form('/v1/images/edits', [['model', 'gpt-image-1'], ['prompt', 'a fox'], ['n', '1'], ['size', '64x64'], ['background', 'auto'], ['image', image]]), one],
  ['Open WebUI, edit of several', await form('/v1/images/edits', [['model', 'kontext'], ['prompt', 'a fox'], ['image[]', image], ['image[]', image]]), one],
  ['LibreChat', json('/v1/images/generations', { model: 'gpt-image-1', prompt: 'a fox', n: 1, background: 'auto', quality: 'auto', size: 'auto', output_format: 'png', output_compression: 100 }), one],
  ['LibreChat, edit', await form('/v1/images/edits', [['model', 'gpt-image-1'], ['prompt', 'a fox'], ['quality', 'auto'], ['size', 'auto'], ['image[]', image]]), one],
  ['AnythingLLM', json('/v1/images/generations', { model: 'sdxs', prompt: 'a fox', size: '1024x1024', n: 1, steps: 1 }), one],
  ['AnythingLLM, Lemonade', await form('/api/v1/images/edits', [['model', 'sdxs'], ['prompt', 'a fox'], ['size', '64x64'], ['n', '1'], ['image', image]]), one],
  ['LobeChat', json('/v1/images/generations', { model: 'gpt-image-1', prompt: 'a fox', n: 1, cfg: 7, steps: 2, seed: 5, imageUrl: null, aspectRatio: '1:1' }), one],
  ['LobeChat, edit', await form('/v1/images/edits', [['model', 'gpt-image-1'], ['prompt', 'a fox'], ['n', '1'], ['input_fidelity', 'high'], ['image', image]]), one],
  ['n8n', json('/v1/images/generations', { model: 'gpt-image-1-mini', prompt: 'a fox', n: 1, size: '64x64', quality: 'medium', style: 'natural' }), one],
  ['n8n, URLs', json('/v1/images/generations', { model: 'dall-e-3', prompt: 'a fox', n: 1, size: '64x64', response_format: 'url' }), ({ data }) => /^http:\/\/.*\/v1\/images\/files\//.test(data[0]!.url!)],
  ['KoboldAI Lite', json('/v1/images/generations', { model: 'dall-e-3', prompt: 'a fox', n: 1, size: '1024x1024', response_format: 'b64_json', steps: 1 }, { origin: 'https://lite.example' }), one],
  ['KoboldAI Lite, gpt-image-1', json('/v1/images/generations', { model: 'gpt-image-1', prompt: 'a fox', n: 1, size: '1024x1024', quality: 'medium' }, { origin: 'https://lite.example' }), one],
  ['big-AGI', json('/v1/images/generations', { model: 'gpt-image-1', prompt: 'a fox', n: 1, size: '64x64', quality: 'high', background: 'opaque', output_format: 'png', moderation: 'low', user: 'big-AGI' }), one],
  ['big-AGI, edit with a mask', await form('/v1/images/edits', [['model', 'gpt-image-1'], ['prompt', 'a fox'], ['n', '1'], ['quality', 'high'], ['user', 'big-AGI'], ['image', image], ['mask', mask]]), one],
  ['Vercel AI SDK, edit with a mask', await form('/v1/images/edits', [['model', 'gpt-image-1'], ['prompt', 'a fox'], ['n', '1'], ['size', '64x64'], ['image', image], ['mask', mask]]), one]
]

t.test('recorded requests of clients get what they need', async t => {
  const { app, engine } = await buildScripted(t, { 'model-alias': '*=sdxs', 'cors-origins': 'https://lite.example' }, { checkpoints: ['sdxs'] })
  for (const [client, request, needs] of requests) {
    const response = await app.inject(request)
    t.equal(response.statusCode, 200, `${client}: ${response.body.slice(0, 200)}`)
    const answer = response.json<Answer>()
    t.ok(Number.isInteger(answer.created) && needs(answer), `${client}: ${response.body.slice(0, 200)}`)
  }
  const types = (await app.jobs.list()).jobs.map(({ type }) => type)
  t.ok(['txt2img', 'img2img', 'inpaint'].every(type => (types as string[]).includes(type)))
  const seen = engine.calls.flatMap(({ operation, attachments }) => operation === 'generate' ? [Object.keys(attachments).join()] : [])
  t.ok(seen.includes('ref_images.0,ref_images.1'), 'a model that edits is shown the images')
  t.ok(seen.includes('init_image'), 'any other draws over one')
  const holes = engine.calls.find(({ attachments }) => attachments.mask !== undefined)
  t.same(await sharp(holes!.attachments.mask).stats().then(({ channels }) => channels[0]!.min), 255, 'all of an empty mask changes')
})

t.test('what clients ask besides', async t => {
  const { app } = await buildScripted(t, { 'model-alias': 'dall-e-3=minit2i,gpt-image-1=minit2i', 'cors-origins': 'https://lite.example' })
  const { data } = (await app.inject('/v1/models')).json<{ data: Array<{ id: string }> }>()
  t.ok(data.some(({ id }) => /^(?:dall-e|gpt-image)/.test(id)), 'n8n lists these only')
  const shown = (await app.inject('/api/v1/models?show_all=true')).json<{ data: Array<{ labels: string[] }> }>()
  t.ok(shown.data.every(({ labels }) => labels.includes('image')), 'AnythingLLM with Lemonade shows these')
  t.equal((await app.inject({ method: 'OPTIONS', url: '/v1/images/generations' })).statusCode, 204, 'SillyTavern pings')
  const preflight = await app.inject({
    method: 'OPTIONS', url: '/v1/images/generations', headers: { origin: 'https://lite.example', 'access-control-request-method': 'POST', 'access-control-request-headers': 'authorization,content-type,x-stainless-os' }
  })
  t.match(preflight, { statusCode: 204, headers: { 'access-control-allow-origin': 'https://lite.example', 'access-control-allow-headers': /authorization.*x-stainless-os/ } }, 'KoboldAI Lite runs in a browser')
})
