import { createRequire } from 'node:module'
import { Socket } from 'node:net'
import { basename } from 'node:path'
import type {
  CannyParameters, ContextParameters, ConvertParameters, EngineAddon, EngineEvent, GenerationParameters, NativeEngine,
  RawImage
} from '../../../../native/engine-types.ts'
import { loadEngineAddon } from '../../../../native/index.ts'
import { decodeImage } from '../../../media/decode.ts'
import { encodePng } from '../../../media/png-encode.ts'
import {
  EngineError, capabilityNames, isProcessor, type EngineErrorCode, type EngineInfo, type ImageParameters,
  type LoadOptions, type ModelFiles, type Operations
} from '../../engine.ts'
import { serveHost, type Attachments, type HostEngine, type Reporter } from '../host.ts'
import { NativeLog } from './log.ts'
import { GenerationProgress } from './progress.ts'

/**
 * The process of the native engine: `node native.js [path of engine.node]`. It speaks the protocol on file descriptor 3
 * and ends when that closes, even during a generation, which runs on its own thread.
 */

/** `proj` costs next to nothing; the interval is in milliseconds. */
const defaultPreview = { mode: 'proj', interval: 1000 }

class NativeHost implements HostEngine {
  readonly #addon: EngineAddon
  readonly #engine: NativeEngine
  #info: EngineInfo
  /** Parameters of the loaded context, to see when only its ControlNet changes. */
  #loaded: { context: string, controlNet: string | undefined } | undefined
  readonly #log = new NativeLog()
  #listener: ((event: EngineEvent) => void) | undefined
  #report: Reporter | undefined
  #isCancelled = false

  constructor (addon: EngineAddon) {
    this.#addon = addon
    this.#engine = new addon.Engine((event) => {
      if (event.type === 'log') this.#report?.log(event.level, this.#log.add(event.message))
      this.#listener?.(event)
    })
    const devices = addon.devices()
    this.#info = {
      engine: 'native',
      version: `${addon.library.version} (${addon.library.commit})`,
      device: defaultDevice(devices),
      devices,
      capabilities: [...capabilityNames],
      samplers: addon.library.samplers,
      schedulers: addon.library.schedulers,
      weight_types: addon.library.weight_types
    }
  }

  get info (): EngineInfo {
    return this.#info
  }

  get isBusy (): boolean {
    return this.#engine.busy
  }

  readonly operations: HostEngine['operations'] = {
    load: (parameters, _attachments, report) => this.#run(report, parameters, () => this.#load(parameters, report)),
    unload: (parameters, _attachments, report) => this.#run(report, parameters, () => this.#unload()),
    generate: (parameters, attachments, report) =>
      this.#run(report, parameters, () => this.#generate(parameters, attachments, report)),
    upscale: (parameters, attachments, report) =>
      this.#run(report, parameters, () => this.#upscale(parameters, attachments, report)),
    convert: (parameters, _attachments, report) =>
      this.#run(report, parameters, () => this.#convert(parameters, report)),
    canny: (parameters, attachments, report) =>
      this.#run(report, parameters, () => this.#canny(parameters, attachments, report))
  }

  cancel (): void {
    this.#isCancelled = true
    this.#engine.cancel()
  }

  async #run<Result> (report: Reporter, parameters: object, operation: () => Promise<Result>): Promise<Result> {
    this.#report = report
    this.#isCancelled = false
    this.#log.begin()
    try {
      const result = await operation()
      this.#throwIfCancelled() // only drawing can be stopped early
      return result
    } catch (error) {
      throw engineErrorOf(error, parameters)
    } finally {
      this.#listener = undefined
    }
  }

  /** The addon forgets a cancel that comes while it is idle, for example while attachments are decoded here. */
  #throwIfCancelled (): void {
    if (this.#isCancelled) throw new EngineError('cancelled', 'The operation was cancelled.')
  }

  async #load (
    { files, options }: Operations['load']['parameters'], report: Reporter
  ): Promise<Operations['load']['result']> {
    const { esrgan, control_net: controlNet, ...others } = files
    const begin = performance.now()
    const device = this.#deviceFor(options.device)
    const parameters = contextParameters(others, options)
    const context = JSON.stringify(parameters)
    this.#listener = (event) => {
      if (event.type !== 'progress') return
      report.progress({ phase: 'loading_model', step: event.step, steps: event.steps, index: 0 })
    }
    if (this.#loaded?.context === context && esrgan === undefined) {
      await this.#swapControlNet(controlNet)
    } else {
      await this.#unload()
      if (esrgan !== undefined) {
        const { backend, params_backend, threads } = parameters
        await this.#engine.loadUpscaler({ esrgan, backend, params_backend, threads })
      }
      this.#throwIfCancelled()
      if (Object.keys(others).length > 0) {
        await this.#engine.load({ ...parameters, control_net: controlNet })
        this.#log.checkWeightType(options)
        await this.#throwIfSkipped()
        this.#loaded = { context, controlNet }
      }
    }
    if (device !== this.#info.device) report.info(this.#info = { ...this.#info, device })
    return { load_ms: performance.now() - begin }
  }

  /** A model without one of its files would draw something else. */
  async #throwIfSkipped (): Promise<void> {
    if (this.#log.skipped === undefined) return
    await this.#engine.unload()
    throw new EngineError('model_load_failed', this.#log.skipped)
  }

  /** Reads the ControlNet only, not the model. */
  async #swapControlNet (controlNet: string | undefined): Promise<void> {
    if (this.#loaded!.controlNet === controlNet) return
    const { context } = this.#loaded!
    this.#loaded = undefined
    await this.#engine.loadControlNet({ control_net: controlNet })
    this.#loaded = { context, controlNet }
  }

  async #unload (): Promise<Record<string, never>> {
    this.#loaded = undefined
    this.#log.forgetModel()
    await this.#engine.unload()
    return {}
  }

  async #generate (
    parameters: ImageParameters, attachments: Attachments, report: Reporter
  ): Promise<Operations['generate']['result']> {
    this.#log.checkShape(parameters)
    const generation = await generationParameters(parameters, attachments)
    this.#throwIfCancelled()
    const batch = generation.batch_count ?? 1
    const progress = new GenerationProgress(batch, generation.steps ?? this.#addon.library.defaults.steps ?? 0)
    const previews = new Previews(progress, report)
    this.#listener = (event) => {
      if (event.type === 'preview') return previews.add(event.step, event.image)
      const isNews = event.type === 'log' ? progress.log(event.message) : progress.step(event.step, event.steps)
      if (isNews) report.progress(progress.current)
      if (this.#log.skipped !== undefined) this.#engine.cancel()
    }
    report.progress(progress.current)
    const outcome = await this.#engine.generate(generation).catch((error: unknown) => {
      if (this.#log.skipped === undefined) throw error
    })
    await previews.end()
    if (outcome === undefined || this.#log.skipped !== undefined) {
      throw new EngineError('invalid_parameters', this.#log.skipped!)
    }
    const { failure, notices } = this.#log.loras
    if (failure !== undefined) throw new EngineError('generation_failed', failure)
    await sendImages(outcome.images, parameters.seed, report)
    return {
      generate_ms: outcome.milliseconds,
      ...notices.length > 0 && { notices: notices.map(notice => withoutFolders(notice, parameters)) }
    }
  }

  async #upscale (
    { repeats = 1 }: Operations['upscale']['parameters'], attachments: Attachments, report: Reporter
  ): Promise<Operations['upscale']['result']> {
    if (!Number.isInteger(repeats) || repeats < 1 || repeats > 4) {
      throw new EngineError('invalid_parameters',
        `Expected an integer from 1 to 4 for repeats but received ${repeats}.`)
    }
    let image: RawImage = await onlyAttachment(attachments)
    let total = 0
    for (let step = 0; step < repeats; step++) {
      this.#throwIfCancelled()
      report.progress({ phase: 'sampling', step, steps: repeats, index: 0 })
      const { images, milliseconds } = await this.#engine.upscale({ image })
      image = images[0]!
      total += milliseconds
    }
    await sendImages([image], 0, report)
    return { generate_ms: total }
  }

  async #convert (parameters: ConvertParameters, report: Reporter): Promise<Operations['convert']['result']> {
    this.#listener = (event) => {
      if (event.type !== 'progress') return
      report.progress({ phase: 'saving', step: event.step, steps: event.steps, index: 0 })
    }
    await this.#engine.convert(parameters)
    return {}
  }

  async #canny (
    parameters: Record<string, unknown>, attachments: Attachments, report: Reporter
  ): Promise<Operations['canny']['result']> {
    const image = await onlyAttachment(attachments)
    const { images } = await this.#engine.canny({ ...parameters, image } as CannyParameters)
    await sendImages(images, 0, report)
    return {}
  }

  /** @throws {EngineError} invalid_parameters when there is no such device. */
  #deviceFor (wanted: string | undefined): string {
    const devices = this.#info.devices!.map(({ name }) => name)
    const main = defaultDevice(this.#info.devices!)
    if (wanted === undefined) return main
    if (wanted.toLowerCase() === 'gpu' && !isProcessor(main)) return main
    const named = devices.find(name => name.toLowerCase() === wanted.toLowerCase())
    if (named !== undefined) return named
    throw new EngineError('invalid_parameters',
      `Expected one of ${devices.join(', ')} for device but received "${wanted}".`)
  }
}

/** Encodes one preview at a time and drops those that come meanwhile: the next one is newer. */
class Previews {
  readonly #progress: GenerationProgress
  readonly #report: Reporter
  #running: Promise<void> | undefined

  constructor (progress: GenerationProgress, report: Reporter) {
    this.#progress = progress
    this.#report = report
  }

  add (step: number, image: RawImage): void {
    if (this.#running !== undefined) return
    const { index } = this.#progress.current
    this.#running = encodePng(image).then(
      png => this.#report.preview({ step, index, width: image.width, height: image.height, png }),
      (error: Error) => this.#report.log('warn', `A preview is left out: ${error.message}`)
    ).finally(() => { this.#running = undefined })
  }

  /** Nothing may follow the result. */
  async end (): Promise<void> {
    await this.#running
  }
}

async function sendImages (images: RawImage[], seed: number, report: Reporter): Promise<void> {
  for (const [index, image] of images.entries()) {
    report.progress({ phase: 'saving', step: index, steps: images.length, index })
    const { width, height } = image
    report.image({ index, width, height, seed: seed + index, png: await encodePng(image) })
  }
}

/** The library's default: the first graphics card, else the processor. */
function defaultDevice (devices: Array<{ name: string }>): string {
  return (devices.find(({ name }) => !isProcessor(name)) ?? devices[0])?.name ?? 'none'
}

function contextParameters (files: ModelFiles, options: LoadOptions): ContextParameters {
  const { device, offload_to_cpu: offload, vae_on_cpu: vae, clip_on_cpu: clip, ...others } = options
  // The library's notation, `all=CUDA0,vae=cpu`: single modules may run on another device.
  const modules = [
    ...(device === undefined ? [] : [`all=${device}`]),
    ...(vae ? ['vae=cpu'] : []), ...(clip ? ['te=cpu'] : [])
  ]
  return {
    ...(modules.length > 0 ? { backend: modules.join(',') } : {}),
    ...(offload ? { params_backend: 'cpu' } : {}),
    ...others, // the addon names those that it does not know
    ...files
  }
}

/** The parameters have the addon's names already; the attachments are added to them. */
async function generationParameters (
  parameters: ImageParameters, attachments: Attachments
): Promise<GenerationParameters> {
  const generation: GenerationParameters = {
    ...parameters,
    preview: { ...defaultPreview, ...parameters.preview as object }
  }
  const { width, height } = parameters
  const numbered = { ref_images: [] as RawImage[], photo_maker_images: [] as RawImage[] }
  for (const [name, bytes] of Object.entries(attachments)) {
    const [, list, position] = /^(ref_images|photo_maker_images)\.(\d{1,2})$/.exec(name) ?? []
    if (name === 'init_image' || name === 'control_image') {
      generation[name] = await decodeAttachment(name, bytes, { channels: 3, width, height })
    } else if (name === 'mask') {
      generation.mask = await decodeAttachment(name, bytes, { channels: 1, width, height })
    } else if (name === 'ip_adapter_image') {
      generation.ip_adapter_image = await decodeAttachment(name, bytes, { channels: 3 })
    } else if (list !== undefined) {
      numbered[list as keyof typeof numbered][Number(position)] = await decodeAttachment(name, bytes, { channels: 3 })
    } else {
      throw new EngineError('invalid_parameters', `There is no parameter ${name} that takes an image.`)
    }
  }
  if (numbered.ref_images.length > 0) generation.ref_images = numbered.ref_images
  if (numbered.photo_maker_images.length > 0) {
    generation.photo_maker = { ...generation.photo_maker, images: numbered.photo_maker_images }
  }
  return generation
}

async function onlyAttachment (attachments: Attachments): Promise<RawImage> {
  const [first, ...more] = Object.entries(attachments)
  if (first === undefined || more.length > 0) {
    throw new EngineError('invalid_parameters', `Expected one image but received ${Object.keys(attachments).length}.`)
  }
  return await decodeAttachment(first[0], first[1], { channels: 3 })
}

async function decodeAttachment (
  name: string, bytes: Uint8Array, options: Parameters<typeof decodeImage>[1]
): Promise<RawImage> {
  try {
    return await decodeImage(bytes, options)
  } catch (error) {
    throw new EngineError('invalid_parameters', `${name}: ${(error as Error).message}`, { cause: error })
  }
}

/** The addon's errors carry a code. Paths become file names, which are all that clients know. */
function engineErrorOf (error: unknown, parameters: object): unknown {
  if (!(error instanceof Error)) return error
  const code = 'code' in error ? error.code as EngineErrorCode : 'generation_failed'
  return new EngineError(code, withoutFolders(error.message, parameters), { cause: error })
}

function withoutFolders (message: string, parameters: object): string {
  return pathsIn(parameters).reduce((text, path) => text.replaceAll(path, basename(path)), message)
}

function pathsIn (value: unknown): string[] {
  if (typeof value === 'string') return /^\/./.test(value) ? [value] : []
  return typeof value === 'object' && value !== null ? Object.values(value).flatMap(pathsIn) : []
}

const path = process.argv[2]
const addon = path === undefined ? await loadEngineAddon() : createRequire(import.meta.url)(path)
const host = new NativeHost(addon)
serveHost(host, new Socket({ fd: 3 }), () => {
  // No wait for what still runs, and the library's destructors must not run beside it.
  if (host.isBusy) process.kill(process.pid, 'SIGKILL')
  else process.exit()
})
