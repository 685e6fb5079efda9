import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import pino from 'pino'
import sharp from 'sharp'
import t, { type Test } from 'tap'
import { EngineProcess } from '../../../lib/engine/process.ts'
import { toEngineTerms, toLoad } from '../../../lib/generation/run/engine-terms.ts'
import { requestParameters } from '../../../lib/generation/request-schema.ts'
import { prepareJob } from '../../../lib/generation/prepare.ts'
import type { ImageRequest, RequestAttachments } from '../../../lib/generation/request.ts'
import type { Job, ImageType } from '../../../lib/jobs/job.ts'
import { ImageProcesses } from '../../../lib/media/image-processes.ts'
import { drawingExecutors } from '../../../lib/generation/run/drawing.ts'
import { JobQueue } from '../../../lib/jobs/queue.ts'
import { ModelCatalog } from '../../../lib/models/catalog.ts'
import { resolveOptions } from '../../../lib/options/resolve.ts'
import { packageRoot } from '../../../lib/util/package-root.ts'
import { compileTimeout, noCompiler, recordingAddonPath } from '../../fixtures/recording-library/addon.ts'
import { safetensors, typical } from '../../fixtures/headers.ts'
import { writeCheckpoint } from '../../../bin/support/demo-model/checkpoints.ts'

/** What a request becomes on its way to stable-diffusion.cpp, with the features that only the native engine has. */

t.setTimeout(compileTimeout)
const host = join(packageRoot, 'dist', 'lib', 'engine', 'hosts', 'native', 'native.js')
if (!existsSync(host)) throw new Error(`${host} is missing. Type \`npm run build\` first.`)
const addonPath = noCompiler ? '' : await recordingAddonPath()

interface Call {
  call: string
  [field: string]: unknown
}

const limits = resolveOptions({})
const png = async (width: number, height: number, background: string) =>
  await sharp({ create: { width, height, channels: 3, background } })
    .png()
    .toBuffer()

/** Header-only files are enough: the library that records does not read them. */
const models: Record<string, Buffer> = {
  'checkpoints/sd.safetensors': safetensors({
    'model.diffusion_model.input_blocks.0.0.weight': { shape: [320, 4, 3, 3] },
    'model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight': { shape: [320, 768] },
    'model.diffusion_model.middle_block.1.norm.weight': { shape: [1280] },
    'first_stage_model.decoder.conv_in.weight': { shape: [512, 4, 3, 3] },
    'first_stage_model.decoder.conv_out.weight': { shape: [3, 128, 3, 3] },
    'cond_stage_model.transformer.text_model.embeddings.token_embedding.weight': { shape: [49408, 768] }
  }),
  'loras/snow.safetensors': safetensors({ 'lora_unet_x.lora_up.weight': { shape: [4, 4] } }),
  'loras/style/ink.safetensors': safetensors({ 'lora_unet_y.lora_up.weight': { shape: [4, 4] } }),
  'embeddings/easy.safetensors': safetensors({ emb_params: { shape: [1, 768] } }),
  'embeddings/ugly.safetensors': safetensors({ emb_params: { shape: [1, 768] } }),
  'checkpoints/xl.safetensors': safetensors({
    'model.diffusion_model.input_blocks.0.0.weight': { shape: [320, 4, 3, 3] },
    'model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight': { shape: [640, 2048] },
    'first_stage_model.decoder.conv_in.weight': { shape: [512, 4, 3, 3] },
    'first_stage_model.decoder.conv_out.weight': { shape: [3, 128, 3, 3] },
    'conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight': { shape: [49408, 768] }
  }),
  'diffusion_models/edit.safetensors': safetensors({
    'model.diffusion_model.double_blocks.0.img_attn.qkv.weight': { shape: [64, 64] },
    'model.diffusion_model.guidance_in.in_layer.weight': { shape: [64, 64] }
  }),
  'whole-edit.model.yaml': Buffer.from('diffusion_model: diffusion_models/edit.safetensors\n'),
  'clip_vision/h.safetensors': safetensors({ 'vision_model.embeddings.class_embedding': { shape: [1280] } }),
  'ipadapter/plus.safetensors': safetensors({
    'image_proj.latents': { shape: [1, 16, 768] }, 'ip_adapter.1.to_k_ip.weight': { shape: [320, 768] }
  }),
  'photomaker/person-v1.safetensors': safetensors({
    'fuse_module.mlp1.fc1.weight': { shape: [64, 64] },
    'unet.down_blocks.1.attentions.0.attn1.processor.to_q_lora.down.weight': { shape: [64, 64] },
    'vision_model.embeddings.class_embedding': { shape: [1024] }
  }),
  'photomaker/person-v2.safetensors': safetensors({
    'fuse_module.mlp1.fc1.weight': { shape: [64, 64] }, 'vision_model.embeddings.class_embedding': { shape: [1024] }
  }),
  'controlnet/lines.safetensors': safetensors({ 'control_model.input_hint_block.0.weight': { shape: [16, 3, 3, 3] } }),
  'unet/flux.safetensors': safetensors(Object.fromEntries(
    Object.entries(typical.flux).map(([name, tensor]) => [`diffusion_model.${name}`, tensor]))),
  'vae/ae.safetensors': safetensors(typical.flux_vae),
  'vae/kl.safetensors': safetensors(typical.vae),
  'vae/taef1.safetensors': safetensors({ 'decoder.layers.0.weight': { shape: [64, 16, 3, 3] } }),
  'clip/clip_l.safetensors': safetensors(typical.clip_l),
  'clip/t5xxl.safetensors': safetensors(typical.t5xxl),
  'whole-flux.model.yaml': Buffer.from(JSON.stringify({
    diffusion: 'unet/flux.safetensors',
    clip_l: 'clip/clip_l.safetensors',
    vae: 'vae/ae.safetensors',
    control_net: 'controlnet/lines.safetensors',
    defaults: { steps: 9 }
  }))
}

const choices = { threads: 1, device: 'auto', flashAttention: false, offloadToCpu: false, vaeOnCpu: false, clipOnCpu: false }

async function start (t: Test) {
  const folder = t.testdir()
  for (const [name, bytes] of Object.entries(models)) {
    mkdirSync(dirname(join(folder, 'models', name)), { recursive: true })
    writeFileSync(join(folder, 'models', name), bytes)
  }
  mkdirSync(join(folder, 'models', 'upscale_models'))
  writeCheckpoint('esrgan', join(folder, 'models', 'upscale_models', 'esrgan.safetensors'))
  process.env.GGML_RECORDING_FILE = join(folder, 'calls')
  writeFileSync(join(folder, 'calls'), '')

  const catalog = new ModelCatalog({ roots: [{ path: join(folder, 'models') }] })
  await catalog.refresh()
  const engine = new EngineProcess({ engine: 'native', file: process.execPath, args: [host, addonPath] })
  const jobs = new JobQueue({
    dataDir: join(folder, 'data'),
    devices: [{ name: 'auto', engine }],
    executors: drawingExecutors((job, attachments) =>
      toEngineTerms(job, attachments, { catalog, engine, options: choices })),
    logger: pino({ level: 'silent' }),
    capacity: 100,
    capacityPerOwner: 100
  })
  await jobs.start()
  t.teardown(async () => {
    await jobs.close()
    await engine.stop()
  })
  const processes = new ImageProcesses(reason => t.comment(reason))
  t.teardown(async () => processes.close())
  const info = await engine.start()
  const setting = {
    catalog,
    engine: info,
    limits,
    parameters: requestParameters(limits, info),
    loadedModel: null,
    decoder: { processes, caller: 'a' },
    mayRaisePriority: false
  }
  /** What the library was told since the last look, by the name of the call. */
  function calls (): Record<string, Call> {
    const lines = readFileSync(join(folder, 'calls'), 'utf8').trim()
    writeFileSync(join(folder, 'calls'), '')
    return Object.fromEntries(lines.split('\n').map(line => JSON.parse(line) as Call).map(call => [call.call, call]))
  }
  return {
    folder,
    catalog,
    engine,
    calls,
    prepare: async (type: ImageType, request: ImageRequest, attachments: RequestAttachments = {}) =>
      await prepareJob(type, request, attachments, setting),
    /** Runs a request to its end; returns its job and what the library was told. */
    async run (
      type: ImageType,
      request: ImageRequest,
      sent: RequestAttachments = {}
    ): Promise<{ job: Job, calls: Record<string, Call> }> {
      const { job: newJob, attachments } = await prepareJob(type, request, sent, setting)
      const { id } = await jobs.submit({ ...newJob, owner: 'a' }, attachments)
      const job = await jobs.waitFor(id, 60_000)
      t.same(job.error, null)
      t.equal(job.status, 'completed')
      return { job, calls: calls() }
    }
  }
}

const base = { width: 128, height: 64, steps: 3, seed: 5 }

t.test('the features of the native engine', { skip: noCompiler }, async t => {
  const { folder, catalog, engine, calls, run, prepare } = await start(t)
  const path = (name: string) => join(folder, 'models', name)

  t.test('LoRAs with weights, from the list and the prompt', async t => {
    const { job, calls } = await run('txt2img', {
      ...base,
      prompt: 'a fox <lora:snow:0.25> <lora:ink:-1>',
      loras: [{ name: 'lora/snow.safetensors', weight: 0.5 }, { name: 'ink' }]
    })
    t.match(job.parameters, { prompt: 'a fox', loras: [{ name: 'lora/snow.safetensors', weight: 0.75 }] })
    t.equal((job.parameters.loras as unknown[]).length, 1, 'what has no weight is left out')
    t.match(calls.generate_image, {
      prompt: 'a fox',
      loras: [{ path: path('loras/snow.safetensors'), multiplier: 0.75 }]
    })
    t.match(
      calls.new_sd_ctx,
      {
        model_path: path('checkpoints/sd.safetensors'),
        embeddings: ['easy', 'ugly'].map(name => ({ name, path: path(`embeddings/${name}.safetensors`) }))
      },
      'the engine knows all embeddings from the start'
    )
    const without = await prepare('txt2img', { ...base, prompt: 'a fox', loras: [{ name: 'ink', weight: 0 }] })
    t.notOk('loras' in without.job.parameters)
    const two = await run('txt2img', { ...base, prompt: 'a fox <lora:snow:0.5> <lora:lora/style/ink.safetensors:2>' })
    t.match(two.calls.generate_image, {
      loras: [{ multiplier: 0.5 }, { path: path('loras/style/ink.safetensors'), multiplier: 2 }]
    })
  })

  t.test('embeddings are known to the engine and called by name', async t => {
    const { job } = await run('txt2img', {
      ...base,
      prompt: 'a fox, (embedding:easy:1.1)',
      negative_prompt: 'embedding:ugly'
    })
    t.match(job.parameters, { prompt: 'a fox, (easy:1.1)', negative_prompt: 'ugly' })
    await t.rejects(prepare('txt2img', { ...base, prompt: 'embedding:eazy' }), {
      code: 'SDR_MODEL_NOT_FOUND',
      message: /^prompt: .*embedding\/easy/
    })
  })

  t.test('inpainting', async t => {
    const { job, calls } = await run(
      'inpaint',
      { ...base, prompt: 'a fox' },
      {
        init_image: await png(300, 150, '#102030'),
        mask: (await png(20, 10, '#fff')).toString('base64')
      }
    )
    t.match(job.parameters, { strength: 0.75 })
    t.notOk(JSON.stringify(job).includes('base64'))
    t.match(calls.generate_image, {
      init_image: { width: 128, height: 64, channel: 3 },
      mask_image: { width: 128, height: 64, channel: 1 },
      strength: 0.75
    })
  })

  t.test('a ControlNet, with edges that are found first', async t => {
    const control = await png(300, 150, '#fff')
    const plain = await run(
      'controlnet',
      { ...base, prompt: 'a fox', control_strength: 0.5 },
      { control_image: control }
    )
    t.match(plain.job.parameters, { control_net: 'controlnet/lines.safetensors', control_strength: 0.5 })
    t.notOk('strength' in plain.job.parameters, 'which is for an init image')
    t.match(plain.calls.generate_image, {
      control_image: { width: 128, height: 64, channel: 3 },
      control_strength: 0.5
    })
    t.notOk('preprocess_canny' in plain.calls)

    const canny = await run(
      'controlnet',
      { ...base, prompt: 'a fox', control_net: 'lines', canny: { high_threshold: 0.3, inverse: true } },
      {
        control_image: control,
        init_image: await png(64, 64, '#fff')
      }
    )
    t.match(canny.calls.preprocess_canny, { high_threshold: 0.3, inverse: true })
    t.match(canny.calls.generate_image, {
      control_image: { width: 128, height: 64 },
      init_image: { width: 128, height: 64 },
      strength: 0.75
    })
    const off = await run(
      'controlnet',
      { ...base, prompt: 'a fox', canny: { enabled: false } },
      { control_image: control }
    )
    t.notOk('preprocess_canny' in off.calls)
  })

  t.test('hires by a method and by an upscaler', async t => {
    const method = await run('txt2img', {
      ...base,
      prompt: 'a fox',
      hires: { upscaler: 'Latent', scale: 1.5, steps: 2 }
    })
    t.match(method.calls.generate_image, { hires: { enabled: true, scale: 1.5, steps: 2 } })
    const model = await run('txt2img', {
      ...base,
      prompt: 'a fox',
      hires: { upscaler: 'esrgan', target_width: 256, target_height: 128 }
    })
    t.match(model.job.parameters, { hires: { upscaler: 'upscaler/esrgan.safetensors' } })
    t.match(model.calls.generate_image, {
      hires: { model_path: path('upscale_models/esrgan.safetensors'), target_width: 256, target_height: 128 }
    })
    await t.rejects(prepare('txt2img', { ...base, prompt: 'a fox', hires: { upscaler: 'esgran' } }), {
      code: 'SDR_MODEL_NOT_FOUND',
      message: /^hires\.upscaler: /
    })
  })

  t.test('reference images, for models that edit', async t => {
    const sent = { ref_images: [await png(300, 150, '#fff'), (await png(4000, 2000, '#000')).toString('base64')] }
    const edit = { ...base, model: 'whole-edit', prompt: 'a fox' }
    const { job, calls } = await run('txt2img', edit, sent)
    t.notOk('ref_images' in job.parameters)
    t.match(calls.generate_image, {
      ref_images: [{ width: 300, height: 150, channel: 3 }, { width: 2896, height: 1448, channel: 3 }]
    }, 'whole, in their own size, up to what a model makes use of')
    await t.rejects(prepare('txt2img', { ...base, model: 'checkpoint/sd.safetensors', prompt: 'a fox' }, sent), {
      code: 'SDR_UNSUPPORTED_MODEL', message: /^ref_images: checkpoint\/sd.safetensors takes no reference images/
    })
    const { job: unnamed } = await prepare('txt2img', { ...base, prompt: 'a fox' }, sent)
    t.not(unnamed.model, 'checkpoint/sd.safetensors', 'the first model that can, when none is named')
    await t.rejects(prepare('txt2img', edit, { ref_images: [await png(8, 8, '#fff'), 'x'] }), {
      code: 'SDR_INVALID_REQUEST', message: /ref_images\.1/
    })
  })

  t.test('an IP-Adapter with the vision encoder that it needs', async t => {
    const image = { ip_adapter_image: await png(300, 150, '#fff') }
    const { job, calls } = await run('txt2img', { ...base, prompt: 'a fox', ip_adapter_strength: 0.5 }, image)
    t.match(job.parameters, { ip_adapter: 'ip_adapter/plus.safetensors', ip_adapter_strength: 0.5 })
    t.match(calls.new_sd_ctx, {
      ip_adapter_path: path('ipadapter/plus.safetensors'), clip_vision_path: path('clip_vision/h.safetensors')
    })
    t.match(calls.generate_image, { ip_adapter_image: { width: 300, height: 150 }, ip_adapter_strength: 0.5 })
    const again = await prepare('txt2img', job.parameters as ImageRequest, image)
    t.same(again.job.parameters, job.parameters)
    const next = await run('txt2img', { ...base, prompt: 'a fox' })
    t.match(next.calls.new_sd_ctx, { ip_adapter_path: null, clip_vision_path: null }, 'and without it again')

    for (const [request, code, message] of [
      [{ model: 'xl' }, 'SDR_UNSUPPORTED_MODEL', /^ip_adapter: .*plus.* is made for sd1, and .*xl.* is sdxl/],
      [{ ip_adapter: 'pluss' }, 'SDR_MODEL_NOT_FOUND', /^ip_adapter: .*ip_adapter\/plus/],
      [{ ip_adapter: 'lines' }, 'SDR_UNSUPPORTED_MODEL', /^ip_adapter: /]
    ] as Array<[object, string, RegExp]>) {
      await t.rejects(prepare('txt2img', { ...base, prompt: 'a fox', ...request }, image), { code, message })
    }
    await t.rejects(prepare('txt2img', { ...base, prompt: 'a fox', ip_adapter_strength: 1 }), {
      code: 'SDR_INVALID_REQUEST', message: /ip_adapter_image beside it for ip_adapter_strength/
    })
  })

  t.test('PhotoMaker', async t => {
    const images = { photo_maker_images: [await png(64, 64, '#fff'), await png(32, 32, '#000')] }
    const person = { ...base, model: 'xl', prompt: 'a man img in the snow', photo_maker: 'person-v1' }
    const { job, calls } = await run('txt2img', { ...person, photo_maker_style_strength: 15 }, images)
    t.match(job.parameters, { photo_maker: 'photo_maker/person-v1.safetensors', photo_maker_style_strength: 15 })
    t.match(calls.new_sd_ctx, { photo_maker_path: path('photomaker/person-v1.safetensors') })
    t.match(calls.generate_image, { id_images: [{ width: 64 }, { width: 32 }], style_strength: 15 })
    for (const [request, code, message] of [
      [{ prompt: 'a man image' }, 'SDR_INVALID_REQUEST', /a word for the person followed by img/],
      [{ model: 'sd' }, 'SDR_UNSUPPORTED_MODEL', /^photo_maker_images: .* is sd1; this takes sdxl/],
      [{ photo_maker: 'person-v2' }, 'SDR_UNSUPPORTED_MODEL', /^photo_maker: .*version 2/]
    ] as Array<[object, string, RegExp]>) {
      await t.rejects(prepare('txt2img', { ...person, ...request }, images), { code, message })
    }
    await t.rejects(prepare('txt2img', { ...base, prompt: 'a man img', photo_maker: 'person-v1' }), {
      code: 'SDR_INVALID_REQUEST', message: /photo_maker_images beside it for photo_maker/
    })
  })

  t.test('what the operator says about memory', async t => {
    const options = { ...choices, flashAttention: true, offloadToCpu: true, vaeOnCpu: true, clipOnCpu: true }
    const model = catalog.resolve('whole-flux')
    const { files, options: told } = await toLoad(model, { catalog, engine, options })
    t.match(told, { threads: 1, flash_attention: true, offload_to_cpu: true, vae_on_cpu: true, clip_on_cpu: true })
    await engine.run('load', { files, options: told })
    t.match(calls().new_sd_ctx, { flash_attn: true, params_backend: 'cpu', backend: 'vae=cpu,te=cpu' })
    const upscaling = { id: 'x', type: 'upscale', model: 'esrgan', parameters: { repeats: 1 } } as unknown as Job
    t.same((await toEngineTerms(upscaling, {}, { catalog, engine, options })).options, { threads: 1 }, 'an upscaler has no such parts')
  })

  t.test('previews as they are asked for', async t => {
    const previews: number[] = []
    const observer = { preview: ({ step }: { step: number }) => previews.push(step) }
    const drawn = async (request: object) => {
      previews.length = 0
      const { job, attachments } = await prepare('txt2img', { ...base, prompt: 'step_ms=60', steps: 9, ...request })
      const terms = await toEngineTerms({ ...job, parameters: job.parameters } as unknown as Job, attachments, {
        catalog,
        engine,
        options: choices
      })
      await engine.run('load', { files: terms.files, options: terms.options })
      await engine.run('generate', terms.parameters as never, observer)
      return previews.length
    }
    t.equal(await drawn({ previews: { mode: 'none' } }), 0)
    t.equal(await drawn({}), 1, 'one in a second')
    t.ok(await drawn({ previews: { mode: 'vae', interval: 200 } }) >= 2)
  })

  t.test('everything else that there is to set', async t => {
    const parameters = {
      ...base,
      prompt: 'a fox',
      negative_prompt: 'a cat',
      cfg_scale: 3.5,
      img_cfg_scale: 1.5,
      guidance: 2.5,
      sampler: 'lcm',
      scheduler: 'karras',
      eta: 0.5,
      batch_count: 2,
      clip_skip: 2,
      vae_tiling: { tile_size_x: 16, tile_size_y: 32, target_overlap: 0.25 },
      cache: { mode: 'easycache', reuse_threshold: 0.5 },
      skip_layer_guidance: { layers: [7, 8], start: 0.1, end: 0.2, scale: 2.5 },
      custom_sigmas: [14, 7, 3, 0]
    }
    const { job, calls } = await run('txt2img', parameters)
    t.same(job.parameters, { ...parameters, model: 'checkpoint/sd.safetensors' })
    t.equal(job.images.length, 2)
    t.match(calls.generate_image, {
      prompt: 'a fox',
      negative_prompt: 'a cat',
      width: 128,
      height: 64,
      seed: 5,
      batch_count: 2,
      clip_skip: 2
    })
    t.same(
      (await prepare('txt2img', job.parameters as ImageRequest)).job.parameters,
      job.parameters,
      'what a job has makes the same job'
    )
  })

  t.test('models put together by the request', async t => {
    const flux = { diffusion: 'flux.safetensors', clip_l: 'clip_l', t5xxl: 't5xxl', vae: 'ae' }
    const { steps, ...unhurried } = base
    const { job, calls } = await run('txt2img', { ...unhurried, prompt: 'a fox', components: flux })
    t.equal(job.model, 'diffusion/flux.safetensors')
    t.match(job.parameters, {
      model: 'diffusion/flux.safetensors',
      components: { clip_l: 'text_encoder/clip_l.safetensors', t5xxl: 'text_encoder/t5xxl.safetensors', vae: 'vae/ae.safetensors' },
      steps: 4,
      guidance: 3.5
    }, 'defaults are those of the diffusion model')
    const files = {
      diffusion_model_path: path('unet/flux.safetensors'),
      clip_l_path: path('clip/clip_l.safetensors'),
      t5xxl_path: path('clip/t5xxl.safetensors'),
      vae_path: path('vae/ae.safetensors')
    }
    t.match(calls.new_sd_ctx, files)
    t.equal(calls.new_sd_ctx!.model_path, null)
    t.notOk('components' in calls.generate_image!)
    const again = await run('txt2img', job.parameters as ImageRequest)
    t.same(again.job.parameters, job.parameters, 'what a job has makes the same job')
    t.notOk('new_sd_ctx' in again.calls, 'with the model that is loaded already')

    const images = { init_image: await png(64, 64, '#102030'), mask: await png(64, 64, '#fff') }
    const tiny = { ...base, prompt: 'a fox', components: { ...flux, vae: undefined, taesd: 'taef1' } }
    t.match((await run('img2img', tiny, { init_image: images.init_image })).calls.new_sd_ctx,
      { ...files, vae_path: null, taesd_path: path('vae/taef1.safetensors') })
    t.match((await run('inpaint', { ...base, prompt: 'a fox', components: flux }, images)).calls,
      { new_sd_ctx: files, generate_image: { mask_image: { width: 128 } } })
    const control = await run('controlnet', { ...base, prompt: 'a fox', components: flux, control_net: 'lines' },
      { control_image: images.mask })
    t.match(control.calls.generate_image, { control_image: { width: 128 } })

    const replaced = await run('txt2img', {
      ...base, prompt: 'a fox', model: 'sd', components: { clip_l: 'clip_l', vae: 'kl' }
    })
    t.match(replaced.calls.new_sd_ctx, {
      model_path: path('checkpoints/sd.safetensors'), clip_l_path: files.clip_l_path, vae_path: path('vae/kl.safetensors')
    }, 'in the place of what a checkpoint has')
    const described = await run('txt2img', { ...unhurried, prompt: 'a fox', model: 'whole-flux.model.yaml', components: { t5xxl: 't5xxl' } })
    t.match(described.calls.new_sd_ctx, files, 'and beside what a description names')
    t.match(described.job.parameters, { steps: 9 })
  })

  t.test('the ControlNet of a description', async t => {
    const control = { control_image: await png(64, 64, '#fff') }
    const { job, calls } = await run('controlnet', { ...base, prompt: 'a fox', model: 'whole-flux.model.yaml' }, control)
    t.notOk('control_net' in job.parameters)
    t.match(calls, {
      new_sd_ctx: { control_net_path: path('controlnet/lines.safetensors') }, generate_image: { control_image: {} }
    })
  })

  t.test('upscaling', async t => {
    const { job, calls } = await run('upscale', { repeats: 2 }, { init_image: await png(10, 8, '#fff') })
    t.same(job.parameters, { model: 'upscaler/esrgan.safetensors', repeats: 2 })
    t.match(calls.upscale, { image: { width: 40, height: 32 } })
  })

  t.test('bounds go for the second pass too', async t => {
    await t.rejects(prepare('txt2img', { ...base, prompt: 'a fox', hires: { scale: 8 }, width: 512, height: 512 }), {
      message: /hires/
    })
    await t.rejects(prepare('upscale', { repeats: 4 }, { init_image: await png(64, 64, '#fff') }), {
      code: 'SDR_INVALID_REQUEST',
      message: /at most 1024 pixels with repeats 4 \(--max-upscaled-pixels\) for init_image but received one of 64 × 64/
    })
  })
})
