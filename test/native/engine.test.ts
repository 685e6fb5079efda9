import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type {
  EngineAddon, EngineEvent, GenerationParameters, NativeEngine, RawImage
} from '../../native/engine-types.ts'
import { compileTimeout, loadAddon, noCompiler, recordingAddonPath } from '../fixtures/recording-library/addon.ts'

/** The binding against the recording library: what goes in arrives as given, what comes out is what was drawn. */

t.setTimeout(compileTimeout)
const addon = noCompiler ? {} as EngineAddon : loadAddon(await recordingAddonPath())

interface Call { call: string, main_thread: boolean, [field: string]: unknown }

/** An engine with a model loaded, the events that it has sent, and the calls that reached the library since. */
async function open (t: Test, words = ''): Promise<{
  engine: NativeEngine, events: EngineEvent[], calls: () => Call[], file: (name: string, words?: string) => string
}> {
  const folder = t.testdir({})
  const file = (name: string, words = ''): string => {
    writeFileSync(join(folder, name), `recording ${words}`)
    return join(folder, name)
  }
  const log = join(folder, 'calls')
  process.env.GGML_RECORDING_FILE = log
  writeFileSync(log, '')
  const events: EngineEvent[] = []
  const engine = new addon.Engine(event => events.push(event))
  t.teardown(() => {
    delete process.env.GGML_RECORDING_FILE // its folder is gone by now
    engine.close()
  })
  const calls = (): Call[] => {
    const lines = readFileSync(log, 'utf8').trim()
    writeFileSync(log, '')
    return lines === '' ? [] : lines.split('\n').map(line => JSON.parse(line) as Call)
  }
  await engine.load({ model: file('model', words) })
  calls()
  events.length = 0
  return { engine, events, calls, file }
}

function picture (channels: number, fill = 100): RawImage {
  return { width: 64, height: 64, channels, data: Buffer.alloc(64 * 64 * channels, fill) }
}

const simple = { prompt: 'a cat', width: 64, height: 64, steps: 3, seed: 5 }

t.test('says what the library is, in its own words', { skip: noCompiler }, async (t) => {
  t.match(addon.library, {
    version: 'recording-1',
    commit: '0000000',
    path: /libstable-diffusion\.\w+$/,
    samplers: ['euler', 'euler_a', 'lcm', 'recording'],
    schedulers: ['discrete', 'karras', 'recording'],
    predictions: ['eps', 'v', 'flow'],
    rngs: ['std_default', 'cuda', 'cpu'],
    previews: ['none', 'proj', 'tae', 'vae'],
    hires_upscalers: ['None', 'Latent', 'Model'],
    defaults: { steps: 20, cfg_scale: 7, eta: null, strength: 0.75 }
  })
  t.strictSame(addon.library.weight_types, ['f32', 'f16', 'q8_0'],
    'without formats that were removed, that are for integers, or that exist only in computations')
  t.strictSame(addon.devices(), [
    { name: 'CPU', description: 'The processor' }, { name: 'REC0', description: 'A recording device' }
  ])
  t.match(addon.version, /^\d+\.\d+\.\d+/)
})

t.test('a model is loaded with everything that was asked for', { skip: noCompiler }, async (t) => {
  const { engine, events, calls, file } = await open(t)
  const files = Object.fromEntries([
    'model', 'diffusion_model', 'high_noise_diffusion_model', 'uncond_diffusion_model', 'clip_l', 'clip_g',
    'clip_vision', 't5xxl', 'llm', 'llm_vision', 'vae', 'taesd', 'control_net', 'ip_adapter', 'photo_maker',
    'pulid_weights'
  ].map(name => [name, file(`${name} of ünïcode`)]))
  const outcome = await engine.load({
    ...files,
    embeddings: [{ name: 'one', path: file('one') }, { name: 'two', path: file('two') }],
    threads: 7,
    weight_type: 'q8_0',
    tensor_type_rules: '^vae=f16',
    rng: 'cpu',
    sampler_rng: 'cuda',
    prediction: 'v',
    lora_apply_mode: 'auto',
    vae_format: 'flux2',
    model_args: 'a=b',
    backend: 'all=REC0,vae=cpu',
    params_backend: 'cpu',
    split_mode: 'row',
    auto_fit: true,
    max_vram: 'REC0=6',
    stream_layers: true,
    eager_load: false,
    mmap: true,
    flash_attention: true,
    diffusion_flash_attention: true,
    diffusion_conv_direct: true,
    vae_conv_direct: true,
    taesd_preview_only: true,
    force_sdxl_vae_conv_scale: true
  })
  t.match(outcome, { sampler: 'euler_a', scheduler: 'karras', milliseconds: Number, images: [] })
  t.strictSame(events.filter(event => event.type === 'progress').map(({ step, steps }) => [step, steps]),
    [[0, 3], [1, 3], [2, 3], [3, 3]])
  const [freed, { call, main_thread: isMain, ...params }] = calls() as [Call, Call]
  t.equal(freed.call, 'free_sd_ctx', 'the model before goes first: two may not fit')
  t.equal(call, 'new_sd_ctx')
  t.equal(isMain, false)
  t.strictSame(params, {
    ...Object.fromEntries(Object.entries(files).map(([name, path]) => [`${name}_path`, path])),
    // The one name that differs.
    pulid_weights_path: files.pulid_weights,
    embeddings: [{ name: 'one', path: file('one') }, { name: 'two', path: file('two') }],
    n_threads: 7,
    wtype: 3,
    tensor_type_rules: '^vae=f16',
    rng_type: 2,
    sampler_rng_type: 1,
    prediction: 1,
    lora_apply_mode: 0,
    vae_format: 2,
    model_args: 'a=b',
    backend: 'all=REC0,vae=cpu',
    params_backend: 'cpu',
    split_mode: 'row',
    max_vram: 'REC0=6',
    auto_fit: true,
    stream_layers: true,
    eager_load: false,
    enable_mmap: true,
    flash_attn: true,
    diffusion_flash_attn: true,
    diffusion_conv_direct: true,
    vae_conv_direct: true,
    tae_preview_only: true,
    force_sdxl_vae_conv_scale: true
  })

  await engine.load({ model: files.model })
  t.match(calls()[1], {
    n_threads: 3,
    wtype: 6,
    rng_type: 0,
    sampler_rng_type: 3,
    prediction: 3,
    vae_format: -1,
    backend: null,
    lora_apply_mode: 2,
    eager_load: true,
    embeddings: []
  }, "the library's defaults, but for LoRAs and for when weights are read")
})

t.test('a picture is asked for with everything that was given', { skip: noCompiler }, async (t) => {
  const { engine, calls, file } = await open(t)
  await engine.generate({
    prompt: 'a "cat"\nsays ☃',
    negative_prompt: 'a dog',
    width: 128,
    height: 64,
    seed: 2 ** 53 - 1,
    batch_count: 2,
    clip_skip: 2,
    steps: 4,
    sampler: 'lcm',
    scheduler: 'karras',
    cfg_scale: 1.5,
    img_cfg_scale: 2.5,
    guidance: 4.5,
    eta: 0.25,
    flow_shift: 3,
    shifted_timestep: 250,
    custom_sigmas: [14.5, 7, 0],
    extra_sample_args: 'a=1',
    skip_layer_guidance: { layers: [7, 8], start: 0.25, end: 0.5, scale: 2.5 },
    loras: [{ path: file('lora'), weight: -0.5 }, { path: file('lora 2'), high_noise: true }],
    init_image: picture(3),
    strength: 0.25,
    mask: picture(1, 255),
    ref_images: [picture(3, 1), picture(3, 2)],
    ref_image_args: 'b=2',
    control_image: picture(3, 3),
    control_strength: 0.5,
    ip_adapter_image: picture(3, 4),
    ip_adapter_strength: 0.125,
    photo_maker: { images: [picture(3, 5)], id_embed_path: file('embed'), style_strength: 15 },
    pulid: { id_embedding_path: file('pulid'), id_weight: 0.5 },
    vae_tiling: {
      temporal_tiling: true,
      tile_size_x: 32,
      tile_size_y: 48,
      rel_size_x: 2,
      rel_size_y: 3,
      target_overlap: 0.25,
      extra_tiling_args: 'c=3'
    },
    cache: {
      mode: 'spectrum',
      reuse_threshold: 0.5,
      start_percent: 0.25,
      end_percent: 0.75,
      error_decay_rate: 0.5,
      use_relative_threshold: true,
      reset_error_on_compute: true,
      fn_compute_blocks: 1,
      bn_compute_blocks: 2,
      residual_diff_threshold: 0.125,
      max_warmup_steps: 3,
      max_cached_steps: 4,
      max_continuous_cached_steps: 5,
      taylorseer_n_derivatives: 6,
      taylorseer_skip_interval: 7,
      scm_mask: '1,0',
      scm_policy_dynamic: true,
      spectrum_w: 0.5,
      spectrum_m: 8,
      spectrum_lam: 1.5,
      spectrum_window_size: 9,
      spectrum_flex_window: 0.75,
      spectrum_warmup_steps: 10,
      spectrum_stop_percent: 0.875
    },
    hires: {
      upscaler: 'Model',
      model_path: file('esrgan'),
      scale: 3,
      target_width: 256,
      target_height: 192,
      steps: 11,
      denoising_strength: 0.5,
      upscale_tile_size: 64,
      custom_sigmas: [2, 1]
    },
    qwen_image_layers: 4,
    circular_x: true,
    circular_y: true
  })
  const [{ call, main_thread: isMain, ...params }] = calls() as [Call]
  t.equal(call, 'generate_image')
  t.equal(isMain, false)
  t.strictSame(withoutBytes(params), {
    loras: [
      { is_high_noise: false, multiplier: -0.5, path: file('lora') },
      { is_high_noise: true, multiplier: 1, path: file('lora 2') }
    ],
    prompt: 'a "cat"\nsays ☃',
    negative_prompt: 'a dog',
    clip_skip: 2,
    init_image: { width: 64, height: 64, channel: 3 },
    ref_images: [{ width: 64, height: 64, channel: 3 }, { width: 64, height: 64, channel: 3 }],
    ref_image_args: 'b=2',
    mask_image: { width: 64, height: 64, channel: 1 },
    width: 128,
    height: 64,
    sample_params: {
      txt_cfg: 1.5,
      img_cfg: 2.5,
      distilled_guidance: 4.5,
      layers: [7, 8],
      layer_start: 0.25,
      layer_end: 0.5,
      scale: 2.5,
      scheduler: 1,
      sample_method: 2,
      sample_steps: 4,
      eta: 0.25,
      shifted_timestep: 250,
      custom_sigmas: [14.5, 7, 0],
      flow_shift: 3,
      extra_sample_args: 'a=1'
    },
    strength: 0.25,
    seed: 2 ** 53 - 1,
    batch_count: 2,
    control_image: { width: 64, height: 64, channel: 3 },
    control_strength: 0.5,
    ip_adapter_image: { width: 64, height: 64, channel: 3 },
    ip_adapter_strength: 0.125,
    id_images: [{ width: 64, height: 64, channel: 3 }],
    id_embed_path: file('embed'),
    style_strength: 15,
    id_embedding_path: file('pulid'),
    id_weight: 0.5,
    vae_tiling_params: {
      enabled: true,
      temporal_tiling: true,
      tile_size_x: 32,
      tile_size_y: 48,
      target_overlap: 0.25,
      rel_size_x: 2,
      rel_size_y: 3,
      extra_tiling_args: 'c=3'
    },
    cache: {
      mode: 6,
      reuse_threshold: 0.5,
      start_percent: 0.25,
      end_percent: 0.75,
      error_decay_rate: 0.5,
      use_relative_threshold: true,
      reset_error_on_compute: true,
      Fn_compute_blocks: 1,
      Bn_compute_blocks: 2,
      residual_diff_threshold: 0.125,
      max_warmup_steps: 3,
      max_cached_steps: 4,
      max_continuous_cached_steps: 5,
      taylorseer_n_derivatives: 6,
      taylorseer_skip_interval: 7,
      scm_mask: '1,0',
      scm_policy_dynamic: true,
      spectrum_w: 0.5,
      spectrum_m: 8,
      spectrum_lam: 1.5,
      spectrum_window_size: 9,
      spectrum_flex_window: 0.75,
      spectrum_warmup_steps: 10,
      spectrum_stop_percent: 0.875
    },
    hires: {
      enabled: true,
      upscaler: 2,
      model_path: file('esrgan'),
      scale: 3,
      target_width: 256,
      target_height: 192,
      steps: 11,
      denoising_strength: 0.5,
      upscale_tile_size: 64,
      custom_sigmas: [2, 1]
    },
    qwen_image_layers: 4,
    circular_x: true,
    circular_y: true
  })
  // The bytes of pictures are told by a hash: different ones arrive as different ones, the same as the same.
  const hashes = (JSON.stringify(params).match(/"bytes":"\d+"/g) ?? []).map(text => text.slice(9, -1))
  t.equal(new Set(hashes).size, 7)
  await engine.generate({ ...simple, init_image: picture(3) })
  t.match(calls()[0], { init_image: { bytes: hashes[0] }, mask_image: { bytes: '0' } })
})

t.test("what is not given has the library's default", { skip: noCompiler }, async (t) => {
  const { engine, calls } = await open(t)
  await engine.generate({ prompt: '', seed: 0 })
  t.match(withoutBytes(calls()[0]!), {
    prompt: '',
    negative_prompt: null,
    width: 512,
    height: 512,
    clip_skip: -1,
    strength: 0.75,
    batch_count: 1,
    control_strength: 0.9,
    sample_params: { sample_steps: 20, sample_method: 4, scheduler: 3, eta: null, flow_shift: null, custom_sigmas: [] },
    hires: { enabled: false, scale: 2 },
    cache: { mode: 0, reuse_threshold: null },
    vae_tiling_params: { enabled: false },
    loras: [],
    init_image: { width: 0, height: 0, channel: 0 }
  })
})

t.test('what cannot be drawn is refused with the reason, before the library sees it', { skip: noCompiler }, async (t) => {
  const { engine, calls, file } = await open(t)
  const refused: Array<[Record<string, unknown>, string]> = [
    [{ width: 0 }, 'Expected an integer from 64 to 8192 for width but received 0.'],
    [{ width: 1, height: 1 }, 'Expected an integer from 64 to 8192 for width but received 1.'],
    [{ width: -64 }, 'Expected an integer from 64 to 8192 for width but received -64.'],
    [{ height: 100_000 }, 'Expected an integer from 64 to 8192 for height but received 100000.'],
    [{ width: 64.5 }, 'Expected an integer from 64 to 8192 for width but received 64.5.'],
    [{ width: 100 }, 'Expected a multiple of 8 for width but received 100.'],
    [{ width: '64' }, 'Expected an integer from 64 to 8192 for width but received "64".'],
    [{ width: 8192, height: 4096 }, 'Expected at most 4096 × 4096 pixels for width × height.'],
    [{ width: NaN }, 'Expected an integer from 64 to 8192 for width but received NaN.'],
    [{ steps: 1e9 }, 'Expected an integer from 1 to 1000 for steps but received 1000000000.'],
    [{ steps: null }, 'Expected an integer from 1 to 1000 for steps but received null.'],
    [{ sampler: 'euler b' }, 'Expected one of euler, euler_a, lcm, recording for sampler but received "euler b".'],
    [{ scheduler: 1 }, 'Expected one of discrete, karras, recording for scheduler but received 1.'],
    [{ seed: -1 }, 'Expected an integer from 0 to 9007199254740991 for seed but received -1.'],
    [{ seed: undefined }, 'Expected an integer for seed.'],
    [{ prompt: undefined }, 'Expected a text for prompt.'],
    [{ prompt: 7 }, 'Expected a text of at most 65536 bytes without a NUL for prompt but received 7.'],
    [{ prompt: 'a\0b' }, 'Expected a text of at most 65536 bytes without a NUL for prompt but received "a?b".'],
    [{ prompt: 'x'.repeat(65_537) }, `Expected a text of at most 65536 bytes without a NUL for prompt but received "${'x'.repeat(57)}...".`],
    [{ batch_count: 65 }, 'Expected an integer from 1 to 64 for batch_count but received 65.'],
    [{ cfg_scale: Infinity }, 'Expected a number from 0 to 100 for cfg_scale but received Infinity.'],
    [{ stpes: 3 }, 'There is no parameter stpes.'],
    [{ hires: { scale: 2, scael: 2 } }, 'There is no parameter hires.scael.'],
    [{ hires: true }, 'Expected an object for hires but received true.'],
    [{ hires: { scale: 8, }, width: 4096, height: 4096 }, 'Expected a result of at most 4096 × 4096 pixels for hires.scale but received 8.'],
    [{ hires: { target_width: 100 } }, 'Expected a multiple of 8 for hires.target_width but received 100.'],
    [{ hires: { upscaler: 'Model' } }, 'Expected the path of an upscaler for hires.model_path.'],
    [{ loras: 'x' }, 'Expected an array of 0 to 64 elements for loras but received "x".'],
    [{ loras: [{}] }, 'Expected a path for loras.0.path.'],
    [{ loras: [{ path: '/nowhere' }] }, 'The LoRA /nowhere cannot be read: No such file or directory.'],
    [{ custom_sigmas: [1] }, 'Expected an array of 2 to 1001 elements for custom_sigmas but received an array of length 1.'],
    [{ custom_sigmas: [1, -1] }, 'Expected a number from 0 to 10000 for custom_sigmas.1 but received -1.'],
    [{ mask: picture(1) }, 'Expected a picture, because there is a mask, for init_image.'],
    [{ init_image: picture(1) }, 'Expected an integer from 3 to 3 for init_image.channels but received 1.'],
    [{ init_image: { ...picture(3), width: 65 } }, 'Expected 12480 bytes (width × height × channels) for init_image.data but received 12288.'],
    [{ init_image: { ...picture(3), width: 2 ** 32 } }, 'Expected an integer from 1 to 16384 for init_image.width but received 4294967296.'],
    [{ init_image: { data: Buffer.alloc(1) } }, 'Expected a number for init_image.width.'],
    [{ init_image: 'x' }, 'Expected a picture { width, height, channels: 3, data: Buffer } for init_image but received "x".'],
    [{ circular_x: 1 }, 'Expected true or false for circular_x but received 1.']
  ]
  for (const [change, message] of refused) {
    await t.rejects(engine.generate({ ...simple, ...change } as GenerationParameters), { code: 'invalid_parameters', message }, message)
  }
  await t.rejects(engine.generate(undefined as unknown as GenerationParameters), { code: 'invalid_parameters' })
  await t.rejects(engine.generate({ ...simple, get steps (): number { throw new Error('from a getter') } }),
    { message: /^from a getter$/, code: undefined })
  await t.rejects(engine.load({}), { code: 'invalid_parameters', message: 'Expected a path for model or diffusion_model.' })
  await t.rejects(engine.load({ model: '/nowhere' }),
    { code: 'model_load_failed', message: 'The model /nowhere cannot be read: No such file or directory.' })
  await t.rejects(engine.load({ model: file('m'), weight_type: 'q8_K' }),
    { code: 'invalid_parameters', message: 'Expected one of f32, f16, q8_0 for weight_type but received "q8_K".' })
  t.strictSame(calls(), [], 'the library was not called, and the model is still there')
  await engine.generate(simple)
})

t.test('draws what was asked for: batches, seeds, masks', { skip: noCompiler }, async (t) => {
  const { engine } = await open(t)
  const { images } = await engine.generate({ ...simple, batch_count: 3, width: 128 })
  t.strictSame(images.map(({ width, height, channels, data }) => [width, height, channels, data.length]),
    Array(3).fill([128, 64, 3, 128 * 64 * 3]))
  t.not(images[0]!.data.equals(images[1]!.data), true)
  const single = await engine.generate({ ...simple, seed: simple.seed + 1, width: 128 })
  t.ok(single.images[0]!.data.equals(images[1]!.data), 'the same seed draws the same')

  const mask = picture(1, 0)
  mask.data.fill(255, 0, 64 * 32)
  const { images: [inpainted] } = await engine.generate({ ...simple, init_image: picture(3, 77), mask })
  t.ok(inpainted!.data.subarray(64 * 32 * 3).every(sample => sample === 77), 'the lower half was left as it was')
  t.notOk(inpainted!.data.subarray(0, 64 * 32 * 3).every(sample => sample === 77))
})

t.test('tells progress, log and previews, in their order and all before the result', { skip: noCompiler }, async (t) => {
  const { engine, events } = await open(t)
  await engine.generate({ ...simple, preview: { mode: 'tae', interval: 0 } })
  t.match(events.map(event => event.type === 'log' ? event.message.replace(/^.* - (?=\w)/, '') : `${event.type} ${event.step}`), [
    'generate_image', /seed 5/, 'progress 0', 'preview 1', 'progress 1', 'preview 2', 'progress 2', 'preview 3',
    'progress 3', 'decoding 1 latents', 'latent 1 decoded'
  ])
  t.match(events.find(event => event.type === 'preview'), { image: { width: 8, height: 8, channels: 3 } })

  events.length = 0
  await engine.generate({ ...simple, prompt: 'step_ms=20', steps: 20, preview: { mode: 'proj', interval: 150 } })
  const previews = events.filter(event => event.type === 'preview').length
  t.ok(previews >= 2 && previews <= 4, `${previews} previews in 400 ms, at least 150 ms apart`)
  events.length = 0
  await engine.generate(simple)
  t.notOk(events.some(event => event.type === 'preview'), 'none when nobody asks')
})

t.test('a flood of words neither holds the drawing up nor loses its result', { skip: noCompiler }, async (t) => {
  const { engine, events } = await open(t)
  const { images } = await engine.generate({ ...simple, prompt: 'flood=20000' })
  t.equal(images.length, 1)
  t.ok(events.length < 60_000, `${events.length} events: what does not fit is dropped`)
})

t.test('cancels between two steps, or after an image', { skip: noCompiler }, async (t) => {
  const { engine, events } = await open(t)
  t.equal(engine.cancel(), false, 'nothing to cancel')
  const long = { ...simple, prompt: 'step_ms=10', steps: 200, batch_count: 3 }

  const cancelled = engine.generate(long)
  await wait(50)
  t.equal(engine.busy, true)
  const begin = performance.now()
  t.equal(engine.cancel(), true)
  await t.rejects(cancelled, { code: 'cancelled', message: 'The generation was cancelled.' })
  t.ok(performance.now() - begin < 500)

  for (let round = 0; round < 20; round++) {
    const begin = performance.now()
    const early = engine.generate(long)
    engine.cancel() // before the library has begun, which forgets it then
    await t.rejects(early, { code: 'cancelled' })
    t.ok(performance.now() - begin < 500, 'early')
  }

  events.length = 0
  const some = engine.generate({ ...long, steps: 20 })
  while (!events.some(event => event.type === 'log' && event.message.includes('generating image: 2/3'))) await wait(5)
  engine.cancel(true)
  t.equal((await some).images.length, 2, 'the second image was finished, the third left out')
  t.equal((await engine.generate(simple)).images.length, 1, 'a cancellation does not outlive its generation')
})

t.test('fails with the reason that the library gives', { skip: noCompiler }, async (t) => {
  const { engine, file } = await open(t)
  const failures: Array<[string, string, string]> = [
    ['null', 'generation_failed', 'The image could not be generated: told to fail while sampling.'],
    ['silent', 'generation_failed', 'The image could not be generated; the library does not say why.'],
    ['exception', 'generation_failed', 'The generation failed: the library threw "told to throw while sampling".'],
    ['memory', 'generation_failed', 'The generation failed: the machine has not enough memory for it.'],
    ['strange', 'generation_failed', 'The generation failed: the library threw something that is no exception.']
  ]
  for (const [how, code, message] of failures) {
    await t.rejects(engine.generate({ ...simple, prompt: `fail=${how}@sampling` }), { code, message })
  }
  await t.rejects(engine.generate({ ...simple, prompt: 'fail=empty@decoding' }),
    { code: 'generation_failed', message: 'The library reported success without an image.' })
  await t.rejects(engine.generate({ ...simple, prompt: 'fail=hollow@decoding' }),
    { code: 'generation_failed', message: 'The library returned an empty image.' })
  t.equal((await engine.generate(simple)).images.length, 1, 'none of them is the end')
  t.equal(addon.systemInfo(), '1 contexts, 0 upscalers, 0 images', 'and nothing was leaked')

  for (const how of ['null', 'silent', 'exception', 'memory', 'strange']) {
    await t.rejects(engine.load({ model: file('bad', `fail=${how}@loading`) }), { code: 'model_load_failed' })
    await t.rejects(engine.loadUpscaler({ esrgan: file('bad', `fail=${how}@loading`) }), { code: 'model_load_failed' })
  }
  await t.rejects(engine.load({ model: file('m'), backend: 'absent' }),
    { code: 'model_load_failed', message: "The model could not be loaded: backend 'absent' was not found." })
  await t.rejects(engine.load({ model: file('video', 'video=1') }),
    { code: 'model_load_failed', message: 'This is a model for videos; it draws no images.' })
  await t.rejects(engine.generate(simple), { code: 'generation_failed', message: 'No model is loaded.' })
  t.equal(addon.systemInfo(), '0 contexts, 0 upscalers, 0 images')
})

t.test('upscales, converts, finds edges, changes the ControlNet', { skip: noCompiler }, async (t) => {
  const { engine, events, calls, file } = await open(t)
  await t.rejects(engine.upscale({ image: picture(3) }), { code: 'generation_failed', message: 'No upscaler is loaded.' })
  await engine.loadUpscaler({ esrgan: file('esrgan'), threads: 2, tile_size: 64, direct: true, backend: 'REC0', params_backend: 'cpu' })
  const { images: [upscaled] } = await engine.upscale({ image: picture(3) })
  t.match(upscaled, { width: 256, height: 256, channels: 3 })
  t.equal((await engine.upscale({ image: picture(3), factor: 3 })).images[0]!.width, 192)
  t.match(calls(), [
    { call: 'new_upscaler_ctx', path: file('esrgan'), threads: 2, tile_size: 64, direct: true, backend: 'REC0', params_backend: 'cpu' },
    { call: 'upscale', factor: 4, main_thread: false }, { call: 'upscale', factor: 3 }
  ])
  await t.rejects(
    engine.upscale({
      image: { width: 4096, height: 2048, channels: 3, data: Buffer.alloc(4096 * 2048 * 3) },
      factor: 3
    }),
    { code: 'invalid_parameters', message: /at most 8192 × 8192 pixels when it is 3 times as wide and high/ }
  )
  await engine.loadUpscaler({ esrgan: file('esrgan', 'fail=null@upscaling') })
  await t.rejects(engine.upscale({ image: picture(3) }),
    { code: 'generation_failed', message: 'The image could not be upscaled: told to fail while upscaling.' })

  events.length = 0
  calls()
  const conversion = { input: file('in'), output: join(t.testdirName, 'out'), vae: file('vae') }
  await engine.convert({ ...conversion, weight_type: 'q8_0', tensor_type_rules: 'x=f16', convert_name: true, threads: 2 })
  t.match(calls(), [{
    call: 'convert',
    model: conversion.input,
    output: conversion.output,
    vae: conversion.vae,
    type: 3,
    tensor_type_rules: 'x=f16',
    convert_name: true,
    threads: 2,
    main_thread: false
  }])
  t.equal(readFileSync(conversion.output, 'utf8'), 'converted')
  t.same(events.map(event => event.type === 'progress' && event.step), [0, 1, 2])
  await t.rejects(engine.convert({ input: file('in', 'fail=exception@converting'), output: conversion.output }),
    { code: 'generation_failed', message: /told to throw/ })
  await t.rejects(engine.convert({ input: '/nowhere', output: conversion.output }), { code: 'invalid_parameters' })

  calls()
  const given = picture(3, 200)
  const { images: [edges] } = await engine.canny({
    image: given,
    high_threshold: 0.25,
    low_threshold: 0.125,
    weak: 0.5,
    strong: 0.75,
    inverse: true
  })
  t.ok(edges!.data.every(sample => sample === 55))
  t.ok(given.data.every(sample => sample === 200), "the caller's bytes are not touched")
  t.match(calls(), [{ call: 'preprocess_canny', high_threshold: 0.25, low_threshold: 0.125, weak: 0.5, strong: 0.75, inverse: true }])

  await engine.loadControlNet({ control_net: file('net') })
  await engine.loadControlNet({})
  t.match(calls(), [{ call: 'sd_ctx_load_control_net', path: file('net') }, { call: 'sd_ctx_unload_control_net' }])
  await t.rejects(engine.loadControlNet({ control_net: file('net', 'fail=null@loading') }), { code: 'model_load_failed' })
  await engine.unload()
  await t.rejects(engine.loadControlNet({ control_net: file('net') }), { code: 'model_load_failed' })
})

function withoutBytes (call: Record<string, unknown>): Record<string, unknown> {
  return JSON.parse(JSON.stringify(call, (key, value: unknown) => key === 'bytes' ? undefined : value)) as Record<string, unknown>
}
