import { existsSync, writeFileSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import sharp from 'sharp'
import type { Test } from 'tap'
import {
  capabilityNames, phases, type EngineInfo, type ImageParameters, type Phase, type Progress
} from '../../../lib/engine/engine.ts'
import type { EngineProcess } from '../../../lib/engine/process.ts'
import {
  checkpoint, draw, drawOne, failure, fox, isAlive, load, loadOptions, picture, temporaryFolder, until
} from './helper.ts'

/** Those in which something takes time; `saving` tells of files that are handed over. */
const workingPhases = phases.filter(phase => phase !== 'saving')

/** Makes the recording library take its time; to others it is a prompt like any other. */
const slow = 'a fox step_ms=50'

/** Megabytes that the memory may grow from the second unloading to the fifth: a tenth of the model. */
const mostGrowth = 30

/**
 * What the server takes for granted of every engine. The files of the single engines call this with a way to make one;
 * it comes started and is stopped by its test.
 */
export async function conformance (t: Test, create: (t: Test) => Promise<EngineProcess>): Promise<void> {
  const folder = temporaryFolder(t)
  const minit2i = { model: checkpoint(folder, 'minit2i') }

  await t.test('reports its info', async (t) => {
    const engine = await create(t)
    checkInfo(t, engine.info!)
    t.equal(await engine.start(), engine.info, 'a second start is the first one')
    t.match(engine.status, { state: 'idle', pid: Number, restarts: 0, last_crash: null })
  })

  await t.test('draws', async (t) => {
    const engine = await create(t)
    await failure(t, draw(engine), 'generation_failed', /no model is loaded/i)
    await load(engine, minit2i)

    await t.test('one image, with every step told', async (t) => {
      const { images, progress } = await draw(engine, { steps: 3 })
      t.match(images, [{ index: 0, width: 64, height: 64, seed: fox.seed }])
      const format = { format: 'png', width: 64, height: 64, channels: 3, depth: 'uchar' }
      t.match(await sharp(images[0]!.png).metadata(), format)
      checkProgress(t, progress, { steps: 3, batch: 1 })
    })

    await t.test('the same image for the same seed', async (t) => {
      const first = await drawOne(engine)
      t.ok(first.equals(await drawOne(engine)), 'again')
      t.notOk(first.equals(await drawOne(engine, { seed: 8 })), 'another seed')
      t.notOk(first.equals(await drawOne(engine, { prompt: 'a blue bird' })), 'another prompt')
      const other = await create(t)
      await load(other, minit2i)
      t.ok(first.equals(await drawOne(other)), 'another process')
      await other.stop()
    })

    await t.test('the same image, whether it is the first or the tenth of the process', async (t) => {
      const other = await create(t)
      await load(other, minit2i)
      const first = await drawOne(other)
      for (let seed = 100; seed < 108; seed++) await drawOne(other, { seed, prompt: `number ${seed}`, steps: 1 + seed % 3 })
      t.ok(first.equals(await drawOne(other)))
      await other.stop()
    })

    await t.test('a batch, whose seeds count up', async (t) => {
      const { images, progress } = await draw(engine, { batch_count: 3 })
      t.match(images.map(({ index, seed }) => [index, seed]), [[0, 7], [1, 8], [2, 9]])
      checkProgress(t, progress, { steps: 2, batch: 3 })
      t.ok(Buffer.from(images[1]!.png).equals(await drawOne(engine, { seed: 8 })), 'as if drawn alone')
    })

    await t.test('with every sampler and scheduler that it names', async (t) => {
      const { samplers, schedulers } = engine.info!
      for (const sampler of samplers) t.ok(await drawOne(engine, { sampler }), sampler)
      for (const scheduler of schedulers) t.ok(await drawOne(engine, { scheduler }), scheduler)
    })

    await t.test('one operation at a time', async (t) => {
      const first = draw(engine, { steps: 20 })
      await failure(t, draw(engine), 'engine_busy')
      t.equal((await first).images.length, 1)
    })

    await t.test('and refuses what makes no sense, unharmed', async (t) => {
      const { pid } = engine.status
      const wrong: Array<Partial<ImageParameters>> = [
        { sampler: 'dice' }, { scheduler: 'never' }, { steps: 0 }, { steps: 1e9 }, { steps: 1.5 }, { width: 65 },
        { width: 0, height: 0 }, { width: -64, height: -64 }, { width: 100_000, height: 100_000 }, { seed: -1 },
        { seed: 0.5 }, { batch_count: 0 }, { batch_count: 1e6 }, { cfg_scale: NaN }, { colour: 'red' },
        { vae_tiling: { enable: true } as object }
      ]
      for (const parameters of wrong) {
        const name = Object.keys(parameters)[0]!
        await failure(t, draw(engine, parameters), 'invalid_parameters', new RegExp(name))
      }
      t.equal(engine.status.pid, pid)
      t.ok(await drawOne(engine))
    })

    await t.test('nothing more when it is told to stop', async (t) => {
      const { pid } = engine.status
      const before = await drawOne(engine)
      const controller = new AbortController()
      const stopAtThird = ({ step }: Progress): void => { if (step === 3) controller.abort() }
      const { signal } = controller
      const begin = Date.now()
      await failure(t, draw(engine, { steps: 1000 }, { signal, progress: stopAtThird }), 'cancelled')
      t.ok(Date.now() - begin < 5000)
      await failure(t, draw(engine, {}, { signal }), 'cancelled')
      t.equal(engine.status.pid, pid, 'it obeyed, and was not killed')
      t.ok(before.equals(await drawOne(engine)), 'and nothing of it is left')
    })

    await t.test('nothing without a model', async (t) => {
      await engine.run('unload', {})
      await failure(t, draw(engine), 'generation_failed', /no model is loaded/i)
      await load(engine, minit2i)
      t.ok(await drawOne(engine))
    })
  })

  await t.test('gives the reason why a model cannot be loaded, and loads the next one', async (t) => {
    const engine = await create(t)
    const { pid } = engine.status
    const whole = readFileSync(minit2i.model)
    const broken = (name: string, bytes: Uint8Array): string => {
      const file = join(folder, name)
      writeFileSync(file, bytes)
      return file
    }
    const files = {
      empty: broken('empty.safetensors', new Uint8Array(0)),
      headless: broken('headless.safetensors', whole.subarray(0, 2000)),
      truncated: broken('truncated.safetensors', whole.subarray(0, whole.length >> 1)),
      garbage: broken('garbage.gguf', Buffer.from('GGUF but not really'.repeat(1000))),
      missing: join(folder, 'missing.safetensors'),
      folder,
      foreign: checkpoint(folder, 'esrgan')
    }
    for (const [name, model] of Object.entries(files)) {
      const message = await failure(t, load(engine, { model }), 'model_load_failed')
      t.notMatch(message, folder, `${name}: ${message}`)
    }
    await failure(t, load(engine, minit2i, { weight_type: 'q99' }), 'invalid_parameters', /weight_type/)
    await failure(t, load(engine, minit2i, { colour: 'red' }), 'invalid_parameters', /colour/)
    await load(engine, minit2i)
    t.ok(await drawOne(engine))
    t.equal(engine.status.pid, pid)
  })

  await t.test('works with a model that has a text encoder and an autoencoder', async (t) => {
    const engine = await create(t)
    const { info } = engine
    const sdxs = { model: checkpoint(folder, 'sdxs') }

    const controller = new AbortController()
    const loading = engine.run('load', { files: sdxs, options: { threads: 1 } }, {
      signal: controller.signal, progress: () => controller.abort()
    })
    await failure(t, loading, 'cancelled')
    await load(engine, sdxs)
    const plain = await drawOne(engine)

    if (info!.capabilities.includes('img2img')) {
      const attachments = { init_image: await picture(64, 64) }
      const { images, progress } = await draw(engine, { steps: 4, strength: 0.5 }, { attachments })
      checkProgress(t, progress, { batch: 1 })
      t.notOk(plain.equals(images[0]!.png))
      const stronger = await drawOne(engine, { steps: 4, strength: 0.9 }, { attachments })
      t.notOk(stronger.equals(images[0]!.png), 'strength matters')
    }
    if (info!.capabilities.includes('lora')) {
      const loras = [{ path: checkpoint(folder, 'lora'), weight: 1 }]
      t.notOk(plain.equals(await drawOne(engine, { loras })), 'a LoRA changes the image')
      t.ok(plain.equals(await drawOne(engine)), 'and leaves nothing behind')
      const nowhere = [{ path: join(folder, 'nowhere.safetensors'), weight: 1 }]
      await failure(t, draw(engine, { loras: nowhere }), 'invalid_parameters', /nowhere/)
      t.ok(plain.equals(await drawOne(engine)))
    }
  })

  await t.test('cancels in each phase', async (t) => {
    const engine = await create(t)
    const sdxs = { model: checkpoint(folder, 'sdxs') }
    await load(engine, sdxs)
    const before = await drawOne(engine)
    for (const phase of workingPhases) {
      const { pid } = engine.status
      const controller = new AbortController()
      const begin = Date.now()
      let cameTo: Phase | undefined
      const progress = (now: Progress): void => {
        if (now.phase !== phase || cameTo !== undefined) return
        cameTo = phase
        controller.abort()
      }
      const { signal } = controller
      const work = phase === 'loading_model'
        ? engine.run('load', { files: { ...sdxs, esrgan: checkpoint(folder, 'esrgan') }, options: loadOptions }, { signal, progress })
        : draw(engine, { steps: 5 }, { signal, progress })
      // The last phase of a tiny model may be over before it hears of it.
      const ending = await work.then(() => 'done', ({ code }: { code: string }) => code)
      t.equal(cameTo, phase)
      t.ok(ending === 'cancelled' || (ending === 'done' && phase === 'decoding'), `${phase}: ${ending}`)
      t.ok(Date.now() - begin < 20_000)
      // Only sampling is made of steps: one that is slow at something else is killed after the grace period.
      if (phase === 'sampling') t.equal(engine.status.pid, pid, 'it obeyed, and was not killed')
      await load(engine, sdxs)
      t.ok(before.equals(await drawOne(engine)), `nothing of it is left after ${phase}`)
    }
  })

  await t.test('frees its memory on unload', async (t) => {
    const engine = await create(t)
    const sdxs = { model: checkpoint(folder, 'sdxs') }
    const { pid } = engine.status
    if (!existsSync(`/proc/${pid}/status`)) return t.pass('this system does not say how much memory a process has')
    const memory: number[] = []
    for (let cycle = 0; cycle < 5; cycle++) {
      await load(engine, sdxs)
      await drawOne(engine)
      await engine.run('unload', {})
      memory.push(residentMegabytes(pid!))
    }
    t.equal(engine.status.pid, pid)
    t.comment(`megabytes after each unloading: ${memory.join(', ')}`)
    t.ok(memory[4]! - memory[1]! < mostGrowth, `flat: ${memory.join(', ')}`)
  })

  await t.test('upscales images', async (t) => {
    const engine = await create(t)
    if (!engine.info!.capabilities.includes('upscale')) return t.pass('not this one')
    const attachments = { init_image: await picture(8, 12) }
    await load(engine, { esrgan: checkpoint(folder, 'esrgan') })
    const sizes: number[][] = []
    await engine.run('upscale', {}, { attachments, image: ({ width, height }) => sizes.push([width, height]) })
    t.same(sizes, [[32, 48]])
    await failure(t, engine.run('upscale', { repeats: 99 }, { attachments }), 'invalid_parameters', /repeats/)
    const noImage = { attachments: { init_image: Buffer.from('text') } }
    await failure(t, engine.run('upscale', {}, noImage), 'invalid_parameters')
    await failure(t, engine.run('upscale', {}), 'invalid_parameters')
  })

  await t.test('converts weights', async (t) => {
    const engine = await create(t)
    if (!engine.info!.capabilities.includes('convert')) {
      const parameters = { input: minit2i.model, output: join(folder, 'converted.gguf'), weight_type: 'f16' }
      return await failure(t, engine.run('convert', parameters), 'unsupported', /convert/)
    }
    const output = join(folder, 'converted.gguf')
    const steps: number[] = []
    const progress = ({ step }: Progress): void => { steps.push(step) }
    await engine.run('convert', { input: minit2i.model, output, weight_type: 'f32' }, { progress })
    t.ok(existsSync(output))
    t.ok(steps.length > 1, 'with progress')
    const missing = { input: join(folder, 'missing.safetensors'), output, weight_type: 'f16' }
    await failure(t, engine.run('convert', missing), 'invalid_parameters', /missing/)
    if (readFileSync(output, 'latin1').startsWith('GGUF')) { // the recording library only says that it was there
      await load(engine, { model: output })
      t.ok(await drawOne(engine), 'and draws with them')
    }
  })

  await t.test('restarts after a crash in each phase', async (t) => {
    const engine = await create(t)
    const sdxs = { model: checkpoint(folder, 'sdxs') }
    for (const [crashes, phase] of workingPhases.entries()) {
      const { generation, status: { pid } } = engine
      const kill = (now: Progress): void => { if (now.phase === phase) process.kill(pid!, 'SIGSEGV') }
      if (phase !== 'loading_model') await load(engine, sdxs)
      const work = phase === 'loading_model'
        ? engine.run('load', { files: sdxs, options: loadOptions }, { progress: kill })
        : draw(engine, { steps: 5, prompt: slow }, { progress: kill })
      await failure(t, work, 'engine_crashed', /SIGSEGV/)
      t.ok(engine.generation > generation, phase)
      await load(engine, minit2i)
      t.ok(await drawOne(engine), `and draws after ${phase}`)
      t.match(engine.status, { state: 'idle', restarts: crashes + 1, last_crash: { reason: /SIGSEGV/ } })
    }
  })

  await t.test('restarts after a kill', async (t) => {
    const engine = await create(t)
    await load(engine, minit2i)
    const { generation, status: { pid } } = engine
    const kill = ({ step }: Progress): void => { if (step === 2) process.kill(pid!, 'SIGKILL') }
    await failure(t, draw(engine, { steps: 1000 }, { progress: kill }), 'engine_crashed', /SIGKILL/)
    t.ok(engine.generation > generation, 'at once, so that nobody takes the model for loaded')
    await load(engine, minit2i)
    t.ok(await drawOne(engine))
    t.match(engine.status, { state: 'idle', restarts: 1, last_crash: { reason: /SIGKILL/, at: /^\d{4}-/ } })
    t.not(engine.status.pid, pid)
  })

  await t.test('leaves no process behind', async (t) => {
    const engine = await create(t)
    const { pid } = engine.status
    await load(engine, minit2i)
    const drawing = draw(engine, { steps: 1000 })
    await Promise.all([failure(t, drawing, 'engine_unavailable', /stopped/), engine.stop()])
    t.ok(await until(() => !isAlive(pid!)), 'it is gone')
    t.match(engine.status, { state: 'stopped', pid: null, last_crash: null })
    await failure(t, draw(engine), 'engine_unavailable')
    await engine.start()
    await load(engine, minit2i)
    t.ok(await drawOne(engine), 'and can be started again')
  })
}

function residentMegabytes (pid: number): number {
  return Math.round(Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) / 1024)
}

function checkInfo (t: Test, info: EngineInfo): void {
  t.match(info, { engine: /^(native|portable)$/, version: /\d/, device: /\w/ })
  for (const list of [info.samplers, info.schedulers, info.weight_types, info.capabilities]) {
    t.ok(list.length > 0)
    t.equal(new Set(list).size, list.length, 'no name twice')
  }
  t.same(info.capabilities.filter((name) => !capabilityNames.includes(name)), [])
  t.ok(info.samplers.includes('euler'))
}

/** Nothing goes backwards, and all that there is to tell is told. */
function checkProgress (t: Test, progress: Progress[], { steps, batch }: { steps?: number, batch: number }): void {
  const ranks = progress.map(({ phase, index, step }) => [phases.indexOf(phase), index, step])
  const isRising = ranks.every((rank, position) => position === 0 || isAfter(rank, ranks[position - 1]!))
  t.ok(isRising, 'progress never goes backwards')
  const sampled = progress.filter(({ phase }) => phase === 'sampling')
  t.ok(sampled.length > 0)
  if (steps !== undefined) {
    for (let index = 0; index < batch; index++) {
      const told = sampled.filter((entry) => entry.index === index && entry.step > 0)
      t.same(told.map(({ step, steps }) => [step, steps]), Array.from({ length: steps }, (_, n) => [n + 1, steps]))
    }
  }
  for (const { step, steps } of progress) if (step > steps) t.fail(`step ${step} of ${steps}`)
}

function isAfter (rank: number[], last: number[]): boolean {
  const position = rank.findIndex((value, index) => value !== last[index])
  return position !== -1 && rank[position]! > last[position]!
}
