import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import sharp from 'sharp'
import t from 'tap'
import type { ImageParameters, LoadOptions, ModelFiles } from '../../../lib/engine/engine.ts'
import {
  samplers, schedulers, toAddonConfig, toAddonFiles, toAddonRun, weightTypes
} from '../../../lib/engine/hosts/portable/terms.ts'
import { selectEngine } from '../../../lib/engine/select.ts'
import { packageRoot } from '../../../lib/util/package-root.ts'
import { conformance } from './conformance.ts'
import {
  checkpoint, draw, drawOne, failure, fox, isAlive, load, loadOptions, picture, portable, temporaryFolder, until
} from './helper.ts'

// 200 s on two cores that do other work as well.
t.setTimeout(900_000)

const folder = temporaryFolder(t)
const minit2i = { model: checkpoint(folder, 'minit2i') }
const sdxs = { model: checkpoint(folder, 'sdxs') }
const loras = (path: string): ImageParameters['loras'] => [{ path, weight: 1 }]

t.test('conformance', (t) => conformance(t, (t) => portable(t)))

t.test('has the names of the installed version', async (t) => {
  const { file } = await selectEngine({ engine: 'portable' })
  const script = join(packageRoot, 'dist', 'test', 'fixtures', 'portable-names.js')
  const output = execFileSync(file, [script, minit2i.model], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  const answers = JSON.parse(output.trim().split('\n').at(-1)!) as Record<string, string>
  const valid = (answer: string): string[] => /Valid: (.*)$/.exec(answer)![1]!.split(', ')
  t.same(valid(answers.sampling_method!), samplers)
  t.same(valid(answers.scheduler!), schedulers)
  t.same(valid(answers.cache_mode!), ['disabled', 'easycache', 'ucache', 'dbcache', 'taylorseer', 'cache-dit'])
})

t.test('dangers', async (t) => {
  const engine = await portable(t)
  const { pid } = engine.status

  await t.test('weights that MiniT2I dies of', async (t) => {
    for (const weightType of weightTypes) {
      const loading = load(engine, minit2i, { weight_type: weightType })
      if (weightType === 'f32') {
        await loading
        t.ok(await drawOne(engine), weightType)
      } else {
        await failure(t, loading, 'invalid_parameters', /weight_type of MiniT2I/)
        await failure(t, draw(engine), 'generation_failed', /No model/)
      }
    }
  })

  await load(engine, minit2i)

  await t.test('shapes that MiniT2I dies of', async (t) => {
    await failure(t, draw(engine, { width: 64, height: 72 }), 'invalid_parameters', /Expected 64.*height.*72/)
    t.ok(await drawOne(engine, { width: 72, height: 72 }))
  })

  await t.test('an image that MiniT2I would ignore', async (t) => {
    const attachments = { init_image: await picture(64, 64) }
    await failure(t, draw(engine, {}, { attachments }), 'invalid_parameters', /init_image/)
  })

  await t.test('a LoRA of another architecture, which it would ignore', async (t) => {
    const wrong = loras(checkpoint(folder, 'lora'))
    const message = await failure(t, draw(engine, { loras: wrong }), 'generation_failed', /lora\.safetensors does not fit the model: 0 \/ 8/)
    t.notMatch(message, folder)
  })

  await t.test('a LoRA that is none, which it would ignore', async (t) => {
    const file = join(folder, 'garbage.safetensors')
    writeFileSync(file, 'garbage'.repeat(1000))
    await failure(t, draw(engine, { loras: loras(file) }), 'generation_failed', /LoRA/)
    await failure(t, draw(engine, { loras: loras(folder) }), 'invalid_parameters', /is not there/)
  })

  await t.test('a LoRA that stays in the weights', async (t) => {
    await failure(t, load(engine, sdxs, { lora_apply_mode: 'immediately' }), 'invalid_parameters', /lora_apply_mode/)
    await load(engine, sdxs)
    const plain = await drawOne(engine)
    for (let round = 0; round < 2; round++) await drawOne(engine, { loras: loras(checkpoint(folder, 'lora')) })
    t.ok(plain.equals(await drawOne(engine)))
  })

  await t.test('an image to begin with of another size, whose size it would take', async (t) => {
    const wrong = { init_image: await picture(128, 64) }
    await failure(t, draw(engine, {}, { attachments: wrong }), 'invalid_parameters', /64 × 64.*128 × 64/)
    const jpeg = await sharp({ create: { width: 64, height: 64, channels: 3, background: 'teal' } }).jpeg().toBuffer()
    await failure(t, draw(engine, {}, { attachments: { init_image: jpeg } }), 'invalid_parameters', /PNG/)
    const damaged = (await picture(64, 64)).subarray(0, 60)
    await failure(t, draw(engine, {}, { attachments: { init_image: damaged } }), 'generation_failed', /decode/)
  })

  await t.test('sizes that it rounds up, which it tells', async (t) => {
    const { images } = await draw(engine, { width: 64, height: 72 })
    t.match(images, [{ width: 64, height: 128 }])
  })

  await t.test('files that are broken, of which it says only that they are', async (t) => {
    const whole = readFileSync(minit2i.model)
    const truncated = join(folder, 'truncated.safetensors')
    writeFileSync(truncated, whole.subarray(0, whole.length - 1))
    await failure(t, load(engine, { model: truncated }), 'model_load_failed', /data offsets out of bounds/)
    await failure(t, load(engine, { esrgan: minit2i.model }), 'model_load_failed', /ESRGAN tensor/)
    const split = { diffusion_model: minit2i.model, t5xxl: truncated }
    await failure(t, load(engine, split), 'model_load_failed', /truncated\.safetensors/)
  })

  t.equal(engine.status.pid, pid, 'none of them ended the process')
})

t.test('kills a decoder that ignores a cancel after the grace period', async (t) => {
  const engine = await portable(t, { cancelGrace: 200 })
  await load(engine, sdxs)
  const controller = new AbortController()
  let asked = 0
  const drawing = draw(engine, { width: 768, height: 768, steps: 1 }, {
    signal: controller.signal,
    progress: ({ phase }) => {
      if (phase !== 'decoding') return
      asked ||= Date.now()
      controller.abort()
    }
  })
  await failure(t, drawing, 'cancelled')
  t.ok(Date.now() - asked < 2000, 'not at the end of the decoding')
  await load(engine, minit2i)
  t.ok(await drawOne(engine))
  t.match(engine.status, { restarts: 1, last_crash: null })
})

t.test('kills a process that hangs', async (t) => {
  const engine = await portable(t, { silenceTimeout: 1000, firstBackoff: 1 })
  await load(engine, minit2i, {})
  const { pid } = engine.status
  const stop = ({ step }: { step: number }): void => { if (step === 2) process.kill(pid!, 'SIGSTOP') }
  await failure(t, draw(engine, { steps: 1000 }, { progress: stop }), 'engine_timeout', /no sign of life for 1 s/)
  t.ok(await until(() => !isAlive(pid!)))
  await load(engine, minit2i)
  t.ok(await drawOne(engine))
})

t.test('ends with its server', async (t) => {
  const modules = join(packageRoot, 'dist', 'lib', 'engine')
  const server = `
    import { EngineProcess } from ${JSON.stringify(join(modules, 'process.js'))}
    import { selectEngine } from ${JSON.stringify(join(modules, 'select.js'))}
    const [moment, model] = process.argv.slice(1)
    const engine = new EngineProcess(await selectEngine({ engine: 'portable' }))
    await engine.start()
    const tell = (now) => { if (now === moment) process.stdout.write(engine.status.pid + '\\n') }
    tell('idle')
    const progress = ({ phase, step }) => {
      if (phase === 'loading_model') tell('loading')
      if (phase === 'sampling' && step === 3) tell('drawing')
    }
    await engine.run('load', { files: { model }, options: ${JSON.stringify(loadOptions)} }, { progress })
    await engine.run('generate', { ...${JSON.stringify(fox)}, steps: 1000 }, { progress })`
  for (const moment of ['idle', 'loading', 'drawing']) {
    const model = moment === 'loading' ? sdxs.model : minit2i.model
    const child = spawn(process.execPath, ['--input-type=module', '-e', server, moment, model], {
      stdio: ['ignore', 'pipe', 'inherit']
    })
    const [output] = await once(child.stdout, 'data') as [Buffer]
    const pid = Number(output)
    t.ok(isAlive(pid), moment)
    child.kill('SIGKILL')
    t.ok(await until(() => !isAlive(pid), 3000), 'and is gone with it')
  }
})

t.test('reports its real device', async (t) => {
  const engine = await portable(t)
  const { devices } = engine.info!
  t.ok(devices!.some(({ name, description }) => name === 'CPU' && description !== ''))
  await load(engine, minit2i, { device: 'cpu' })
  t.equal(engine.info!.device, 'CPU')
  await load(engine, minit2i, { device: 'CPU', vae_on_cpu: true, clip_on_cpu: true })
  t.equal(engine.info!.device, 'CPU')
  await load(engine, minit2i, { device: 'gpu' })
  t.equal(engine.info!.device === 'CPU', devices!.every(({ name }) => name === 'CPU'), 'there may be none')
  await failure(t, load(engine, minit2i, { device: 'TPU7' }), 'invalid_parameters', /cpu, gpu, CPU/)
})

t.test('loads and draws with the other checkpoints', async (t) => {
  const engine = await portable(t)

  await t.test('SD1, in tiles', async (t) => {
    await load(engine, { model: checkpoint(folder, 'sd1') })
    t.ok(await drawOne(engine, { clip_skip: -1 }))
    const tiling = { enabled: true, tile_size_x: 16, tile_size_y: 16, target_overlap: 0.25 }
    const attachments = { init_image: await picture(64, 64) }
    const parameters = { batch_count: 2, vae_tiling: tiling, strength: 0.5 }
    const { images, progress } = await draw(engine, parameters, { attachments })
    t.equal(images.length, 2)
    const steps = progress.filter(({ step }) => step > 0)
    t.same(steps.map(({ phase, index, step, steps }) => [phase, index, step, steps]), [
      ['conditioning', 0, 1, 1],
      ['sampling', 0, 1, 2], ['sampling', 0, 2, 2], ['sampling', 1, 1, 2], ['sampling', 1, 2, 2],
      ['decoding', 0, 1, 1], ['decoding', 1, 1, 1]
    ])
  })

  await t.test('an upscaler beside a model, on whatever device there is', async (t) => {
    await engine.run('load', { files: { ...minit2i, esrgan: checkpoint(folder, 'esrgan') }, options: { threads: 1 } })
    const image = await drawOne(engine)
    t.ok(image)
    const sizes: number[] = []
    const upscale = async (repeats: number, init: Buffer): Promise<unknown> => engine.run('upscale', { repeats }, {
      attachments: { init_image: init }, image: ({ width }) => sizes.push(width)
    })
    await upscale(2, await picture(1, 1))
    t.same(sizes, [16])
    await failure(t, upscale(4, image), 'invalid_parameters', /at most \d+ pixels/)
  })
})

t.test('names what only the native engine can do', async (t) => {
  const run = (parameters: object, attachments = {}): unknown =>
    toAddonRun({ ...fox, ...parameters }, attachments, 'SD 1.x')
  const png = await picture(64, 64)
  const missing: Array<[feature: string, () => unknown]> = [
    ['inpaint', () => run({}, { init_image: png, mask: png })],
    ['controlnet', () => run({ control_strength: 1 })],
    ['controlnet', () => run({}, { control_image: png })],
    ['ref_images', () => run({}, { 'ref_images.0': png })],
    ['hires', () => run({ hires: { enabled: true } })],
    ['multiple_loras', () => run({ loras: [{ path: '/a', weight: 1 }, { path: '/b', weight: 1 }] })],
    ['lora_weight', () => run({ loras: [{ path: '/a', weight: 0.5 }] })],
    ['custom_sigmas', () => run({ custom_sigmas: [1, 0] })]
  ]
  for (const [feature, action] of missing) t.throws(action, { code: 'unsupported', message: `'${feature}'` })
  for (const parameters of [{ prompt: 'a\0b' }, { width: undefined }, { constructor: 1 }, { vae_tiling: [] }]) {
    t.throws(() => run(parameters), { code: 'invalid_parameters' })
  }
  t.throws(() => run({ loras: 'a' }), { code: 'invalid_parameters' })
  t.throws(() => run({ width: 8192, height: 8192 }), { code: 'invalid_parameters', message: /pixels/ })
})

t.test('translates parameters', async (t) => {
  const run = (parameters: object): object => toAddonRun({ ...fox, ...parameters }, {}, 'SD 1.x').parameters
  t.same(run({ negative_prompt: undefined }), fox)
  t.match(run({ sampler: 'lcm', loras: loras('/lora') }), { sampling_method: 'lcm', lora: '/lora', sampler: undefined })
  t.match(run({ vae_tiling: {} }), { vae_tiling: true, vae_tile_size: undefined })
  const tiling = { tile_size_x: 32, target_overlap: 0.1 }
  t.match(run({ vae_tiling: tiling }), { vae_tile_size: '32x32', vae_tile_overlap: 0.1 })
  t.notHas(run({ vae_tiling: { enabled: false, tile_size_x: 8, tile_size_y: 8 } }), { vae_tiling: true })
  t.match(run({ cache: { mode: 'cache_dit', reuse_threshold: 1 } }), { cache_mode: 'cache-dit', cache_threshold: 1 })

  const files = (given: ModelFiles): unknown => toAddonFiles(given)
  t.same(files({ model: '/m', vae: '/v' }), { model: '/m', vae: '/v' })
  t.same(files({ diffusion_model: '/d', clip_l: '/l', clip_g: '/g', t5xxl: '/t', llm: '/q', vae: undefined }),
    { model: '/d', clipL: '/l', clipG: '/g', t5Xxl: '/t', llm: '/q' })
  t.same(files({ diffusion_model: '/d', high_noise_diffusion_model: '/h', uncond_diffusion_model: '/u' }),
    { model: '/d', highNoiseDiffusionModel: '/h', uncondModel: '/u' })
  t.equal(files({ esrgan: '/e' }), undefined)
  t.throws(() => files({ vae: '/v' }), { code: 'invalid_parameters' })
  const model = '/m'
  for (const given of [{ model, clip_l: '/l' }, { model, diffusion_model: '/d' }, { model, control_net: '/c' }]) {
    t.throws(() => files(given), { code: 'unsupported', message: /native engine/ })
  }

  const config = (options: LoadOptions, devices = ['Vulkan0', 'CPU']): object => toAddonConfig(options, devices)
  t.match(config({}), { device: 'gpu', lora_apply_mode: 'at_runtime', backend: undefined })
  t.match(config({}, ['CPU']), { device: 'cpu' }, 'an upscaler that is asked for a missing GPU fails')
  t.match(config({ device: 'Vulkan0', vae_on_cpu: true }), { device: 'gpu', backend: 'all=Vulkan0,vae=cpu' })
  t.match(config({ clip_on_cpu: true, weight_type: 'q4_0', flash_attention: false, threads: 3 }),
    { backend: 'te=cpu', type: 'q4_0', diffusion_fa: false, threads: 3 })
  for (const options of [{ threads: 0 }, { device: '' }, { offload_to_cpu: 'yes' }, { weight_type: 'x' }]) {
    t.throws(() => config(options as LoadOptions), { code: 'invalid_parameters' })
  }
})
