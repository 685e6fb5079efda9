import { readdirSync } from 'node:fs'
import { connect, type AddressInfo } from 'node:net'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import type { FastifyInstance, LightMyRequestResponse } from 'fastify'
import sharp, { type Sharp } from 'sharp'
import t, { type Test } from 'tap'
import { capabilityNames, type Capability } from '../../lib/engine/engine.ts'
import type { ImageType, Job } from '../../lib/jobs/job.ts'
import { writeCheckpoint, type CheckpointKind } from '../../bin/support/demo-model/checkpoints.ts'
import { as, build, expectError, workspace } from '../helper.ts'

t.setTimeout(300_000)

/** With more models than the smallest one. */
async function buildWithModels (
  t: Test,
  kinds: readonly CheckpointKind[] = ['sdxs', 'esrgan', 'lora'],
  options: Record<string, unknown> = {}
): Promise<{ app: FastifyInstance, data: string }> {
  const { models, data } = workspace(t)
  for (const kind of kinds) writeCheckpoint(kind, join(models, `${kind}.safetensors`))
  if (kinds.includes('lora')) writeCheckpoint('lora', join(models, 'second.safetensors'), { seed: 1 })
  const app = await build(t, { 'models-dir': [models], 'data-dir': data, ...options }, { models: false })
  return { app, data }
}

function post (
  app: FastifyInstance,
  type: ImageType,
  body: object,
  { wait = 120, headers = {} } = {}
): Promise<LightMyRequestResponse> {
  return app.inject({ method: 'POST', url: `/api/generate/${type}?wait=${wait}`, body, headers })
}

async function draw (
  t: Test, app: FastifyInstance, type: ImageType, body: object
): Promise<{ job: Job, bytes: Buffer }> {
  const response = await post(app, type, body)
  const job = response.json<Job>()
  t.equal(job.status, 'completed', response.body.slice(0, 500))
  return { job, bytes: (await app.inject(job.images[0]!.url)).rawPayload }
}

const plain = (width: number, height: number, background = '#4080c0') =>
  sharp({ create: { width, height, channels: 3, background } })
const base64 = async (image: Sharp): Promise<string> => (await image.png().toBuffer()).toString('base64')

const tiny = { model: 'minit2i', prompt: 'a fox', width: 64, height: 64, steps: 2, seed: 5 }
const small = { model: 'sdxs', prompt: 'a fox', width: 64, height: 64, steps: 1, seed: 5, clip_skip: 11 }

t.test('the portable engine, from request to image', async t => {
  const { app, data } = await buildWithModels(t)

  t.test('txt2img is accepted, followed and repeated', async t => {
    const accepted = await post(app, 'txt2img', { prompt: 'a fox', model: 'minit2i', steps: 2 }, { wait: 0 })
    t.equal(accepted.statusCode, 202)
    const { id } = accepted.json<Job>()
    t.equal(accepted.headers.location, `/api/queue/job/${id}`)
    const done = await app.jobs.waitFor(id, 60_000)
    t.match(done, { status: 'completed', type: 'txt2img', model: 'checkpoint/minit2i.safetensors', owner: 'operator' })
    const { seed, ...parameters } = done.parameters
    t.ok(Number.isInteger(seed) && (seed as number) >= 0, 'the server chose a seed')
    t.same(parameters, {
      model: 'checkpoint/minit2i.safetensors',
      prompt: 'a fox',
      negative_prompt: '',
      width: 64,
      height: 64,
      steps: 2,
      cfg_scale: 6,
      sampler: 'euler',
      scheduler: 'discrete',
      batch_count: 1
    })
  })

  t.test('the same seed and parameters give the same bytes, now and later', async t => {
    const first = await draw(t, app, 'txt2img', tiny)
    const other = await draw(t, app, 'txt2img', { ...tiny, seed: 6 })
    t.notSame(other.bytes, first.bytes)
    const second = await draw(t, app, 'txt2img', tiny)
    t.same(second.bytes, first.bytes)
    await draw(t, app, 'txt2img', small)
    const repeated = await draw(t, app, 'txt2img', first.job.parameters)
    t.same(repeated.bytes, first.bytes, 'after another model, from the parameters of the job')
    t.same(repeated.job.parameters, first.job.parameters)
    const unseeded = await draw(t, app, 'txt2img', { ...tiny, seed: -1 })
    t.same(
      (await draw(t, app, 'txt2img', unseeded.job.parameters)).bytes,
      unseeded.bytes,
      'a seed that the server chose, too'
    )
  })

  t.test('img2img, in the size of the job and in that of the image', async t => {
    const { job, bytes } = await draw(t, app, 'img2img', {
      ...small,
      width: 128,
      init_image: await base64(plain(300, 200)),
      strength: 0.5,
      steps: 2
    })
    t.match(await sharp(bytes).metadata(), { width: 128, height: 64 })
    t.match(job.parameters, { width: 128, height: 64, strength: 0.5 })
    t.same(
      Object.keys(job.parameters).filter(name => name.includes('image')),
      [],
      'the image is not among the parameters'
    )
    const red = await draw(t, app, 'img2img', {
      ...job.parameters,
      init_image: await base64(plain(300, 200, '#ff0000'))
    })
    t.notSame(red.bytes, bytes, 'another image, another result')
    const again = await draw(t, app, 'img2img', {
      ...job.parameters,
      init_image: `data:image/webp;base64,${(await plain(300, 200).webp({ lossless: true }).toBuffer()).toString('base64')}`
    })
    t.same(again.bytes, bytes, 'the same pixels in another format')

    const { width, height, ...unsized } = small
    const sized = await draw(t, app, 'img2img', { ...unsized, init_image: await base64(plain(192, 64)) })
    t.match(sized.job.parameters, { strength: 0.75 })
    t.match(sized.job.images[0], { width: 192, height: 64 })
    t.same(readdirSync(join(data, 'inputs')), [], 'images that came are deleted with their job')
  })

  t.test('a LoRA, from the list or from the prompt, and then none', async t => {
    const without = await draw(t, app, 'txt2img', small)
    const listed = await draw(t, app, 'txt2img', { ...small, loras: [{ name: 'lora' }] })
    const tagged = await draw(t, app, 'txt2img', { ...small, prompt: 'a fox <lora:lora:1>' })
    t.notSame(listed.bytes, without.bytes)
    t.same(tagged.bytes, listed.bytes)
    t.match(tagged.job.parameters, { prompt: 'a fox', loras: [{ name: 'lora/lora.safetensors', weight: 1 }] })
    t.same((await draw(t, app, 'txt2img', tagged.job.parameters)).bytes, tagged.bytes)
    t.same((await draw(t, app, 'txt2img', small)).bytes, without.bytes, 'it leaves nothing behind')
    t.same(
      (await draw(t, app, 'txt2img', { ...small, prompt: 'a fox <lora:lora:0>' })).bytes,
      without.bytes,
      'weight 0 is none'
    )
  })

  t.test('batches', async t => {
    const { job } = await draw(t, app, 'txt2img', { ...small, batch_count: 3 })
    t.same(
      job.images.map(({ index, seed }) => [index, seed]),
      [
        [0, 5],
        [1, 6],
        [2, 7]
      ]
    )
    const last = (await app.inject(job.images[2]!.url)).rawPayload
    const alone = (await draw(t, app, 'txt2img', { ...small, seed: 7 })).bytes
    t.same(await sharp(last).raw().toBuffer(), await sharp(alone).raw().toBuffer(), 'image n is that of seed + n')
  })

  t.test('tiling, caching, clip skip and the rest', async t => {
    const { job } = await draw(t, app, 'txt2img', {
      ...small,
      negative_prompt: 'a cat',
      cfg_scale: 2,
      guidance: 3,
      eta: 0.5,
      clip_skip: 2,
      sampler: 'euler',
      scheduler: 'karras',
      vae_tiling: { tile_size_x: 16, tile_size_y: 16, target_overlap: 0.25 },
      cache: { mode: 'easycache', reuse_threshold: 0.2 }
    })
    t.match(job.parameters, {
      vae_tiling: { enabled: true, tile_size_x: 16 },
      cache: { mode: 'easycache' },
      clip_skip: 2,
      scheduler: 'karras'
    })
  })

  t.test('upscaling, and drawing after it', async t => {
    const { job, bytes } = await draw(t, app, 'upscale', { init_image: await base64(plain(16, 8)) })
    t.same(job.parameters, { model: 'upscaler/esrgan.safetensors', repeats: 1 })
    t.match(await sharp(bytes).metadata(), { format: 'png', width: 64, height: 32 })
    t.match(job.images, [{ width: 64, height: 32 }])
    t.same((await draw(t, app, 'upscale', { ...job.parameters, init_image: await base64(plain(16, 8)) })).bytes, bytes)
    const { model, ...unnamed } = tiny
    const next = await draw(t, app, 'txt2img', unnamed)
    t.match(next.job.model, /^checkpoint\//, 'the upscaler that is loaded is nothing to draw with')
    const twice = await draw(t, app, 'upscale', { init_image: await base64(plain(2, 2)), repeats: 2 })
    t.match(twice.job.images, [{ width: 32, height: 32 }])
  })

  t.test('what only the native engine has is refused by name', async t => {
    const image = await base64(plain(64, 64))
    const cases: Array<[ImageType, object, Capability, string?]> = [
      ['inpaint', { ...small, init_image: image, mask: image }, 'inpaint'],
      ['inpaint', {}, 'inpaint'],
      ['controlnet', { ...small, control_image: image }, 'controlnet'],
      ['txt2img', { ...small, hires: {} }, 'hires', 'hires'],
      ['txt2img', { ...small, previews: { mode: 'vae' } }, 'previews', 'previews'],
      ['txt2img', { ...small, ref_images: [image] }, 'ref_images', 'ref_images'],
      ['img2img', { ...small, init_image: image, ip_adapter_image: image }, 'ip_adapter', 'ip_adapter_image'],
      ['txt2img', { ...small, ip_adapter_strength: 1 }, 'ip_adapter', 'ip_adapter_strength'],
      ['txt2img', { ...small, photo_maker_images: [image] }, 'photo_maker', 'photo_maker_images'],
      ['txt2img', { ...small, loras: [{ name: 'lora' }, { name: 'second' }] }, 'multiple_loras', 'loras'],
      ['txt2img', { ...small, loras: [{ name: 'lora', weight: 0.5 }] }, 'lora_weight', 'loras.weight'],
      ['txt2img', { ...small, prompt: 'a fox <lora:lora:0.5> <lora:lora:0.7>' }, 'lora_weight', 'loras.weight'],
      ['txt2img', { ...small, prompt: 'an embedding:easy fox' }, 'embeddings', 'prompt'],
      ['txt2img', { ...small, negative_prompt: 'embedding:easy' }, 'embeddings', 'negative_prompt'],
      ['txt2img', { ...small, custom_sigmas: [14, 1, 0] }, 'custom_sigmas', 'custom_sigmas'],
      [
        'img2img',
        { ...small, init_image: image, skip_layer_guidance: { scale: 2 } },
        'skip_layer_guidance',
        'skip_layer_guidance'
      ]
    ]
    const refused = new Set(cases.map(([,, feature]) => feature))
    // A request with canny is one with a ControlNet; convert is a command; generate-components.test.ts tries the rest.
    const lacking = capabilityNames.filter(name => !app.engineInfo.capabilities.includes(name))
    t.same(lacking.filter(name => !refused.has(name)), ['canny', 'convert', 'text_encoder_swap', 'taesd', 'clip_vision'],
      'each that is missing is tried')
    for (const [type, body, feature, field] of cases) {
      const response = await post(app, type, body)
      expectError(t, response, 422, 'SDR_UNSUPPORTED_FEATURE', new RegExp(`The portable engine lacks ${feature}`))
      t.same(response.json().error.details, [{ feature, engine: 'portable', ...(field !== undefined && { field }) }])
    }
    const off = await draw(t, app, 'txt2img', {
      ...tiny,
      hires: { enabled: false, scale: 8 },
      vae_tiling: { enabled: false }
    })
    t.same(
      Object.keys(off.job.parameters).filter(name => name === 'hires' || name === 'vae_tiling'),
      [],
      'what is switched off may be there'
    )
  })

  t.test('without a model, one that can do it', async t => {
    const { model: _, ...unnamed } = tiny
    await draw(t, app, 'txt2img', tiny)
    const { job } = await draw(t, app, 'img2img', { ...unnamed, steps: 1, init_image: await base64(plain(64, 64)) })
    t.equal(job.model, 'checkpoint/sdxs.safetensors', 'not the one that is loaded, which draws from a text alone')
    await draw(t, app, 'txt2img', tiny)
    t.equal((await draw(t, app, 'txt2img', unnamed)).job.model, 'checkpoint/minit2i.safetensors', 'the loaded one, which can')
    const { app: lesser } = await buildWithModels(t, [])
    expectError(t, await post(lesser, 'img2img', { ...unnamed, init_image: await base64(plain(64, 64)) }), 422, 'SDR_UNSUPPORTED_MODEL',
      /^init_image: .*minit2i.* draws from a text alone\. No other model here .*: put one that can into a models folder/)
  })

  t.test('models that cannot do it', async t => {
    const image = await base64(plain(64, 64))
    expectError(
      t,
      await post(app, 'img2img', { ...tiny, init_image: image }),
      422,
      'SDR_UNSUPPORTED_MODEL',
      /init_image: .*minit2i.*text alone/
    )
    expectError(
      t,
      await post(app, 'txt2img', { ...tiny, model: 'minit3i' }),
      404,
      'SDR_MODEL_NOT_FOUND',
      /^model: .*minit2i/
    )
    expectError(
      t,
      await post(app, 'txt2img', { ...tiny, model: 'upscaler/esrgan.safetensors' }),
      422,
      'SDR_UNSUPPORTED_MODEL',
      /^model: /
    )
    expectError(
      t,
      await post(app, 'upscale', { model: 'checkpoint/sdxs.safetensors', init_image: image }),
      422,
      'SDR_UNSUPPORTED_MODEL'
    )
    expectError(
      t,
      await post(app, 'txt2img', { ...small, loras: [{ name: 'lorra' }] }),
      404,
      'SDR_MODEL_NOT_FOUND',
      /^loras: .*lora\/lora\.safetensors/
    )
    expectError(
      t,
      await post(app, 'txt2img', { ...small, loras: [{ name: 'checkpoint/sdxs.safetensors' }] }),
      422,
      'SDR_UNSUPPORTED_MODEL',
      /^loras: /
    )
    expectError(
      t,
      await post(app, 'txt2img', { ...small, prompt: 'a fox <lora:../../etc/passwd:1>' }),
      404,
      'SDR_MODEL_NOT_FOUND'
    )
    expectError(
      t,
      await post(app, 'txt2img', { ...tiny, width: 128 }),
      400,
      'SDR_INVALID_REQUEST',
      /128, because .* draws squares only, for height/
    )
  })

  t.test('an Idempotency-Key stands for the images too', async t => {
    const headers = { 'idempotency-key': 'one' }
    const body = { ...small, init_image: await base64(plain(64, 64)) }
    const first = (await post(app, 'img2img', body, { headers })).json<Job>()
    t.equal((await post(app, 'img2img', body, { headers })).json<Job>().id, first.id)
    expectError(
      t,
      await post(app, 'img2img', { ...body, init_image: await base64(plain(64, 64, '#000')) }, { headers }),
      409,
      'SDR_IDEMPOTENCY_CONFLICT'
    )
    expectError(t, await post(app, 'img2img', { ...body, seed: 1 }, { headers }), 409, 'SDR_IDEMPOTENCY_CONFLICT')
  })

  t.test('forms over a connection', async t => {
    await app.listen({ port: 0, host: '127.0.0.1' })
    const { port } = app.server.address() as AddressInfo
    const send = async (fields: Record<string, string | Blob>, query = '?wait=100') => {
      const body = new FormData()
      for (const [name, value] of Object.entries(fields)) {
        body.append(name, value, ...(value instanceof Blob ? ['image.png'] : []))
      }
      const response = await fetch(`http://127.0.0.1:${port}/api/generate/img2img${query}`, { method: 'POST', body })
      return {
        status: response.status,
        body: (await response.json()) as Job & { error: { code: string, message: string } }
      }
    }
    const image = new Blob([await plain(300, 300).jpeg().toBuffer()], { type: 'text/html' })
    const fields = { model: 'sdxs', prompt: 'a fox', width: '64', height: '64', steps: '1', seed: '5' }

    const byFields = await send({ ...fields, init_image: image })
    t.match(byFields, {
      status: 200,
      body: { status: 'completed', parameters: { steps: 1, seed: 5, width: 64, strength: 0.75 } }
    })
    const byParameters = await send({ parameters: JSON.stringify(byFields.body.parameters), init_image: image })
    const bytes = async (job: Job) => (await app.inject(job.images[0]!.url)).rawPayload
    t.same(await bytes(byParameters.body), await bytes(byFields.body), 'from fields, and from the parameters of a job')
    const withList = await send({
      ...fields,
      init_image: image,
      loras: '[{"name":"lora"}]',
      vae_tiling: '{"tile_size_x":16}'
    })
    t.match(withList.body, {
      status: 'completed',
      parameters: { loras: [{ name: 'lora/lora.safetensors' }], vae_tiling: { tile_size_x: 16 } }
    })
    const asText = await send({ ...fields, init_image: await base64(plain(64, 64)) })
    t.equal(asText.status, 200, 'an image as text in a form')

    const large = new Blob([Buffer.alloc(21 * 1024 * 1024)])
    for (const [form, status, message] of [
      [fields, 400, /init_image is missing/],
      [{ ...fields, init_image: new Blob(['<svg/>']) }, 400, /PNG, JPEG or WebP image for init_image/],
      [{ ...fields, init_image: image, mask: image }, 400, /mask/],
      [{ ...fields, init_image: image, picture: image }, 400, /picture/],
      [{ ...fields, init_image: image, steps: 'ten' }, 400, /integer .* for steps but received "ten"/],
      [{ ...fields, init_image: image, loras: '[' }, 400, /array .* for loras/],
      [{ ...fields, init_image: image, prompt: new Blob(['a fox']) }, 400, /a field without a file name for prompt/],
      [{ ...fields, init_image: large }, 413, /init_image is too large/],
      [{ ...fields, init_image: image, negative_prompt: 'x'.repeat(300 * 1024) }, 413, /negative_prompt is too large/],
      [
        { ...fields, init_image: image, ...Object.fromEntries(Array.from({ length: 200 }, (_, n) => [`x${n}`, ''])) },
        413,
        /too many fields/
      ]
    ] as const) {
      const response = await send(form as Record<string, string | Blob>)
      t.equal(response.status, status, response.body.error?.message)
      t.match(response.body.error, { message })
    }
    for (const [type, body] of [
      ['multipart/form-data', 'x'],
      ['multipart/form-data; boundary=', 'x'],
      ['multipart/form-data; boundary=b', ''],
      ['multipart/form-data; boundary=b', 'no boundary here'],
      ['multipart/form-data; boundary=b', '--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nunfinished'],
      ['multipart/form-data; boundary=b', '--b\r\nContent-Disposition: form-data; name="__proto__"\r\n\r\n1\r\n--b--'],
      [
        'multipart/form-data; boundary=b',
        '--b\r\nContent-Disposition: form-data; name="loras"\r\nContent-Type: application/json\r\n\r\n{\r\n--b--'
      ]
    ] as const) {
      const response = await fetch(`http://127.0.0.1:${port}/api/generate/img2img`, {
        method: 'POST',
        body,
        headers: { 'content-type': type }
      })
      t.ok(response.status >= 400 && response.status < 500, `${type} ${JSON.stringify(body)} ${response.status}`)
      t.match(await response.json(), { error: { code: /^SDR_/ } })
    }
    // A caller that goes away in the middle leaves nothing behind.
    for (const rest of ['', '\r\nhalf an image']) {
      const socket = connect(port, '127.0.0.1')
      socket.write(
        `POST /api/generate/img2img HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nContent-Length: 100000\r\n` +
          'Content-Type: multipart/form-data; boundary=b\r\n\r\n' +
          `--b\r\nContent-Disposition: form-data; name="init_image"; filename="x.png"\r\n${rest}`
      )
      await wait(100)
      socket.destroy()
    }
    t.equal((await send({ ...fields, init_image: image })).status, 200)
    t.equal(
      (await fetch(`http://127.0.0.1:${port}/api/auth/login`, { method: 'POST', body: new FormData() })).status,
      415,
      'forms are taken here alone'
    )
  })
})

t.test('who may hurry', async t => {
  const app = await build(t, { auth: 'jwt' })
  const [alice, admin] = [await as(app, 'alice'), await as(app, 'root', 'admin')]
  const submit = async (who: typeof alice, priority: number) =>
    await who({ method: 'POST', url: '/api/generate/txt2img', body: { ...tiny, priority } })
  expectError(t, await submit(alice, 1), 403, 'SDR_FORBIDDEN', /^priority: .*jobs:all/)
  for (const [who, priority] of [
    [alice, 0],
    [alice, -10],
    [admin, 10]
  ] as const) {
    const response = await submit(who, priority)
    t.match(response.json(), { priority }, response.body)
    await app.jobs.waitFor(response.json<Job>().id, 60_000)
  }
  expectError(t, await submit(admin, 11), 400, 'SDR_INVALID_REQUEST', /priority/)
})

t.test('bounds are options, and seen', async t => {
  const { app } = await buildWithModels(t, ['esrgan'], {
    'max-width': '128',
    'max-height': '192',
    'max-pixels': '16384',
    'max-steps': '10',
    'max-batch': '4',
    'max-work': '1',
    'max-prompt-length': '20',
    'max-loras': '1',
    'max-upload-size': '1',
    'max-upload-pixels': '4096',
    'max-upscaled-pixels': '4096'
  })
  const { limits, parameters, capabilities, engine } = (await app.inject('/api/parameters')).json()
  t.same(limits, {
    max_pixels: 16384,
    max_work: 1,
    max_upload_bytes: 1024 * 1024,
    max_upload_pixels: 4096,
    max_upscaled_pixels: 4096
  })
  t.equal(engine, 'portable')
  t.ok(capabilities.includes('img2img'))
  const named = Object.fromEntries(parameters.map((parameter: { name: string }) => [parameter.name, parameter]))
  t.match(named, {
    prompt: {
      type: 'string',
      max_length: 20,
      required_by: ['txt2img', 'img2img', 'inpaint', 'controlnet'],
      feature: null,
      available: true
    },
    width: { type: 'integer', minimum: 64, maximum: 128, multiple_of: 8, required_by: [] },
    height: { maximum: 192 },
    steps: { maximum: 10 },
    batch_count: { maximum: 4, default: 1 },
    sampler: { values: ['euler'] },
    loras: {
      type: 'array',
      max_items: 1,
      parts: [{ name: 'name' }, { name: 'weight', minimum: -10, maximum: 10, default: 1 }]
    },
    hires: { type: 'object', feature: 'hires', available: false },
    cache: { feature: 'cache', available: true, parts: [{ name: 'mode', values: ['disabled', 'easycache'] }] },
    mask: { used_by: ['inpaint'], required_by: ['inpaint'], available: false },
    init_image: { used_by: ['img2img', 'inpaint', 'controlnet', 'upscale'], available: true },
    repeats: { used_by: ['upscale'] }
  })
  for (const { description } of parameters) t.ok(description.length > 0)

  const { paths, components: { schemas } } = app.swagger() as unknown as {
    paths: Record<string, { post: { operationId: string, requestBody: { content: object } } }>
    components: { schemas: Record<string, { properties: Record<string, { format?: string }>, required: string[] }> }
  }
  for (const [type, id, required] of [
    ['txt2img', 'generateTxt2Img', ['prompt']],
    ['img2img', 'generateImg2Img', ['prompt', 'init_image']],
    ['inpaint', 'generateInpaint', ['prompt', 'init_image', 'mask']],
    ['controlnet', 'generateControlNet', ['prompt', 'control_image']],
    ['upscale', 'generateUpscale', ['init_image']]
  ] as const) {
    const { operationId, requestBody } = paths[`/api/generate/${type}`]!.post
    t.equal(operationId, id)
    t.same(Object.keys(requestBody.content), ['application/json'])
    const form = paths[`/api/generate/${type}/form`]!.post
    t.same([form.operationId, Object.keys(form.requestBody.content)], [`${id}Form`, ['multipart/form-data']])
    const [schema, formSchema] = ['Request', 'Form'].map(kind => schemas[`${id.slice('generate'.length)}${kind}`]!) as [typeof schemas[string], typeof schemas[string]]
    t.same(Object.keys(schema.properties).slice(0, required.length).sort(), [...required].sort(), 'what is required comes first')
    t.same([...schema.required].sort(), [...required].sort())
    t.same(Object.keys(formSchema.properties), Object.keys(schema.properties))
    for (const name of ['init_image', 'mask', 'control_image']) t.ok([undefined, 'binary'].includes(formSchema.properties[name]?.format ?? (name in formSchema.properties ? 'none' : undefined)), `${name} of a form is a file`)
    t.same(
      Object.keys(schema.properties).sort(),
      parameters
        .filter(({ used_by: types }: { used_by: string[] }) => types.includes(type))
        .map(({ name }: { name: string }) => name)
        .sort()
    )
  }

  const given = { ...tiny, steps: 1 }
  for (const [type, body, status, message] of [
    ['txt2img', { ...given, width: 136, height: 136 }, 400, /to 128 .*for width but received 136/],
    ['txt2img', { ...given, steps: 11 }, 400, /to 10 for steps but received 11/],
    ['txt2img', { ...given, batch_count: 5 }, 400, /to 4 for batch_count/],
    ['txt2img', { ...given, prompt: 'x'.repeat(21) }, 400, /at most 20 characters for prompt/],
    ['txt2img', { ...given, loras: [{ name: 'a' }, { name: 'b' }] }, 400, /at most 1 entry for loras/],
    ['txt2img', { ...given, width: 128, height: 128, steps: 10, batch_count: 4 }, 202, undefined],
    ['txt2img', { ...given, width: 128, height: 128, steps: 10, batch_count: 4, seed: 2 ** 53 - 1 }, 400, /for seed/],
    [
      'upscale',
      { init_image: await base64(plain(65, 64)) },
      400,
      /4096 pixels \(--max-upload-pixels\) for init_image but received one of 65 × 64/
    ],
    [
      'upscale',
      { init_image: Buffer.alloc(1300 * 1024).toString('base64') },
      413,
      /1048576 bytes \(--max-upload-size\) for init_image/
    ],
    [
      'upscale',
      { init_image: await base64(plain(20, 20)) },
      400,
      /256 pixels with repeats 1 \(--max-upscaled-pixels\) for init_image/
    ]
  ] as const) {
    const response = await post(app, type, body, { wait: 0 })
    t.equal(response.statusCode, status, response.body)
    if (message !== undefined) t.match(response.json().error.message, message)
  }
})
