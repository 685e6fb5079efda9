import addon from '@qvac/diffusion-cpp'
import logging from '@qvac/diffusion-cpp/addonLogging'
import description from '@qvac/diffusion-cpp/package'
import { statSync } from 'bare-fs'
import { kill, pid } from 'bare-os'
import Pipe from 'bare-pipe'
import { EngineError, type EngineInfo, type ModelFiles, type Operations } from '../engine.ts'
import { serveHost, type Attachments, type HostEngine, type Reporter } from './host.ts'
import { PortableLog } from './portable-log.ts'
import {
  capabilities, checkWeightType, samplers, schedulers, toAddonConfig, toAddonFiles, toAddonRun, weightTypes
} from './portable-terms.ts'

/**
 * The process of the portable engine: `bare portable.js`. Speaks the protocol on file descriptor 3, because native code
 * prints progress bars to the standard output.
 */

type ImageModel = InstanceType<typeof addon.ImgStableDiffusion>
type Upscaler = InstanceType<typeof addon.EsrganUpscaler>

class PortableHost implements HostEngine {
  readonly #log: PortableLog
  #info: EngineInfo
  #model: { engine: ImageModel, architecture: string } | undefined
  #upscaler: Upscaler | undefined
  #active: ImageModel | Upscaler | undefined
  #isCancelled = false

  constructor (log: PortableLog) {
    this.#log = log
    this.#info = {
      engine: 'portable',
      version: `@qvac/diffusion-cpp ${description.version}`,
      device: log.devices.find(({ name }) => name !== 'CPU')?.name ?? 'CPU',
      devices: log.devices,
      capabilities,
      samplers,
      schedulers,
      weight_types: weightTypes
    }
  }

  get info (): EngineInfo {
    return this.#info
  }

  readonly operations: HostEngine['operations'] = {
    load: (parameters, _attachments, report) => this.#operate(report, () => this.#load(parameters, report)),
    unload: (_parameters, _attachments, report) => this.#operate(report, () => this.#unload()),
    generate: (parameters, attachments, report) =>
      this.#operate(report, () => this.#generate(parameters, attachments, report)),
    upscale: (parameters, attachments, report) =>
      this.#operate(report, () => this.#upscale(parameters, attachments, report))
  }

  cancel (): void {
    this.#isCancelled = true
    this.#active?.cancel()
  }

  async #operate<Result> (report: Reporter, operation: () => Promise<Result>): Promise<Result> {
    this.#isCancelled = false
    this.#log.begin(report.log)
    return await operation()
  }

  async #load ({ files, options }: Operations['load']['parameters'], report: Reporter): Promise<Operations['load']['result']> {
    const begin = Date.now()
    const image = toAddonFiles(files)
    const config = toAddonConfig(options, this.#info.devices!.map(({ name }) => name))
    for (const [name, path] of Object.entries(files)) if (path !== undefined) checkFile(name, path)
    await this.#unload()
    report.progress({ phase: 'loading_model', step: 0, steps: 0, index: 0 })
    // From here the event loop stands still; what was said has to be on its way.
    await turn()
    try {
      if (image !== undefined) {
        const engine = new addon.ImgStableDiffusion({ files: image, config })
        await this.#loadOne(engine, files)
        const traits = { architecture: this.#log.architecture ?? 'unknown' }
        this.#model = { engine, ...traits }
        checkWeightType(traits, options.weight_type)
      }
      if (files.esrgan !== undefined) {
        const { threads, device, verbosity } = config
        const engine = new addon.EsrganUpscaler({ files: { esrgan: files.esrgan }, config: { threads, device, verbosity } })
        await this.#loadOne(engine, files)
        this.#upscaler = engine
      }
      if (this.#isCancelled) throw new EngineError('cancelled', 'The operation was cancelled.')
    } catch (error) {
      await this.#unload()
      throw error
    }
    this.#tellDevice(report)
    return { load_ms: Date.now() - begin }
  }

  async #loadOne (engine: ImageModel | Upscaler, files: ModelFiles): Promise<void> {
    let failure: unknown
    await engine.load().catch((error) => { failure = error })
    // The log of the loading, and a cancel that came meanwhile, arrive only now.
    await turn()
    if (failure === undefined) return
    const reasons = this.#log.complaints.join('; ') || (failure as Error).message
    throw new EngineError('model_load_failed', `The model cannot be loaded: ${withoutFolders(reasons, files)}`, { cause: failure })
  }

  async #unload (): Promise<Record<string, never>> {
    const models = [this.#model?.engine, this.#upscaler]
    this.#model = undefined
    this.#upscaler = undefined
    for (const model of models) await model?.unload()
    return {}
  }

  async #generate (
    parameters: Operations['generate']['parameters'], attachments: Attachments, report: Reporter
  ): Promise<Operations['generate']['result']> {
    if (this.#model === undefined) throw new EngineError('generation_failed', 'No model is loaded.')
    const { engine, architecture } = this.#model
    const { parameters: run, files } = toAddonRun(parameters, attachments, { architecture })
    for (const path of files) checkFile('LoRA', path)
    const begin = Date.now()
    const batch = parameters.batch_count ?? 1
    let index = -1
    let images = 0
    report.progress({ phase: 'conditioning', step: 0, steps: 0, index: 0 })
    await this.#draw(engine, () => engine.run(run), (output) => {
      if (typeof output !== 'string') {
        report.image({ index: images, ...sizeOf(output), seed: parameters.seed + images, png: output })
        images++
        return
      }
      const { step, total } = JSON.parse(output) as { step: number, total: number }
      if (step === 0) index++
      if (index >= batch) return // tiles of the decoder
      report.progress({ phase: 'sampling', step, steps: total, index })
      if (index === batch - 1 && step === total) report.progress({ phase: 'decoding', step: 0, steps: 0, index: 0 })
    })
    if (images < batch) throw new EngineError('generation_failed', this.#whyNothing())
    return { generate_ms: Date.now() - begin }
  }

  async #upscale (
    { repeats = 1 }: Operations['upscale']['parameters'], attachments: Attachments, report: Reporter
  ): Promise<Operations['upscale']['result']> {
    const engine = this.#upscaler
    if (engine === undefined) throw new EngineError('generation_failed', 'No upscaler is loaded.')
    const image = Object.values(attachments)[0]!
    const begin = Date.now()
    let isDone = false
    report.progress({ phase: 'sampling', step: 0, steps: repeats, index: 0 })
    await this.#draw(engine, () => engine.upscale(image, { repeats }), (output) => {
      if (typeof output === 'string') return
      report.image({ index: 0, ...sizeOf(output), seed: 0, png: output })
      isDone = true
    })
    if (!isDone) throw new EngineError('generation_failed', this.#whyNothing())
    return { generate_ms: Date.now() - begin }
  }

  async #draw (
    engine: ImageModel | Upscaler,
    begin: () => ReturnType<ImageModel['run']>,
    listener: (output: string | Uint8Array) => void
  ): Promise<void> {
    this.#active = engine
    try {
      const response = await begin()
      response.onUpdate(listener)
      if (this.#isCancelled) await engine.cancel()
      await response.await()
      await turn()
    } finally {
      this.#active = undefined
    }
  }

  #whyNothing (): string {
    return `The engine made no image${this.#log.complaints.length > 0 ? `: ${this.#log.complaints.join('; ')}` : '.'}`
  }

  #tellDevice (report: Reporter): void {
    const { device } = this.#log
    if (device === undefined || device === this.#info.device) return
    this.#info = { ...this.#info, device }
    report.info(this.#info)
  }
}

/** Gives the event loop its turn. */
function turn (): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0))
}

function checkFile (name: string, path: string): void {
  try {
    if (statSync(path).isFile()) return
  } catch {
    // said below
  }
  throw new EngineError('invalid_parameters', `The ${name} file ${baseName(path)} is not there.`)
}

const baseName = (path: string): string => path.slice(Math.max(path.lastIndexOf('/'), path.lastIndexOf('\\')) + 1)

/** Clients know models by their names; where they lie is nobody's business. */
function withoutFolders (message: string, files: ModelFiles): string {
  return Object.values(files).reduce<string>((text, path) => text.replaceAll(path!, baseName(path!)), message)
}

/** From the header of a PNG, because engines round sizes. */
function sizeOf (png: Uint8Array): { width: number, height: number } {
  const view = new DataView(png.buffer, png.byteOffset, png.byteLength)
  return { width: view.getUint32(16), height: view.getUint32(20) }
}

/** Loading nothing fails after a few milliseconds, in which the addon lists its devices; it has no other way to tell them. */
async function listDevices (): Promise<void> {
  const engine = new addon.ImgStableDiffusion({ files: { model: '/nothing' }, config: { device: 'gpu', verbosity: 3 } })
  await engine.load().catch(() => {})
  await turn()
}

const log = new PortableLog()
logging.setLogger((priority, message) => log.add(priority, message))
await listDevices()
new Bare.Thread(new URL('portable-watch.js', import.meta.url).pathname, { data: null }) // eslint-disable-line no-new
// An orderly exit would wait for the addon and for the thread, and there is nothing to put in order.
serveHost(new PortableHost(log), new Pipe(3), () => kill(pid(), 'SIGKILL'))
