import { join } from 'node:path'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { generateImage } from 'ai'
import type { FastifyInstance } from 'fastify'
import OpenAI, { toFile, NotFoundError } from 'openai'
import sharp from 'sharp'
import t from 'tap'
import { writeCheckpoint } from '../../../bin/support/demo-model/checkpoints.ts'
import { build, workspace } from '../../helper.ts'
import { buildScripted } from './scripted.ts'

t.setTimeout(300_000)

/** An API key of a user, and the address of the server that listens. */
async function listen (app: FastifyInstance): Promise<{ url: string, key: string }> {
  const { id } = await app.accounts.create({ username: 'bob', password: 'correct horse battery staple', role: 'user' })
  const { key } = await app.keys.create({ userId: id, name: 'client' })
  return { url: await app.listen({ port: 0, host: '127.0.0.1' }), key }
}

/** Its types know the sizes of OpenAI's own models only. */
const small = '64x64' as '256x256'
const red = () => sharp({ create: { width: 64, height: 64, channels: 3, background: '#ff2000' } }).png().toBuffer()
const metadata = (base64: string | undefined) => sharp(Buffer.from(base64!, 'base64')).metadata()

t.test('the openai SDK and the AI SDK draw with a real engine', async t => {
  const { models, data } = workspace(t)
  writeCheckpoint('sdxs', join(models, 'sdxs.safetensors'))
  const app = await build(t, {
    auth: 'api-key', 'models-dir': [models], 'data-dir': data, 'model-alias': 'gpt-image-1=sdxs,dall-e-2=sdxs'
  }, { models: false })
  const { url, key } = await listen(app)

  t.test('openai', async t => {
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key })
    const list = await client.models.list()
    t.same(list.data.map(({ id }) => id), ['checkpoint/minit2i.safetensors', 'checkpoint/sdxs.safetensors', 'gpt-image-1', 'dall-e-2'])
    t.match(await client.models.retrieve('checkpoint/minit2i.safetensors'), { id: 'checkpoint/minit2i.safetensors' })

    const drawn = await client.images.generate({ model: 'minit2i', prompt: 'a fox', n: 2, size: small, quality: 'low', style: 'vivid', user: 'u', moderation: 'auto', background: 'auto' })
    t.equal(drawn.data?.length, 2)
    t.match(await metadata(drawn.data?.[1]?.b64_json), { format: 'png', width: 64 })
    t.match(drawn, { size: small, created: Number, usage: { total_tokens: 0 } })

    const image = await toFile(await red(), 'red.png', { type: 'image/png' })
    const edited = await client.images.edit({ model: 'gpt-image-1', prompt: 'a fox', image, n: 1, input_fidelity: 'high', size: 'auto', output_format: 'webp' })
    t.match(await metadata(edited.data?.[0]?.b64_json), { format: 'webp' })
    const varied = await client.images.createVariation({ model: 'dall-e-2', image, response_format: 'url' })
    const picture = await fetch(varied.data![0]!.url!)
    t.equal(picture.status, 200, 'without credentials')
    t.match(await sharp(Buffer.from(await picture.arrayBuffer())).metadata(), { format: 'png' })

    const events = []
    for await (const event of await client.images.generate({ model: 'minit2i', prompt: 'a fox', size: small, stream: true, partial_images: 2 })) events.push(event)
    t.same(events.map(({ type }) => type), ['image_generation.completed'], 'this engine has no previews')
    t.match(await metadata(events[0]?.b64_json), { width: 64 })

    await t.rejects(client.images.generate({ model: 'minit2i', prompt: 'a fox', n: 11 }), { status: 400, param: 'n', message: /from 1 to 10 for n/ })
    const error = await client.images.generate({ model: 'dall-e-3', prompt: 'a fox' }).catch((error: unknown) => error) as Error
    t.ok(error instanceof NotFoundError)
    t.match(error, { status: 404, code: 'model_not_found', param: 'model', type: 'invalid_request_error', requestID: String })
    await t.rejects(new OpenAI({ baseURL: `${url}/v1`, apiKey: 'sk-wrong' }).models.list(), { status: 401, code: 'invalid_api_key' })
  })

  t.test('ai with @ai-sdk/openai-compatible', async t => {
    const provider = createOpenAICompatible({ name: 'here', baseURL: `${url}/v1`, apiKey: key })
    const { images } = await generateImage({ model: provider.imageModel('minit2i'), prompt: 'a fox', n: 2, size: small })
    t.equal(images.length, 2)
    t.match(await sharp(images[0]!.uint8Array).metadata(), { width: 64 })
    const edited = await generateImage({ model: provider.imageModel('gpt-image-1'), prompt: { text: 'a fox', images: [await red()] } })
    t.match(await sharp(edited.image.uint8Array).metadata(), { format: 'png' })
    await t.rejects(generateImage({ model: provider.imageModel('nothing'), prompt: 'a fox' }), { message: /There is no model/ })
  })
})

t.test('the openai SDK streams, and repeats only what a repetition can help', async t => {
  const { app, engine } = await buildScripted(t, { auth: 'api-key', 'queue-per-owner': '1' })
  const { url, key } = await listen(app)
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key })
  const request = { model: 'minit2i', prompt: 'a fox', size: small } as const

  const events = []
  const stream = await client.images.generate({ ...request, stream: true, partial_images: 2 })
  for await (const event of stream) events.push(event)
  t.same(events.map(({ type }) => type), ['image_generation.partial_image', 'image_generation.partial_image', 'image_generation.completed'])
  t.same(events.slice(0, 2).map(event => 'partial_image_index' in event && event.partial_image_index), [0, 1])
  t.match(await metadata(events[0]!.b64_json), { format: 'png', width: 8 })
  t.match(await metadata(events[2]!.b64_json), { format: 'png', width: 64 })
  const file = await toFile(await red(), 'red.png', { type: 'image/png' })
  await t.rejects(client.images.edit({ ...request, image: file, stream: true, partial_images: 1 }), { status: 422, message: /draws from a text alone/ }, 'before the stream begins')

  const count = async () => (await app.jobs.list()).jobs.length
  const before = await count()
  engine.script.generate = [{ fail: 'generation_failed', message: 'It cannot.' }, { fail: 'generation_failed', message: 'It cannot.' }]
  await t.rejects(client.images.generate(request), { status: 502, code: 'job_failed', message: /It cannot/ })
  t.equal(await count(), before + 1, 'drawn once')
  await t.rejects(async () => {
    for await (const event of await client.images.generate({ ...request, stream: true })) t.fail(event.type)
  }, { code: 'job_failed', message: /It cannot/ })

  let release = () => {}
  engine.script.generate = [{ hold: new Promise(resolve => { release = resolve }) }]
  const first = client.images.generate(request)
  while (engine.state !== 'busy') await new Promise(resolve => setTimeout(resolve, 10))
  const second = client.images.generate(request)
  while ((await app.jobs.status()).queued === 0) await new Promise(resolve => setTimeout(resolve, 10))
  const once = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 })
  await t.rejects(once.images.generate(request), { status: 429, code: 'queue_full' })
  const third = client.images.generate(request)
  await new Promise(resolve => setTimeout(resolve, 100))
  release()
  t.match(await Promise.all([first, second, third]), [{ size: small }, { size: small }, { size: small }], 'the third after a while')
})
