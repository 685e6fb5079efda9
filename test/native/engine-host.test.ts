import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'
import { setTimeout as wait } from 'node:timers/promises'
import sharp from 'sharp'
import t, { type Test } from 'tap'
import type { EngineImage, ImageParameters, LoadOptions, ModelFiles, Progress } from '../../lib/engine/engine.ts'
import { GenerationProgress } from '../../lib/engine/hosts/native/progress.ts'
import { EngineProcess } from '../../lib/engine/process.ts'
import { encodeServerMessage } from '../../lib/engine/protocol.ts'
import { encodePng } from '../../lib/media/png-encode.ts'
import { packageRoot } from '../../lib/util/package-root.ts'
import { compileTimeout, noCompiler, recordingAddonPath } from '../fixtures/recording-library/addon.ts'

/** The native host as the server runs it: compiled, in a process of its own, with the recording library. */

t.setTimeout(compileTimeout)
const addonPath = noCompiler ? '' : await recordingAddonPath()
const host = join(packageRoot, 'dist', 'lib', 'engine', 'hosts', 'native', 'native.js')
if (!existsSync(host)) throw new Error(`${host} is missing. Type \`npm run build\` first.`)

interface Call { call: string, [field: string]: unknown }

async function start (t: Test): Promise<{
  engine: EngineProcess
  file: (name: string, words?: string) => string
  load: (files?: ModelFiles, options?: LoadOptions) => Promise<unknown>
  calls: () => Call[]
  generate: (parameters?: Partial<ImageParameters>, attachments?: Record<string, Uint8Array>) =>
  Promise<{
    notices?: string[]
    images: EngineImage[]
    progress: Progress[]
    previews: Array<{ step: number, png: Uint8Array }>
  }>
}> {
  const folder = t.testdir({ calls: '' })
  const file = (name: string, words = ''): string => {
    writeFileSync(join(folder, name), `recording ${words}`)
    return join(folder, name)
  }
  const log = process.env.GGML_RECORDING_FILE = join(folder, 'calls')
  const engine = new EngineProcess({ engine: 'native', file: process.execPath, args: [host, addonPath] })
  t.teardown(async () => {
    await engine.stop()
    delete process.env.GGML_RECORDING_FILE // its folder goes with the test
  })
  await engine.start()
  return {
    engine,
    file,
    load: (files = { model: file('model') }, options = {}) => engine.run('load', { files, options }),
    calls: () => {
      const lines = readFileSync(log, 'utf8').trim()
      writeFileSync(log, '')
      return lines === '' ? [] : lines.split('\n').map(line => JSON.parse(line) as Call)
    },
    generate: async (parameters = {}, attachments = {}) => {
      const images: EngineImage[] = []
      const progress: Progress[] = []
      const previews: Array<{ step: number, png: Uint8Array }> = []
      const { notices } = await engine.run('generate', { prompt: 'a cat', width: 64, height: 64, steps: 3, seed: 5, ...parameters }, {
        attachments,
        image: image => { images.push(image) },
        progress: value => { progress.push(value) },
        preview: value => { previews.push(value) }
      })
      return { notices, images, progress, previews }
    }
  }
}

const png = async (width: number, height: number, background: string, channels: 3 | 4 = 3): Promise<Buffer> =>
  await sharp({ create: { width, height, channels, background } }).png().toBuffer()

const say = ({ phase, step, steps, index }: Progress): string => `${phase} ${step}/${steps} #${index}`

t.test('describes itself, loads and draws', { skip: noCompiler }, async (t) => {
  const { engine, load, generate } = await start(t)
  t.match(engine.info, {
    engine: 'native',
    version: 'recording-1 (0000000)',
    device: 'REC0',
    devices: [{ name: 'CPU' }, { name: 'REC0' }],
    samplers: ['euler', 'euler_a', 'lcm', 'recording'],
    schedulers: ['discrete', 'karras', 'recording'],
    weight_types: ['f32', 'f16', 'q8_0'],
    capabilities: ['txt2img', 'img2img', 'inpaint', 'controlnet', 'upscale']
  })
  t.match(await load(), { load_ms: Number })
  const { images, progress, previews } = await generate({ batch_count: 2 })
  t.match(images, [{ index: 0, width: 64, height: 64, seed: 5 }, { index: 1, width: 64, height: 64, seed: 6 }])
  for (const image of images) {
    t.match(await sharp(image.png).metadata(), { format: 'png', width: 64, height: 64, channels: 3, depth: 'uchar' })
  }
  t.strictSame(progress.map(say), [
    'conditioning 0/0 #0',
    'sampling 0/0 #0', 'sampling 1/3 #0', 'sampling 2/3 #0', 'sampling 3/3 #0',
    'sampling 0/0 #1', 'sampling 1/3 #1', 'sampling 2/3 #1', 'sampling 3/3 #1',
    'decoding 0/0 #0', 'decoding 0/0 #1',
    'saving 0/2 #0', 'saving 1/2 #1'
  ])
  t.equal(previews.length, 1, 'at most one in a second')
  t.match(await sharp(previews[0]!.png).metadata(), { format: 'png', width: 8, height: 8 })
  t.equal((await generate({ preview: { mode: 'none' } })).previews.length, 0)
})

t.test('progress without the words of the log', { skip: noCompiler }, async (t) => {
  const { load, generate } = await start(t)
  await load()
  const { progress } = await generate({ prompt: 'quiet=1', batch_count: 2 })
  t.strictSame(progress.map(say), [
    'conditioning 0/0 #0',
    'sampling 0/3 #0', 'sampling 1/3 #0', 'sampling 2/3 #0', 'sampling 3/3 #0',
    'sampling 0/3 #1', 'sampling 1/3 #1', 'sampling 2/3 #1', 'sampling 3/3 #1',
    'saving 0/2 #0', 'saving 1/2 #1'
  ])
})

t.test('progress of two passes, with weights that are read in between', async (t) => {
  const progress = new GenerationProgress(2, 20)
  const seen: string[] = []
  const note = (changed: boolean): void => { if (changed) seen.push(say(progress.current)) }
  for (const entry of [
    [0, 610], [610, 610], 'generating image: 1/2 - seed 7', [0, 2], [0, 300], [300, 300], [1, 2], [1, 2], [2, 2],
    'generating image: 2/2 - seed 8', [0, 2], [1, 2], [2, 2],
    'hires fix: upscaling to 128x128', [0, 3], [1, 3], [3, 3], 'hires sampling 1/2 completed, taking 0.1s', [0, 3], [3, 3],
    'hires sampling 2/2 completed, taking 0.1s', 'decoding 2 latents', [5, 5], 'latent 1 decoded, taking 0.1s', 'latent 2 decoded'
  ]) note(typeof entry === 'string' ? progress.log(`stable-diffusion.cpp:1 - ${entry}`) : progress.step(...entry as [number, number]))
  t.strictSame(seen, [
    'sampling 0/0 #0', 'sampling 0/2 #0', 'sampling 1/2 #0', 'sampling 2/2 #0',
    'sampling 0/0 #1', 'sampling 0/2 #1', 'sampling 1/2 #1', 'sampling 2/2 #1',
    'decoding 0/0 #0', 'decoding 0/3 #0', 'decoding 1/3 #0', 'decoding 3/3 #0',
    'decoding 0/0 #1', 'decoding 0/3 #1', 'decoding 3/3 #1', 'decoding 0/0 #1',
    'decoding 0/0 #0', 'decoding 0/0 #1', 'decoding 0/0 #1'
  ])
})

t.test('pictures arrive unpacked and in the size of the request', { skip: noCompiler }, async (t) => {
  const { load, generate, calls, file } = await start(t)
  await load()
  calls()
  const small = await png(20, 10, '#336699')
  const jpeg = await sharp(small).jpeg().toBuffer()
  await generate({ width: 128 }, {
    init_image: small,
    mask: small,
    control_image: jpeg,
    ip_adapter_image: small,
    'ref_images.0': small,
    'ref_images.1': jpeg,
    'photo_maker_images.0': small
  })
  const [call] = calls()
  t.match(call, {
    init_image: { width: 128, height: 64, channel: 3 },
    mask_image: { width: 128, height: 64, channel: 1 },
    control_image: { width: 128, height: 64, channel: 3 },
    ip_adapter_image: { width: 20, height: 10, channel: 3 },
    ref_images: [{ width: 20, height: 10, channel: 3 }, { width: 20, height: 10, channel: 3 }],
    id_images: [{ width: 20, height: 10, channel: 3 }]
  })

  // What a mask protects keeps the colour of the picture; transparent means "leave it".
  const { images: [image] } = await generate({}, { init_image: small, mask: await png(8, 8, '#ffffff00', 4) })
  t.strictSame([...(await sharp(image!.png).raw().toBuffer()).subarray(0, 3)], [0x33, 0x66, 0x99])
  const { images: [onWhite] } = await generate({}, { init_image: await png(8, 8, '#00000000', 4), mask: await png(8, 8, '#000') })
  t.strictSame([...(await sharp(onWhite!.png).raw().toBuffer()).subarray(0, 3)], [255, 255, 255])

  const refused: Array<[Record<string, Uint8Array>, RegExp]> = [
    [{ init_image: Buffer.from('no image') }, /^init_image: Expected a PNG, JPEG or WebP image/],
    [{ init_image: small.subarray(0, 60) }, /^init_image: Expected a PNG, JPEG or WebP image/],
    [{ init_image: await sharp(small).tiff().toBuffer() }, /its format is tiff/],
    [{ init_image: Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>') }, /its format is svg/],
    [{ init_image: await png(8193, 8193, '#000') }, /at most 67\.108864 megapixels/],
    [{ mask: small }, /Expected a picture, because there is a mask, for init_image/],
    [{ 'loras.0': small }, /no parameter loras\.0 that takes an image/],
    [{ picture: small }, /no parameter picture that takes an image/],
    [{ 'constructor.0': small }, /no parameter constructor\.0 that takes an image/],
    [{ 'ref_images.x': small }, /no parameter ref_images\.x that takes an image/],
    [{ 'ref_images.1': small }, /Expected a picture .* for ref_images\.0 but received undefined/]
  ]
  for (const [attachments, message] of refused) {
    await t.rejects(generate({}, attachments), { code: 'invalid_parameters', message }, String(message))
  }
  await t.rejects(generate({ steps: 0 }), { code: 'invalid_parameters', message: /from 1 to 1000 for steps but received 0/ })
  await t.rejects(generate({ stepz: 1 }), { code: 'invalid_parameters', message: 'There is no parameter stepz.' })
  await t.rejects(generate({ loras: [{ path: '/nowhere', weight: 1 }] }), { code: 'invalid_parameters', message: /cannot be read/ })
  await generate({ loras: [{ path: file('lora'), weight: 0.5 }], prompt: 'the process is still there' })
  t.match(calls(), [{}, {}, { loras: [{ path: file('lora'), multiplier: 0.5 }] }])
})

t.test('pictures are packed as PNG without a loss', async (t) => {
  for (const channels of [1, 3, 4] as const) {
    const data = randomBytes(31 * 7 * channels)
    const packed = await encodePng({ width: 31, height: 7, channels, data })
    const { data: unpacked, info } = await sharp(packed)
      .toColourspace(channels === 1 ? 'b-w' : 'srgb').raw().toBuffer({ resolveWithObject: true })
    t.match(info, { width: 31, height: 7, channels })
    t.ok(unpacked.equals(data), `${channels} channels`)
  }
  await t.rejects(encodePng({ width: 2, height: 2, channels: 3, data: Buffer.alloc(11) }),
    { name: 'RangeError', message: 'Expected 2×2×3 bytes of an image but received 11' })
  await t.rejects(encodePng({ width: 2, height: 2, channels: 2, data: Buffer.alloc(8) }), { name: 'RangeError' })
  await t.rejects(encodePng({ width: 0, height: 2, channels: 3, data: Buffer.alloc(0) }), { name: 'RangeError' })
})

t.test('loads what the options say, and a ControlNet without the rest', { skip: noCompiler }, async (t) => {
  const { engine, load, calls, file, generate } = await start(t)
  await load({ model: file('model'), vae: file('vae') }, {
    embeddings: [{ name: 'easy', path: file('easy.safetensors') }],
    threads: 2,
    device: 'REC0',
    vae_on_cpu: true,
    clip_on_cpu: true,
    offload_to_cpu: true,
    weight_type: 'f16',
    flash_attention: true
  })
  t.match(calls().at(-1), {
    call: 'new_sd_ctx',
    model_path: file('model'),
    vae_path: file('vae'),
    n_threads: 2,
    wtype: 1,
    embeddings: [{ name: 'easy', path: file('easy.safetensors') }],
    backend: 'all=REC0,vae=cpu,te=cpu',
    params_backend: 'cpu',
    flash_attn: true
  })
  t.equal(engine.info!.device, 'REC0')
  await load({ model: file('model') }, { device: 'cpu' })
  t.equal(engine.info!.device, 'CPU')
  await load({ model: file('model') })
  t.equal(engine.info!.device, 'REC0')

  calls()
  const names = (): string[] => calls().map(({ call }) => call)
  await load({ model: file('model'), control_net: file('canny') })
  t.strictSame(names(), ['sd_ctx_load_control_net'])
  await load({ model: file('model'), control_net: file('depth') })
  t.strictSame(names(), ['sd_ctx_load_control_net'])
  await load({ model: file('model') })
  t.strictSame(names(), ['sd_ctx_unload_control_net'])
  await t.rejects(load({ model: file('model'), control_net: file('bad', 'fail=null@loading') }), { code: 'model_load_failed' })
  calls()
  await load({ model: file('model'), control_net: file('canny') })
  t.strictSame(names(), ['free_sd_ctx', 'new_sd_ctx'], 'after a failure everything is read again')
  await generate()
  await engine.run('unload', {})
  await t.rejects(generate(), { code: 'generation_failed', message: 'No model is loaded.' })
  await t.rejects(load({ model: file('model') }, { threads: 0 }), { code: 'invalid_parameters', message: /threads/ })
  await t.rejects(load({ model: file('model') }, { thraeds: 1 }), { code: 'invalid_parameters', message: 'There is no parameter thraeds.' })
  await t.rejects(load({ model: file('bad', 'fail=null@loading') }),
    { code: 'model_load_failed', message: 'The model could not be loaded: told to fail while loading.' })
  await t.rejects(load({ model: '/nowhere/secret.safetensors' }),
    { code: 'model_load_failed', message: 'The model secret.safetensors cannot be read: No such file or directory.' })
  await t.rejects(load({ model: file('model') }, { device: 'CUDA7' }),
    { code: 'invalid_parameters', message: 'Expected one of CPU, REC0 for device but received "CUDA7".' })
})

t.test('refuses what a model is known to die of, and what it would leave out', { skip: noCompiler }, async (t) => {
  const { load, generate, file, calls } = await start(t)
  await load({ model: file('tiny', 'architecture=MiniT2I') })
  calls()
  await t.rejects(generate({ width: 128 }),
    { code: 'invalid_parameters', message: 'Expected 128, because MiniT2I draws squares only, for height but received 64.' })
  t.strictSame(calls(), [])
  const misfit = { path: file('misfit', 'fits=nothing'), weight: 1 }
  await t.rejects(generate({ loras: [misfit] }), { code: 'invalid_parameters', message: 'The LoRA misfit does not fit the model.' })
  await t.rejects(generate({ loras: [{ path: file('wide', 'fits=names'), weight: 1 }] }),
    { code: 'generation_failed', message: 'The LoRA wide does not fit the model: 0 / 6 of its tensors were applied.' })
  t.equal((await generate({ loras: [{ path: file('fit'), weight: 1 }] })).images.length, 1)
  t.strictSame((await generate({ loras: [{ path: file('partly', 'fits=part'), weight: 1 }] })).notices,
    ['The LoRA partly fits the model only in part: 3 of its 63 tensors were applied.'])
  await t.rejects(load({ model: file('model'), vae: file('misfit', 'fits=nothing') }),
    { code: 'model_load_failed', message: 'The vae misfit cannot be read.' })
  await t.rejects(generate(), { code: 'generation_failed', message: 'No model is loaded.' })
  await load({ model: file('model'), photo_maker: file('misfit', 'fits=nothing') })
  await t.rejects(generate(), {
    code: 'invalid_parameters',
    message: "PhotoMaker cannot use the pictures: PhotoMaker trigger word 'img' was not found in prompt."
  })
  await load({ model: file('model') })
  t.equal((await generate()).images.length, 1)
  await t.rejects(load({ model: file('tiny', 'architecture=MiniT2I') }, { weight_type: 'q8_0' }),
    { code: 'invalid_parameters', message: 'Expected f32 or f16 for the weight_type of MiniT2I but received "q8_0".' })
  await load({ model: file('tiny', 'architecture=MiniT2I') }, { weight_type: 'f16' })
  await load({ model: file('other', 'architecture=Other') }, { weight_type: 'q8_0' })
  await generate({ width: 128 })
})

t.test('upscales, converts, finds edges', { skip: noCompiler }, async (t) => {
  const { engine, load, calls, file } = await start(t)
  const images: EngineImage[] = []
  const options = { attachments: { image: await png(20, 10, '#336699') }, image: (image: EngineImage) => { images.push(image) } }
  await t.rejects(engine.run('upscale', {}, options), { code: 'generation_failed', message: 'No upscaler is loaded.' })
  await load({ esrgan: file('esrgan') }, { threads: 2 })
  await engine.run('upscale', { repeats: 2 }, options)
  t.match(images, [{ width: 320, height: 160 }])
  await t.rejects(engine.run('upscale', { repeats: 9 }, options), { code: 'invalid_parameters', message: /repeats/ })
  await t.rejects(engine.run('upscale', {}), { code: 'invalid_parameters', message: 'Expected one image but received 0.' })

  images.length = 0
  await engine.run('canny', { inverse: true }, options)
  t.strictSame([...(await sharp(images[0]!.png).raw().toBuffer()).subarray(0, 3)], [255 - 0x33, 255 - 0x66, 255 - 0x99])

  calls()
  const output = join(t.testdirName, 'out.gguf')
  await engine.run('convert', { input: file('in'), output, weight_type: 'q8_0' })
  t.match(calls(), [{ call: 'convert', output, type: 3 }])
  t.ok(existsSync(output))
})

t.test('cancels without losing the process, and survives whatever the process does not', { skip: noCompiler }, async (t) => {
  const { engine, load, generate } = await start(t)
  await load()
  const { pid } = engine.status
  // As a server's socket does: the wait before a restart holds nothing up.
  const alive = setInterval(() => {}, 1000)
  t.teardown(() => clearInterval(alive))
  const parameters = { prompt: 'step_ms=20', width: 64, height: 64, steps: 500, seed: 1 }
  const controller = new AbortController()
  const begin = performance.now()
  await t.rejects(engine.run('generate', parameters, {
    signal: controller.signal,
    progress: ({ step }) => { if (step === 2) controller.abort() }
  }), { code: 'cancelled' })
  t.ok(performance.now() - begin < 2000)
  t.equal(engine.status.pid, pid)
  t.equal((await generate()).images.length, 1)

  // While a picture is unpacked the addon has nothing to cancel yet.
  const early = new AbortController()
  const large = await png(6000, 6000, '#336699')
  const drawing = engine.run('generate', parameters, { signal: early.signal, attachments: { init_image: large } })
  setTimeout(() => early.abort(), 20)
  await t.rejects(drawing, { code: 'cancelled' })
  t.equal(engine.status.pid, pid)

  for (const [how, message] of [['abort', /GGML_ASSERT\(told to abort while sampling\)/], ['segfault', /SIGSEGV/], ['kill', /SIGKILL/]] as const) {
    await t.rejects(generate({ prompt: `fail=${how}@sampling` }), { code: 'engine_crashed', message })
    await engine.start()
    await load()
    t.equal((await generate()).images.length, 1, `after ${how}`)
  }
  t.not(engine.status.pid, pid)
  for (const how of ['null', 'exception', 'memory', 'strange', 'empty@decoding fail=empty']) {
    await t.rejects(generate({ prompt: `fail=${how}@sampling` }), { code: 'generation_failed' }, how)
  }
  await t.rejects(engine.run('generate', { ...parameters, prompt: 'fail=hang@decoding', steps: 1 }, { silenceTimeout: 500 }),
    { code: 'engine_timeout' })
})

t.test('ends at once when the server is gone, also while the library hangs', { skip: noCompiler }, async (t) => {
  const model = join(t.testdir({ model: 'recording' }), 'model')
  for (const prompt of ['fail=hang@sampling', 'step_ms=60000']) {
    const child = spawn(process.execPath, [host, addonPath], { stdio: ['ignore', 'ignore', 'inherit', 'pipe'] })
    const channel = child.stdio[3] as Duplex
    const send = (id: number, operation: 'load' | 'generate', parameters: object): void => {
      for (const piece of encodeServerMessage({ type: 'run', id, operation, parameters, attachments: {} })) channel.write(piece)
    }
    let received = ''
    channel.on('data', (chunk: Buffer) => { received += chunk.toString('latin1') })
    const receives = async (words: string): Promise<void> => {
      while (!received.includes(words)) {
        if (child.exitCode !== null || child.signalCode !== null) throw new Error(`It ended before it said ${words}.`)
        await wait(10)
      }
    }
    send(1, 'load', { files: { model }, options: {} })
    await receives('"done"')
    send(2, 'generate', { prompt, width: 64, height: 64, steps: 2, seed: 1 })
    await receives('"sampling"')
    const begin = performance.now()
    channel.destroy()
    await once(child, 'exit')
    t.ok(performance.now() - begin < 1000, `${(performance.now() - begin).toFixed()} ms`)
  }
})
