import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { compileTimeout, noCompiler, noValgrind, recordingAddonPath, slowThreads } from '../fixtures/recording-library/addon.ts'

/**
 * What could go wrong if… Each test runs a script in a process of its own, which shows how it ends: by itself with the
 * right exit code, or by the signal of the library's own crash, but never by one of ours.
 */

t.setTimeout(compileTimeout)
const addonPath = noCompiler ? '' : await recordingAddonPath()

interface Ending {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
  duration: number
}

/** Runs a script that has `addon`, an `engine` with a model, `picture` parameters and `wait`. Times in milliseconds. */
async function run (
  t: Test, script: string, { command = [process.execPath], args = [], environment = {}, timeout = 20_000 }: {
    command?: string[], args?: string[], environment?: NodeJS.ProcessEnv, timeout?: number
  } = {}
): Promise<Ending> {
  const model = join(t.testdir({ model: 'recording' }), 'model')
  const start = `
    const { Worker } = require('worker_threads')
    const wait = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds))
    const picture = words => ({ prompt: words ?? 'a cat', width: 64, height: 64, steps: 3, seed: 5 })
    const path = ${JSON.stringify(addonPath)}
    const model = ${JSON.stringify(model)}
    let addon = require(path)
    let engine = new addon.Engine(() => {})
    engine.load({ model }).then(async () => {${script}})`
  const begin = performance.now()
  const [program, ...words] = command
  const child = spawn(program!, [...words, ...args, '-e', start], {
    stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...environment }, timeout, killSignal: 'SIGKILL'
  })
  const [[code, signal], stdout, stderr] = await Promise.all([once(child, 'exit'), text(child.stdout), text(child.stderr)])
  return { code: code as number, signal: signal as NodeJS.Signals, stdout, stderr, duration: performance.now() - begin }
}

/** The script ended by itself, without a complaint, having printed `stdout`. */
async function endsWell (t: Test, script: string, stdout = '', options = {}): Promise<Ending> {
  const ending = await run(t, script, options)
  t.match(ending, { code: 0, signal: null, stderr: '', stdout }, script.trim())
  t.equal(ending.stdout, stdout)
  return ending
}

t.test('abort, segfault, out-of-memory: the process dies of it, with its last words', { skip: noCompiler }, async (t) => {
  for (const phase of ['conditioning', 'sampling', 'decoding']) {
    const abort = await run(t, `await engine.generate(picture('fail=abort@${phase}'))`)
    t.match(abort, { signal: 'SIGABRT', stdout: '', stderr: `GGML_ASSERT(told to abort while ${phase}) failed` })
    t.match(await run(t, `await engine.generate(picture('fail=segfault@${phase}'))`), { signal: 'SIGSEGV' })
  }
  t.match(await run(t, "await engine.generate(picture('fail=kill@sampling'))"), { signal: 'SIGKILL' })
})

t.test('exceptions of the library stop at the binding', { skip: noCompiler }, async (t) => {
  await endsWell(t, `
    for (const how of ['exception', 'memory', 'strange']) {
      for (const phase of ['conditioning', 'sampling', 'decoding']) {
        await engine.generate(picture('fail=' + how + '@' + phase)).catch(error => { if (error.code !== 'generation_failed') throw error })
      }
    }
    console.log((await engine.generate(picture())).images.length)`, '1\n')
})

t.test('an idle engine holds the process up no longer, a busy one does until its end', { skip: noCompiler }, async (t) => {
  await endsWell(t, '')
  const { duration } = await endsWell(t, "engine.generate(picture('step_ms=300')).then(() => console.log('drawn'))", 'drawn\n')
  t.ok(duration > 900)
})

t.test('exit-while-generating: at once, with the given code', { skip: noCompiler }, async (t) => {
  for (const delay of [0, 5, 30]) {
    const script = `engine.generate(picture('step_ms=10000')); setTimeout(() => process.exit(7), ${delay})`
    const { code, signal, stderr, duration } = await run(t, script)
    t.match({ code, signal, stderr }, { code: 7, signal: null, stderr: '' }, `after ${delay} ms`)
    t.ok(duration < 5000, `${duration.toFixed()} ms`)
  }
  t.match(await run(t, "engine.generate(picture('fail=hang@sampling')); setTimeout(() => process.exit(8), 50)"), { code: 8, signal: null })
  t.match(await run(t, "engine.generate(picture('step_ms=10000')); await wait(20); throw new Error('uncaught')"),
    { code: 1, signal: null, stderr: 'uncaught' })
})

t.test('exit-while-generating: before the thread of the operation has begun', { skip: noCompiler }, async (t) => {
  if (process.platform !== 'linux') return t.pass('LD_PRELOAD is for Linux')
  const environment = { LD_PRELOAD: slowThreads }
  t.match(await run(t, 'engine.generate(picture()); process.exit(7)', { environment }), { code: 7, signal: null, stderr: '' })
})

t.test('worker-thread: an engine works in one, and there is one in a process', { skip: noCompiler }, async (t) => {
  await endsWell(t, `
    engine.close()
    const worker = new Worker(\`
      const addon = require(\${JSON.stringify(path)})
      const engine = new addon.Engine(() => {})
      engine.load({ model: \${JSON.stringify(model)} })
        .then(() => engine.generate({ prompt: '', width: 64, height: 64, steps: 2, seed: 1 }))
        .then(({ images }) => { require('worker_threads').parentPort.postMessage(images[0].data.length) })
        .then(() => new Promise(resolve => setTimeout(resolve, 300)))
        .then(() => engine.close())\`, { eval: true })
    console.log(await new Promise(resolve => worker.once('message', resolve)))
    try { new addon.Engine(() => {}) } catch (error) { console.log(error.code) }
    await new Promise(resolve => worker.once('exit', resolve))
    new addon.Engine(() => {})
    console.log(addon.systemInfo())`, '12288\nengine_busy\n0 contexts, 0 upscalers, 0 images\n')
})

t.test('loaded-twice: both copies work, one after the other', { skip: noCompiler }, async (t) => {
  await endsWell(t, `
    const other = { exports: {} }
    process.dlopen(other, path)
    console.log(other.exports !== addon, other.exports.version === addon.version)
    try { new other.exports.Engine(() => {}) } catch (error) { console.log(error.code) }
    engine.close()
    const second = new other.exports.Engine(() => {})
    await second.load({ model })
    try { new addon.Engine(() => {}) } catch (error) { console.log(error.code) }
    console.log((await second.generate(picture())).images.length, addon.systemInfo())`,
  'true true\nengine_busy\nengine_busy\n1 1 contexts, 0 upscalers, 0 images\n')
})

t.test('env-cleanup: a worker ends while it draws', { skip: noCompiler }, async (t) => {
  for (const [ending, words] of [
    ['', 'step_ms=100'], ['setTimeout(() => process.exit(), 50)', 'step_ms=100'], ['setTimeout(() => { throw 1 }, 50)', 'step_ms=100'],
    ['setTimeout(() => process.exit(), 50)', 'step_ms=400'], ['', 'step_ms=400'], ['', 'flood=100000']
  ]) {
    await endsWell(t, `
      engine.close()
      const worker = new Worker(\`
        const addon = require(\${JSON.stringify(path)})
        const engine = new addon.Engine(() => {})
        engine.load({ model: \${JSON.stringify(model)} }).then(() => {
          engine.generate({ prompt: '${words}', width: 64, height: 64, steps: 4, seed: 1, preview: { mode: 'proj', interval: 0 } })
          ${ending}
        })\`, { eval: true })
      worker.on('error', () => {})
      setTimeout(() => worker.terminate(), 150)
      await new Promise(resolve => worker.once('exit', resolve))
      for (;;) {
        try { engine = new addon.Engine(() => {}); break } catch (error) { await wait(20) }
      }
      await engine.load({ model })
      console.log((await engine.generate(picture())).images.length, addon.systemInfo())`, '1 1 contexts, 0 upscalers, 0 images\n')
  }
})

t.test('env-cleanup: a worker that alone has loaded the addon ends first', { skip: noCompiler }, async (t) => {
  // The last environment that uses an addon unloads its code, on which the thread still runs.
  const model = join(t.testdir({ model: 'recording' }), 'model')
  const child = spawn(process.execPath, ['-e', `
    const worker = new (require('worker_threads').Worker)(\`
      const engine = new (require(${JSON.stringify(addonPath)}).Engine)(() => {})
      engine.load({ model: ${JSON.stringify(model)} }).then(() => {
        engine.generate({ prompt: 'step_ms=700', width: 64, height: 64, steps: 4, seed: 1 })
        setTimeout(() => process.exit(), 50)
      })\`, { eval: true })
    worker.once('exit', () => setTimeout(() => console.log('alive'), 1500))`])
  const [[code], stdout] = await Promise.all([once(child, 'exit'), text(child.stdout)])
  t.match({ code, stdout }, { code: 0, stdout: 'alive\n' })
})

t.test('close-while-busy: the operation ends as cancelled, then the engine is gone', { skip: noCompiler }, async (t) => {
  await endsWell(t, `
    const drawing = engine.generate(picture('step_ms=50')).catch(error => console.log(error.code))
    engine.close()
    engine.generate(picture()).catch(error => console.log(error.message))
    await drawing
    console.log(addon.systemInfo(), engine.busy, engine.cancel())
    engine.close()
    const next = new addon.Engine(() => {})
    const loading = next.load({ model })
    next.close()
    await loading
    console.log(addon.systemInfo())`,
  'This engine was closed.\ncancelled\n0 contexts, 0 upscalers, 0 images false false\n0 contexts, 0 upscalers, 0 images\n')
})

t.test('busy: a second operation is refused and disturbs nothing', { skip: noCompiler }, async (t) => {
  await endsWell(t, `
    const first = engine.generate(picture('step_ms=20'))
    const operations = [
      ['generate', picture()], ['load', { model }], ['loadUpscaler', { esrgan: model }], ['loadControlNet', {}], ['unload'],
      ['convert', { input: model, output: model }], ['upscale', {}], ['canny', {}]
    ]
    for (const [name, parameters] of operations) {
      await engine[name](parameters).then(() => console.log(name), error => { if (error.code !== 'engine_busy') console.log(name, error) })
    }
    try { new addon.Engine(() => {}) } catch (error) { console.log(error.code) }
    console.log((await first).images.length)`, 'engine_busy\n1\n')
})

t.test('a listener that throws is an uncaught exception, not the end of the drawing', { skip: noCompiler }, async (t) => {
  await endsWell(t, `
    engine.close()
    let thrown = 0
    process.on('uncaughtException', () => { thrown++ })
    engine = new addon.Engine(() => { throw new Error('from the listener') })
    await engine.load({ model })
    const { images } = await engine.generate(picture())
    console.log(images.length, thrown > 5)`, '1 true\n')
})

t.test('gc: an engine that nobody holds is kept while it works, and goes then', { skip: noCompiler }, async (t) => {
  await endsWell(t, `
    let drawn
    engine.generate(picture('step_ms=50')).then(({ images }) => { drawn = images.length })
    engine = undefined
    for (let round = 0; drawn === undefined; round++) { gc(); await wait(5) }
    for (let round = 0; round < 100 && addon.systemInfo() !== '0 contexts, 0 upscalers, 0 images'; round++) { gc(); await wait(5) }
    console.log(drawn, addon.systemInfo())`, '1 0 contexts, 0 upscalers, 0 images\n', { args: ['--expose-gc'] })
})

t.test('gc-leak: 200 pictures leave the memory as it was', { skip: noCompiler }, async (t) => {
  const { stdout } = await run(t, `
    const image = () => ({ width: 256, height: 256, channels: 3, data: Buffer.alloc(256 * 256 * 3) })
    const draw = async () => {
      const { images } = await engine.generate({
        ...picture(), width: 256, height: 256, steps: 2, init_image: image(), ref_images: [image()], loras: [{ path: model }],
        custom_sigmas: [2, 1], preview: { mode: 'proj', interval: 0 }
      })
      if (images.length !== 1) throw new Error('no image')
      await engine.generate(picture('fail=exception@sampling')).catch(() => {})
      await engine.generate({ ...picture(), init_image: image(), steps: 'x' }).catch(() => {})
    }
    // Not the pages of the process: how many of those stay behind depends on how many threads met in malloc.
    const native = () => Number(addon.systemInfo() || process.memoryUsage().rss)
    const measure = () => { gc(); gc(); const { heapUsed, external } = process.memoryUsage(); return (native() + heapUsed + external) / 2 ** 20 }
    for (let n = 0; n < 60; n++) await draw()
    const before = measure()
    for (let n = 0; n < 200; n++) await draw()
    console.log(measure() - before)`, { args: ['--expose-gc'], environment: { GGML_RECORDING_MEMORY: '1' }, timeout: 60_000 })
  // What leaks in one place of each drawing is 200 × 0.2 MB; without a leak it is some KB.
  t.ok(Number(stdout) < 1, `${stdout.trim()} MB more`)
  t.not(stdout, '')
})

t.test('valgrind: no access to memory that is not ours, and no leak', { skip: noValgrind }, async (t) => {
  if (process.platform !== 'linux') return t.pass('valgrind knows Node.js on Linux only')
  const { stdout, stderr } = await run(t, `
    const image = (channels = 3) => ({ width: 64, height: 64, channels, data: Buffer.alloc(64 * 64 * channels) })
    const everything = {
      ...picture(), negative_prompt: 'a dog', batch_count: 2, init_image: image(), mask: image(1), control_image: image(),
      ref_images: [image(), image()], ip_adapter_image: image(), photo_maker: { images: [image()], id_embed_path: model },
      loras: [{ path: model }, { path: model, weight: 2 }], custom_sigmas: [2, 1], skip_layer_guidance: { layers: [1, 2] },
      hires: { upscaler: 'Model', model_path: model, custom_sigmas: [2, 1] }, cache: { mode: 'dbcache', scm_mask: '1' },
      preview: { mode: 'proj', interval: 0 }
    }
    await engine.load({ model, vae: model, embeddings: [{ name: 'one', path: model }] })
    for (let n = 0; n < 2; n++) await engine.generate(everything)
    for (const how of ['null@sampling', 'exception@decoding', 'memory@sampling', 'strange@conditioning', 'empty@decoding', 'hollow@decoding']) {
      await engine.generate({ ...everything, prompt: 'fail=' + how }).catch(() => {})
    }
    await engine.generate({ ...everything, photo_maker: { images: [image(), 7] } }).catch(() => {})
    const cancelled = engine.generate({ ...everything, prompt: 'step_ms=50' }).catch(() => {})
    engine.cancel()
    await cancelled
    await engine.loadUpscaler({ esrgan: model })
    await engine.upscale({ image: image() })
    await engine.canny({ image: image() })
    await engine.convert({ input: model, output: model + '.out', weight_type: 'q8_0' })
    await engine.loadControlNet({ control_net: model })
    await engine.unload()
    engine.close()
    const worker = new Worker(\`
      const engine = new (require(\${JSON.stringify(path)}).Engine)(() => {})
      engine.load({ model: \${JSON.stringify(model)} }).then(() => {
        engine.generate({ prompt: 'step_ms=20', width: 64, height: 64, steps: 50, seed: 1 }).catch(() => {})
        setTimeout(() => process.exit(), 50)
      })\`, { eval: true })
    await new Promise(resolve => worker.once('exit', resolve))
    console.log('end')`, {
    command: ['valgrind', '--leak-check=full', '--show-leak-kinds=definite', '--num-callers=30', process.execPath, '--jitless'],
    timeout: compileTimeout
  })
  t.equal(stdout, 'end\n', stderr.slice(-2000))
  t.match(stderr, /ERROR SUMMARY/)
  // Node.js itself is not free of complaints. A promise whose environment ends before its operation is Node's to free.
  const complaints = stderr.split(/^==\d+== $/m)
    .filter(text => / (?:at|by) 0x.*(?:engine\.node|libstable-diffusion)/.test(text) && !text.includes('napi_create_promise'))
  t.same(complaints, [])
})

t.test('another version of the library is noticed at once', { skip: noCompiler }, async (t) => {
  const { code, stderr } = await run(t, '', { environment: { GGML_RECORDING_VERSION: 'recording-2' } })
  t.equal(code, 1)
  t.match(stderr, /engine\.node was built for stable-diffusion\.cpp recording-1 0000000, but .*libstable-diffusion.* is recording-2 0000000\. Build it again: npm run build:native/)
})
