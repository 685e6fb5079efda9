import { statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import type { FastifyInstance, LightMyRequestResponse } from 'fastify'
import pino from 'pino'
import sharp, { type Metadata } from 'sharp'
import t, { type Test } from 'tap'
import { SignedLinks } from '../../../lib/compat/openai/signed-links.ts'
import type { Job } from '../../../lib/jobs/job.ts'
import { writeCheckpoint } from '../../../bin/support/demo-model/checkpoints.ts'
import { as, build, workspace } from '../../helper.ts'
import { buildScripted } from './scripted.ts'

t.setTimeout(300_000)

interface Answer {
  created: number
  size: string
  output_format: string
  quality: string
  data: Array<{ b64_json?: string, url?: string, seed: number }>
  usage: { total_tokens: number }
}

interface ModelList {
  object: string
  data: Array<{ id: string, labels: string[] }>
}

/** A multipart field; bytes are a file. */
type Field = [name: string, value: string | Buffer]

async function buildBoth (t: Test, options: Record<string, unknown> = {}): Promise<FastifyInstance> {
  const { models, data } = workspace(t)
  writeCheckpoint('sdxs', join(models, 'sdxs.safetensors'))
  return await build(t, {
    'models-dir': [models], 'data-dir': data, 'model-alias': ['gpt-image-1=minit2i', 'other=sdxs'], ...options
  }, { models: false })
}

const generate = (app: FastifyInstance, body: object, url = '/v1/images/generations') =>
  app.inject({ method: 'POST', url, body: { prompt: 'a fox', steps: 1, size: '64x64', ...body } })

function sizeOf (t: Test, response: LightMyRequestResponse): Promise<Metadata> {
  const { data: [first] } = response.json<Answer>()
  t.ok(first, response.body.slice(0, 300))
  return sharp(Buffer.from(first!.b64_json!, 'base64')).metadata()
}

function expectOpenAIError (
  t: Test, response: LightMyRequestResponse, status: number,
  { message, ...error }: { message?: RegExp, type?: string, param?: string | null, code: string, retry?: string }
): void {
  const { retry = 'false', ...rest } = error
  t.equal(response.statusCode, status, response.body)
  t.match(response.json(), { error: { message: message ?? String, ...rest } })
  t.same(Object.keys(response.json<{ error: object }>().error).sort(), ['code', 'message', 'param', 'type'])
  t.equal(response.headers['x-should-retry'], retry === '' ? undefined : retry)
  t.type(response.headers['x-request-id'], 'string')
}

const red = async (width = 64, height = 64) =>
  sharp({ create: { width, height, channels: 3, background: '#ff2000' } }).png().toBuffer()

/** A multipart body with files and fields. */
function form (fields: Field[]) {
  const boundary = 'limit'
  const parts = fields.flatMap(([name, value]) => [
    `--${boundary}\r\nContent-Disposition: form-data; name="${name}"${typeof value === 'string' ? '' : '; filename="a.png"\r\nContent-Type: image/png'}\r\n\r\n`,
    value, '\r\n'
  ])
  return {
    payload: Buffer.concat([...parts, `--${boundary}--\r\n`].map(part => Buffer.from(part as string))),
    headers: { 'content-type': `multipart/form-data; boundary=${boundary}` }
  }
}

t.test('the images API of OpenAI', async t => {
  const app = await buildBoth(t)

  t.test('draws, with an alias, and says what it drew', async t => {
    for (const prefix of ['/v1', '/api/v1']) {
      const response = await generate(app, { model: 'gpt-image-1', size: '70x100', seed: 3 }, `${prefix}/images/generations`)
      t.match(response.json(), { size: '72x72', output_format: 'png', background: 'opaque', quality: 'auto', usage: { total_tokens: 0 }, data: [{ seed: 3 }] })
      t.match(await sizeOf(t, response), { width: 72, height: 72, format: 'png' })
      t.ok(Math.abs(response.json<Answer>().created - Date.now() / 1000) < 100, 'seconds')
    }
  })

  t.test('takes what clients leave open, and ignores what it does not know', async t => {
    const response = await generate(app, {
      model: 'minit2i', size: 'auto', n: null, background: 'auto', quality: 'hd', style: 'vivid', moderation: 'low', user: 'u', response_format: '', output_format: 'jpeg', output_compression: 50, anything: { of: [1] }
    })
    t.match(await sizeOf(t, response), { format: 'jpeg' })
    t.equal(response.json<Answer>().quality, 'hd')
    for (const quality of [{ of: [1] }, 5, 'q'.repeat(10_000)]) {
      t.equal((await generate(app, { model: 'minit2i', quality })).json<Answer>().quality, 'auto')
      const stream = await generate(app, { model: 'minit2i', quality, stream: true })
      t.match(stream.body, /"quality":"auto"/, 'sends nothing back that it does not know')
    }
    t.match(await sizeOf(t, await generate(app, { output_format: 'webp', size: null, width: 64, height: 64 })), { format: 'webp', width: 64 })
  })

  t.test('rounds sizes to what the model draws', async t => {
    for (const [size, expected] of [['1000x500', '512x512'], ['1x1', '64x64']]) {
      t.equal((await generate(app, { model: 'minit2i', size })).json<Answer>().size, size === '1000x500' ? '504x504' : expected)
    }
    t.equal((await generate(app, { model: 'sdxs', size: '100x60' })).json<Answer>().size, '128x64')
  })

  t.test('draws more images than one job may make', async t => {
    const few = await buildBoth(t, { 'max-batch': '2' })
    const { data } = (await generate(few, { model: 'minit2i', n: 5, seed: 7 })).json<Answer>()
    t.same(data.map(({ seed }) => seed), [7, 8, 9, 10, 11])
    t.equal(new Set(data.map(({ b64_json }) => b64_json)).size, 5)
    t.same((await few.jobs.list()).jobs.map(({ parameters }) => parameters.batch_count), [1, 2, 2])
    expectOpenAIError(t, await generate(few, { n: 11 }), 400, { param: 'n', code: 'invalid_request', type: 'invalid_request_error', message: /^Expected an integer from 1 to 10 for n but received 11$/ })
  })

  t.test('refuses what would give another image', async t => {
    const refused = async (body: object, param: string, message: RegExp) =>
      expectOpenAIError(t, await generate(app, body), 400, { param, message, type: 'invalid_request_error', code: 'invalid_request' })
    await refused({ background: 'transparent' }, 'background', /^Expected opaque or auto/)
    await refused({ size: 'large' }, 'size', /auto or WIDTHxHEIGHT/)
    await refused({ size: '0x64' }, 'size', /auto or WIDTHxHEIGHT/)
    await refused({ width: 64 }, 'width', /because size says it/)
    await refused({ init_image: 'x' }, 'init_image', /^Expected image and mask of .images.edits instead for init_image /)
    await refused({ image: 'x' }, 'image', /^Expected image and mask of .images.edits instead for image /)
    await refused({ batch_count: 2 }, 'batch_count', /^Expected n instead for batch_count /)
    await refused({ prompt: undefined }, 'prompt', /prompt is missing/)
    await refused({ output_format: 'gif' }, 'output_format', /one of png, jpeg, webp/)
    await refused({ partial_images: 4 }, 'partial_images', /from 0 to 3/)
    await refused({ steps: 0 }, 'steps', /an integer from 1/)
    expectOpenAIError(t, await generate(app, { model: 'dall-e-3' }), 404, { param: 'model', code: 'model_not_found', message: /--model-alias can give this name a model/ })
    expectOpenAIError(t, await app.inject({ method: 'POST', url: '/v1/images/generations', headers: { 'content-type': 'application/json' }, payload: '{' }), 400, { code: 'invalid_json' })
    expectOpenAIError(t, await app.inject({ method: 'POST', url: '/v1/images/edits', body: { prompt: 'x' } }), 415, { code: 'unsupported_media_type' })
    expectOpenAIError(t, await app.inject('/v1/chat/completions'), 404, { code: 'not_found', param: null })
    expectOpenAIError(t, await app.inject({ method: 'PUT', url: '/v1/models' }), 405, { code: 'method_not_allowed', param: null })
    t.match((await app.inject('/api/nothing')).json(), { error: { request_id: String } }, 'errors of our own API keep their shape')
  })

  t.test('lists models and aliases', async t => {
    for (const url of ['/v1/models', '/api/v1/models?show_all=true']) {
      const { object, data } = (await app.inject(url)).json<ModelList>()
      t.equal(object, 'list')
      t.same(data.map(({ id }) => id), ['checkpoint/minit2i.safetensors', 'checkpoint/sdxs.safetensors', 'gpt-image-1', 'other'])
      t.same(data.map(({ labels }) => labels), [['image'], ['image', 'edit'], ['image'], ['image', 'edit']])
    }
    for (const id of ['checkpoint/sdxs.safetensors', 'checkpoint%2Fsdxs.safetensors', 'sdxs', 'other']) {
      t.match((await app.inject(`/v1/models/${id}`)).json(), { id: decodeURIComponent(id), object: 'model', created: Number, owned_by: 'stable-diffusion-rest' })
    }
    expectOpenAIError(t, await app.inject('/v1/models/nothing'), 404, { code: 'model_not_found', param: 'model' })
    t.equal((await app.inject({ method: 'OPTIONS', url: '/v1/images/generations' })).statusCode, 204)
  })

  t.test('edits, with and without a mask, and varies', async t => {
    const post = (kind: string, fields: Field[]) => app.inject({ method: 'POST', url: `/v1/images/${kind}`, ...form(fields) })
    const image = await red(128, 64)
    const common: Array<[string, string]> = [['model', 'sdxs'], ['steps', '1'], ['n', '1'], ['seed', '5'], ['clip_skip', '11']]
    const edited = await post('edits', [...common, ['prompt', 'a fox'], ['image', image], ['size', 'auto'], ['background', 'auto'], ['input_fidelity', 'high']])
    t.match(await sizeOf(t, edited), { format: 'png' })
    t.match((await app.jobs.list()).jobs[0], { type: 'img2img', parameters: { strength: 0.75, seed: 5 } })
    const { width, height } = await sizeOf(t, edited)
    t.equal(width / height, 2, 'the shape of the image')

    // White around a hole: for OpenAI the hole is what changes.
    const mask = await sharp({ create: { width: 128, height: 64, channels: 4, background: '#ffffffff' } }).composite([{ input: { create: { width: 64, height: 64, channels: 4, background: '#000' } }, left: 0, top: 0, blend: 'dest-out' }]).png().toBuffer()
    const masked = await post('edits', [...common, ['prompt', 'a fox'], ['image[]', image], ['mask', mask], ['size', '128x64']])
    expectOpenAIError(t, masked, 422, { code: 'unsupported_feature', message: /^The portable engine lacks inpaint/ })

    const varied = await post('variations', [...common, ['image', image], ['response_format', 'b64_json']])
    t.equal(varied.statusCode, 200, varied.body.slice(0, 300))
    t.match((await app.jobs.list()).jobs[0], { type: 'img2img', parameters: { prompt: '' } })

    const refused = async (kind: string, fields: Field[], param: string, message: RegExp, status = 400) => {
      const response = await post(kind, fields)
      t.equal(response.statusCode, status, response.body.slice(0, 300))
      t.match(response.json(), { error: { param, message } })
    }
    await refused('edits', [...common, ['prompt', 'a fox'], ['image', image], ['image', image]], 'image', /^Expected one image, because checkpoint.sdxs.safetensors takes no others/)
    await refused('edits', [...common, ['prompt', 'a fox']], 'image', /image is missing/)
    await refused('edits', [...common, ['image', image]], 'prompt', /prompt is missing/)
    await refused('edits', [...common, ['prompt', 'a fox'], ['image', Buffer.from('GIF89a')]], 'image', /for image but received/)
    await refused('edits', [...common, ['prompt', 'a fox'], ['image', image], ['n', 'two']], 'n', /one value|an integer/)
    await refused('variations', [...common, ['image', image], ['mask', mask]], 'mask', /image and mask of .images.edits/)
  })

  t.test('streams', async t => {
    const response = await generate(app, { model: 'minit2i', stream: true, partial_images: 2, n: 2 })
    t.equal(response.headers['content-type'], 'text/event-stream')
    const events = response.body.trim().split('\n\n').map(event => event.split('\n'))
    t.same(events.map(([name]) => name), ['event: image_generation.completed', 'event: image_generation.completed'])
    t.match(JSON.parse(events[0]![1]!.slice(6)), {
      type: 'image_generation.completed', b64_json: String, created_at: Number, size: '64x64', quality: 'auto', background: 'opaque', output_format: 'png', usage: { total_tokens: 0 }
    })
    expectOpenAIError(t, await generate(app, { stream: true, n: 0 }), 400, { code: 'invalid_request', param: 'n' })
  })
})

t.test('a link to an image needs no credentials, and counts for that image, a time and its owner', async t => {
  const app = await build(t, { auth: 'jwt', 'signed-url-minutes': '1' })
  const alice = await as(app, 'alice')
  const response = await alice({ method: 'POST', url: '/v1/images/generations', body: { prompt: 'a fox', steps: 1, size: '64x64', n: 2, response_format: 'url', output_format: 'jpeg' } })
  const links = response.json<Answer>().data.map(({ url }) => new URL(url!))
  t.equal(links.length, 2)
  t.notOk(response.body.includes('b64_json'))
  const get = ({ pathname, search }: URL) => app.inject(pathname + search)
  for (const link of links) {
    const image = await get(link)
    t.match(image, { statusCode: 200, headers: { 'content-type': 'image/jpeg', 'cross-origin-resource-policy': 'cross-origin', 'cache-control': 'no-store' } })
    t.match(await sharp(image.rawPayload).metadata(), { format: 'jpeg', width: 64 })
  }
  const changed = (change: (link: URL) => void) => {
    const link = new URL(links[0]!)
    change(link)
    return get(link)
  }
  const bad = { code: 'forbidden', message: /^This link to an image is not valid/ }
  expectOpenAIError(t, await changed(link => { link.pathname = links[1]!.pathname }), 403, bad)
  expectOpenAIError(t, await changed(link => { link.pathname = link.pathname.replace('.jpeg', '.png') }), 403, bad)
  expectOpenAIError(t, await changed(link => link.searchParams.set('expires', '99999999999')), 403, bad)
  expectOpenAIError(t, await changed(link => link.searchParams.set('quality', '5')), 403, bad)
  expectOpenAIError(t, await changed(link => link.searchParams.set('signature', '0'.repeat(43))), 403, bad)
  expectOpenAIError(t, await changed(link => link.searchParams.delete('signature')), 400, { code: 'invalid_request', param: 'signature' })
  const { id } = (await app.store.accounts.find('alice'))!
  const { refreshToken: _, ...root } = await as(app, 'root', 'admin')
  t.ok(root)
  const admin = await as(app, 'root')
  t.equal((await admin({ method: 'PATCH', url: `/api/users/${id}`, body: { disabled: true } })).statusCode, 200)
  expectOpenAIError(t, await get(links[0]!), 403, bad)
})

t.test('links survive a restart, their key is for its owner alone, and no log has them', async t => {
  const { models, data } = workspace(t)
  let log = ''
  const logger = pino({ level: 'trace' }, { write: (text: string) => { log += text } })
  const start = async () => build(t, {
    'models-dir': [models], 'data-dir': data, verbose: true, 'log-level': 'trace'
  }, { models: false, logger })
  const app = await start()
  const response = await generate(app, { response_format: 'url' })
  const { pathname, search } = new URL(response.json<Answer>().data[0]!.url!)
  await app.close()
  const again = await start()
  t.equal((await again.inject(pathname + search)).statusCode, 200)
  t.equal((await again.inject(pathname + search.replace(/.$/, '!'))).statusCode, 403)
  t.equal(statSync(join(data, 'auth', 'link-secret')).mode & 0o777, 0o600)
  t.match(log, '/v1/images/files/{name}')
  t.notOk(log.includes(new URLSearchParams(search).get('signature')!))

  const { id } = (await again.jobs.list()).jobs[0]!
  const late = new SignedLinks('x'.repeat(32), 1, () => Date.now() - 61_000)
  const { searchParams } = new URL(late.sign({ job: id, index: 0, format: 'png' }), 'http://x/')
  const query = { expires: Number(searchParams.get('expires')), signature: searchParams.get('signature')! }
  t.throws(() => new SignedLinks('x'.repeat(32), 1).check(`${id}-0.png`, query), { code: 'SDR_FORBIDDEN', message: /expired/ })
})

t.test('an alias without a model is a warning, and is not listed', async t => {
  let log = ''
  const logger = pino({}, { write: (text: string) => { log += text } })
  const app = await build(t, { 'model-alias': 'gpt-image-1=later,*=minit2i' }, { logger })
  t.match(log, /"model":"later".*A model of --model-alias cannot be used/)
  t.same((await app.inject('/v1/models')).json<ModelList>().data.map(({ id }) => id), ['checkpoint/minit2i.safetensors'])
  t.equal((await generate(app, { model: 'anything' })).statusCode, 200, '* is any other name')
  expectOpenAIError(t, await generate(app, { model: 'gpt-image-1' }), 404, { code: 'model_not_found', param: 'model' })
})

t.test('a full queue says when to come again, and what was taken of a request is taken back', async t => {
  const { app, engine } = await buildScripted(t, { 'queue-per-owner': '2', 'max-batch': '1' })
  let release = () => {}
  engine.script.generate = [{ hold: new Promise(resolve => { release = resolve }) }]
  const running = generate(app, { model: 'minit2i' })
  while (engine.state !== 'busy') await wait(10)
  const full = await generate(app, { model: 'minit2i', n: 4 })
  expectOpenAIError(t, full, 429, { type: 'rate_limit_error', code: 'queue_full', retry: '' })
  t.ok(Number(full.headers['retry-after']) > 0)
  t.match(await app.jobs.status(), { queued: 0, cancelled: 2 })
  release()
  t.equal((await running).statusCode, 200)
})

t.test('the guard refuses in the shape of OpenAI', async t => {
  const app = await build(t, { auth: 'jwt', 'rate-limit': '4' })
  expectOpenAIError(t, await app.inject('/v1/models'), 401, { type: 'authentication_error', code: 'invalid_api_key' })
  expectOpenAIError(t, await app.inject('/v1/nothing'), 401, { type: 'authentication_error', code: 'invalid_api_key' })
  expectOpenAIError(t, await app.inject({ url: '/v1/models', headers: { authorization: 'Bearer wrong' } }), 401, { code: 'invalid_api_key' })
  const { id } = await app.accounts.create({ username: 'bob', password: 'correct horse battery staple', role: 'user' })
  const { key } = await app.keys.create({ userId: id, name: 'reader', permissions: ['models:read'] })
  const bob = { authorization: `Bearer ${key}` }
  expectOpenAIError(t, await app.inject({ method: 'POST', url: '/v1/images/generations', headers: bob, body: { prompt: 'x' } }), 403, { type: 'permission_error', code: 'forbidden' })
  for (let request = 0; request < 3; request++) await app.inject({ url: '/v1/models', headers: bob })
  const limited = await app.inject({ url: '/v1/models', headers: bob })
  expectOpenAIError(t, limited, 429, { type: 'rate_limit_error', code: 'rate_limit_exceeded', retry: '' })
  t.ok(Number(limited.headers['retry-after']) > 0)
})

t.test('without --compat openai there is no /v1', async t => {
  const app = await build(t, { compat: 'a1111' })
  t.match((await app.inject('/v1/models')).json(), { error: { code: 'SDR_NOT_FOUND' } })
})

t.test('a mask: what is transparent changes, and without transparency what is white', async t => {
  const { app, engine } = await buildScripted(t, {}, { checkpoints: ['sdxs'] })
  const image = await red()
  const plain = (channels: 3 | 4, background: string) =>
    sharp({ create: { width: 64, height: 64, channels, background } })
  const half = { create: { width: 32, height: 64, channels: 4, background: '#fff' } } as const
  const masks: Array<[what: string, mask: Buffer, left: number, right: number]> = [
    ['white with a hole', await plain(4, '#fff').composite([{ input: half, left: 0, top: 0, blend: 'dest-out' }]).png().toBuffer(), 255, 0],
    ['black with a hole', await plain(4, '#000').composite([{ input: half, left: 0, top: 0, blend: 'dest-out' }]).png().toBuffer(), 255, 0],
    ['black and white', await plain(3, '#000').composite([{ input: half, left: 0, top: 0 }]).removeAlpha().png().toBuffer(), 255, 0],
    ['black and white, opaque', await plain(4, '#000').composite([{ input: half, left: 0, top: 0 }]).png().toBuffer(), 255, 0]
  ]
  for (const [what, mask, left, right] of masks) {
    const response = await app.inject({
      method: 'POST', url: '/v1/images/edits', ...form([['model', 'sdxs'], ['prompt', 'a fox'], ['image', image], ['mask', mask], ['size', '64x64']])
    })
    t.equal(response.statusCode, 200, response.body.slice(0, 300))
    const pixels = await sharp(engine.calls.at(-1)!.attachments.mask).raw().toBuffer({ resolveWithObject: true })
    const at = (x: number) => pixels.data[(32 * pixels.info.width + x) * pixels.info.channels]
    t.same([at(8), at(56)], [left, right], what)
  }
})

t.test('a client that leaves cancels its job, unless --keep-abandoned-jobs', async t => {
  for (const [options, status] of [[{}, 'cancelled'], [{ 'keep-abandoned-jobs': 'true' }, 'completed']] as const) {
    const app = await build(t, options)
    const url = await app.listen({ port: 0, host: '127.0.0.1' })
    const leave = new AbortController()
    const request = fetch(`${url}/v1/images/generations`, {
      method: 'POST', headers: { 'content-type': 'application/json' }, signal: leave.signal, body: JSON.stringify({ prompt: 'a fox', steps: 20, size: '256x256' })
    })
    let job: Job | undefined
    while ((job = (await app.jobs.list()).jobs[0]) === undefined || job.status === 'queued') await wait(20)
    leave.abort()
    await t.rejects(request, { name: 'AbortError' })
    t.equal((await app.jobs.waitFor(job.id, 120_000)).status, status)
  }
})
