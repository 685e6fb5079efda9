import addon from '@qvac/diffusion-cpp'
import logging from '@qvac/diffusion-cpp/addonLogging'
import description from '@qvac/diffusion-cpp/package'
import { statSync } from 'bare-fs'
import { kill, pid, ppid } from 'bare-os'
import Pipe from 'bare-pipe'
import { EngineError, isProcessor, type EngineErrorCode, type EngineInfo, type Operations } from '../../engine.ts'
import { serveHost, type Attachments, type HostEngine, type Reporter } from '../host.ts'
import { pngSize } from './png-size.ts'
import { PortableLog } from './log.ts'
import { PortableProgress } from './progress.ts'
import {
  capabilities, checkWeightType, imageToUpscale, samplers, schedulers, toAddonConfig, toAddonFiles,
  toAddonRun, weightTypes
} from './terms.ts'

/**
 * The process of the portable engine: `bare portable.js`. It speaks the protocol on file descriptor 3, because native
 * code prints progress bars to standard output.
 */

type ImageModel = InstanceType<typeof addon.ImgStableDiffusion>
type Upscaler = InstanceType<typeof addon.EsrganUpscaler>

class PortableHost implements HostEngine {
  readonly #log: PortableLog
  #info: EngineInfo
  #model: { engine: ImageModel, architecture: string } | undefined
  #upscaler: Upscaler | undefined
  #drawing: ImageModel | Upscaler | undefined
  #isCancelled = false

  constructor (log: PortableLog) {
    this.#log = log
    this.#info = {
      engine: 'portable',
      version: `@qvac/diffusion-cpp ${description.version}`,
      device: mainDevice(log.devices.map(({ name }) => name)) ?? 'CPU',
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
    this.#drawing?.cancel()
  }

  async #operate<Result> (report: Reporter, operation: () => Promise<Result>): Promise<Result> {
    this.#isCancelled = false
    this.#log.begin(report.log)
    return await operation()
  }

  async #load (
    { files, options }: Operations['load']['parameters'], report: Reporter
  ): Promise<Operations['load']['result']> {
    const begin = Date.now()
    const imageFiles = toAddonFiles(files)
    const config = toAddonConfig(options, this.#info.devices!.map(({ name }) => name))
    const paths = Object.values(files).filter((path) => path !== undefined)
    for (const path of paths) checkFile('model', path, 'model_load_failed')
    await this.#unload()
    report.progress({ phase: 'loading_model', step: 0, steps: 0, index: 0 })
    try {
      if (imageFiles !== undefined) {
        const engine = new addon.ImgStableDiffusion({ files: imageFiles, config })
        await this.#read(engine, paths)
        this.#model = { engine, architecture: this.#log.architecture ?? 'unknown' }
        checkWeightType(options.weight_type, this.#model.architecture)
      }
      if (files.esrgan !== undefined) {
        const { lora_apply_mode: _, ...upscalerConfig } = config
        this.#upscaler = new addon.EsrganUpscaler({ files: { esrgan: files.esrgan }, config: upscalerConfig })
        await this.#read(this.#upscaler, paths)
      }
      if (this.#isCancelled) throw new EngineError('cancelled', 'The operation was cancelled.')
    } catch (error) {
      await this.#unload()
      throw error
    }
    this.#reportDevice(report)
    return { load_ms: Date.now() - begin }
  }

  async #read (engine: ImageModel | Upscaler, paths: string[]): Promise<void> {
    // The addon blocks the event loop while it reads: earlier messages must be sent before.
    await turn()
    const failure: unknown = await engine.load().then(() => undefined, (error) => error)
    // The log of the reading, and a cancel that came meanwhile, arrive now.
    await turn()
    if (failure === undefined) return
    const reason = withoutFolders(this.#log.failureReason ?? (failure as Error).message, paths)
    throw new EngineError('model_load_failed', `The model cannot be loaded: ${reason}`, { cause: failure })
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
    const { parameters: run, files } = toAddonRun(parameters, attachments, architecture)
    for (const path of files) checkFile('LoRA', path, 'invalid_parameters')
    const { batch_count: batch = 1, seed } = parameters
    const isEncodedInTiles = run.vae_tiling === true && run.init_image !== undefined
    const progress = new PortableProgress(batch, isEncodedInTiles)
    report.progress(progress.beginning)
    const result = await this.#draw(engine, () => engine.run(run), {
      counter: (step, steps) => progress.next(step, steps).forEach(report.progress),
      image: (png, index) => report.image({ index, ...pngSize(png)!, seed: seed + index, png }),
      expected: batch
    })
    const skipped = this.#log.skippedLora
    if (skipped !== undefined) throw new EngineError('generation_failed', withoutFolders(skipped, files))
    const notices = this.#log.notices.map((notice) => withoutFolders(notice, files))
    return notices.length === 0 ? result : { ...result, notices }
  }

  async #upscale (
    { repeats = 1 }: Operations['upscale']['parameters'], attachments: Attachments, report: Reporter
  ): Promise<Operations['upscale']['result']> {
    const engine = this.#upscaler
    if (engine === undefined) throw new EngineError('generation_failed', 'No upscaler is loaded.')
    const image = imageToUpscale(repeats, attachments)
    report.progress({ phase: 'sampling', step: 0, steps: repeats, index: 0 })
    return await this.#draw(engine, () => engine.upscale(image, { repeats }), {
      image: (png, index) => {
        report.progress({ phase: 'sampling', step: repeats, steps: repeats, index: 0 })
        report.image({ index, ...pngSize(png)!, seed: 0, png })
      },
      expected: 1
    })
  }

  async #draw (
    engine: ImageModel | Upscaler,
    begin: () => ReturnType<ImageModel['run']>,
    { counter, image, expected }: {
      counter?: (step: number, steps: number) => void
      image: (png: Uint8Array, index: number) => void
      expected: number
    }
  ): Promise<{ generate_ms: number }> {
    const start = Date.now()
    let images = 0
    this.#drawing = engine
    try {
      const response = await begin()
      response.onUpdate((output) => {
        if (typeof output !== 'string') return image(output, images++)
        const { step, total } = JSON.parse(output) as { step: number, total: number }
        counter?.(step, total)
      })
      // The addon ignores a cancel before it has accepted the work.
      if (this.#isCancelled) await engine.cancel()
      await response.await()
      await turn() // for the end of the log
    } finally {
      this.#drawing = undefined
    }
    if (images === expected) return { generate_ms: Date.now() - start }
    const reason = this.#log.failureReason ?? 'it does not say why.'
    throw new EngineError('generation_failed', `The engine made ${images} of ${expected} images: ${reason}`)
  }

  #reportDevice (report: Reporter): void {
    const device = mainDevice(this.#log.backends)
    if (device === undefined || device === this.#info.device) return
    this.#info = { ...this.#info, device }
    report.info(this.#info)
  }
}

/** The device that computes: a part of the model may be on the CPU. */
function mainDevice (names: string[]): string | undefined {
  return names.find((name) => !isProcessor(name)) ?? names[0]
}

/** Lets pending events arrive. The first timer may fire before the events of its turn. */
async function turn (): Promise<void> {
  for (let n = 0; n < 2; n++) await new Promise((resolve) => setTimeout(resolve, 0))
}

function checkFile (what: string, path: string, code: EngineErrorCode): void {
  let isFile = false
  try {
    isFile = statSync(path).isFile()
  } catch {
    // The error below says that it is not there.
  }
  if (!isFile) throw new EngineError(code, `The ${what} file ${baseName(path)} is not there.`)
}

/** Clients know models by their names, so folders are not shown. */
function withoutFolders (message: string, paths: string[]): string {
  return paths.reduce((text, path) => text.replaceAll(path, baseName(path)), message)
}

function baseName (path: string): string {
  return path.slice(Math.max(path.lastIndexOf('/'), path.lastIndexOf('\\')) + 1)
}

/** The addon lists its devices only in the log of the first load. */
async function listDevices (): Promise<void> {
  const config = { device: 'gpu', verbosity: 3 }
  const nothing = new addon.ImgStableDiffusion({ files: { model: '/nothing' }, config })
  await nothing.load().catch(() => {}) // it fails after a few milliseconds
  await turn()
}

const server = ppid()
const log = new PortableLog()
logging.setLogger((priority, message) => log.add(priority, message))
await listDevices()
new Bare.Thread(`${import.meta.dirname}/watch.js`, { data: server }) // eslint-disable-line no-new
// SIGKILL, because an orderly exit would wait for the addon and the thread.
serveHost(new PortableHost(log), new Pipe(3), () => kill(pid(), 'SIGKILL'))
