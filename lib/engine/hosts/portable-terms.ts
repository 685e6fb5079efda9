import {
  EngineError, type Capability, type ImageParameters, type LoadOptions, type ModelFiles
} from '../engine.ts'
import type { Attachments } from './host.ts'

/**
 * Our terms in those of `@qvac/diffusion-cpp` 0.25.0, and the refusal of everything that it would ignore, misunderstand or
 * die of. The lists are its own: it tells them only in the error for a wrong name and only once a model is loaded, so they
 * stand here, and a test compares them with the words of the installed version.
 */
export const samplers = [
  'euler', 'euler_a', 'heun', 'dpm2', 'dpm++2m', 'dpm++2mv2', 'dpm++2s_a', 'lcm', 'ipndm', 'ipndm_v', 'ddim_trailing', 'tcd',
  'res_multistep', 'res_2s'
]
export const schedulers = [
  'discrete', 'karras', 'exponential', 'ays', 'gits', 'sgm_uniform', 'simple', 'lcm', 'smoothstep', 'kl_optimal',
  'bong_tangent', 'ltx2'
]
export const weightTypes = [
  'f32', 'f16', 'bf16', 'q2_k', 'q3_k', 'q4_0', 'q4_1', 'q4_k', 'q5_0', 'q5_1', 'q5_k', 'q6_k', 'q8_0'
]
const predictions = ['eps', 'v', 'edm_v', 'flow', 'flux2_flow']
const cacheModes = ['disabled', 'easycache', 'ucache', 'dbcache', 'taylorseer', 'cache_dit']

export const capabilities: Capability[] = ['txt2img', 'img2img', 'upscale', 'lora', 'vae_tiling', 'cache', 'device_list']

/** What belongs to a feature that only the native engine has. */
const missingFeatures: Record<string, Capability> = {
  mask: 'inpaint',
  control_image: 'controlnet',
  control_strength: 'controlnet',
  control_net: 'controlnet',
  ref_images: 'ref_images',
  photo_maker: 'photo_maker',
  photo_maker_images: 'photo_maker',
  ip_adapter_image: 'ip_adapter',
  ip_adapter_strength: 'ip_adapter',
  embeddings_dir: 'embeddings',
  hires: 'hires',
  preview: 'previews',
  skip_layer_guidance: 'skip_layer_guidance',
  custom_sigmas: 'custom_sigmas'
}

type Check = (name: string, value: unknown) => unknown

const integer = (minimum: number, maximum: number, multipleOf = 1): Check => (name, value) => {
  if (Number.isInteger(value) && inRange(value as number, minimum, maximum) && (value as number) % multipleOf === 0) return value
  const which = multipleOf === 1 ? 'an integer' : `a multiple of ${multipleOf}`
  throw refuse(name, `${which} from ${minimum} to ${maximum}`, value)
}

const number = (minimum: number, maximum: number): Check => (name, value) => {
  if (typeof value === 'number' && inRange(value, minimum, maximum)) return value
  throw refuse(name, `a number from ${minimum} to ${maximum}`, value)
}

const oneOf = (names: string[]): Check => (name, value) => {
  if (names.includes(value as string)) return value
  throw refuse(name, `one of ${names.join(', ')}`, value)
}

const text = (minimum: number): Check => (name, value) => {
  if (typeof value === 'string' && value.length >= minimum && !value.includes('\0')) return value
  throw refuse(name, `${minimum > 0 ? 'a non-empty' : 'a'} text`, value)
}

const flag: Check = (name, value) => {
  if (typeof value === 'boolean') return value
  throw refuse(name, 'true or false', value)
}

function inRange (value: number, minimum: number, maximum: number): boolean {
  return value >= minimum && value <= maximum
}

function refuse (name: string, expected: string, received: unknown): EngineError {
  return new EngineError('invalid_parameters', `Expected ${expected} for ${name} but received ${JSON.stringify(received)?.slice(0, 100)}.`)
}

/** Checks known fields, refuses unknown ones, and leaves out what is undefined. */
function checked (values: object, checks: Record<string, Check>, prefix = ''): Record<string, unknown> {
  const result: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(values)) {
    if (value === undefined) continue
    if (Object.hasOwn(checks, name)) result[name] = checks[name]!(prefix + name, value)
    else throw unknown(prefix + name)
  }
  return result
}

function unknown (name: string): EngineError {
  const feature = missingFeatures[name.split('.')[0]!]
  if (feature === undefined) return new EngineError('invalid_parameters', `The portable engine knows no parameter '${name}'.`)
  return new EngineError('unsupported', `The portable engine lacks '${feature}', which ${name} belongs to. The native engine has it.`)
}

const group = (checks: Record<string, Check>): Check => (name, value) => {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return checked(value, checks, `${name}.`)
  throw refuse(name, 'an object', value)
}

const loras: Check = (name, value) => {
  if (!Array.isArray(value)) throw refuse(name, 'a list', value)
  if (value.length > 1) throw missing('multiple_loras', 'one LoRA at a time')
  return value.map((lora) => {
    const { path, weight } = group({ path: text(1), weight: number(-100, 100) })(name, lora) as { path: string, weight?: number }
    if (weight !== undefined && weight !== 1) throw missing('lora_weight', 'LoRAs with weight 1 only')
    return path
  })
}

function missing (feature: Capability, instead: string): EngineError {
  return new EngineError('unsupported', `The portable engine lacks '${feature}': it takes ${instead}. The native engine has it.`)
}

const imageChecks: Record<string, Check> = {
  prompt: text(1),
  negative_prompt: text(0),
  width: integer(64, 8192, 8),
  height: integer(64, 8192, 8),
  // A billion steps eat the memory and can't be cancelled.
  steps: integer(1, 1000),
  cfg_scale: number(0, 100),
  img_cfg_scale: number(0, 100),
  guidance: number(0, 100),
  // The engine takes −1 for the second of the clock, and never says what it took.
  seed: integer(0, 2 ** 31 - 1),
  sampler: oneOf(samplers),
  scheduler: oneOf(schedulers),
  eta: number(0, 10),
  batch_count: integer(1, 64),
  clip_skip: integer(-1, 12),
  strength: number(0, 1),
  loras,
  vae_tiling: group({ enabled: flag, tile_size_x: integer(0, 1024), tile_size_y: integer(0, 1024), target_overlap: number(0, 0.5) }),
  cache: group({ mode: oneOf(cacheModes), reuse_threshold: number(0, 10) })
}

/** Most pixels of one image: 4096². */
const mostPixels = 4096 * 4096

export interface ModelTraits {
  /** In the engine's own words, for example `MiniT2I`. */
  architecture: string
}

export interface AddonRun {
  parameters: Record<string, unknown>
  /** LoRA files that must exist: a missing one ends the process, or is silently left out. */
  files: string[]
}

/** @throws {EngineError} invalid_parameters, unsupported */
export function toAddonRun (parameters: ImageParameters, attachments: Attachments, { architecture }: ModelTraits): AddonRun {
  const { loras: files = [], vae_tiling: tiling, cache, sampler, ...others } = checked(parameters, imageChecks) as
    Record<string, unknown> & { loras?: string[], vae_tiling?: Tiling, cache?: Cache }
  const { width, height } = parameters
  if (width * height > mostPixels) throw refuse('width × height', `at most ${mostPixels} pixels`, `${width} × ${height}`)
  // Any other shape ends the process.
  if (architecture === 'MiniT2I' && width !== height) throw refuse('height', `${width}, because ${architecture} draws squares only,`, height)
  for (const name of Object.keys(attachments)) if (name !== 'init_image') throw unknown(name)
  return {
    files,
    parameters: {
      ...others,
      ...attachments,
      ...(sampler === undefined ? {} : { sampling_method: sampler }),
      ...(files[0] === undefined ? {} : { lora: files[0] }),
      ...tilingTerms(tiling),
      ...cacheTerms(cache)
    }
  }
}

interface Tiling { enabled?: boolean, tile_size_x?: number, tile_size_y?: number, target_overlap?: number }

function tilingTerms (tiling: Tiling | undefined): Record<string, unknown> {
  if (tiling === undefined || tiling.enabled === false) return {}
  const { tile_size_x: x = 0, tile_size_y: y = 0, target_overlap: overlap } = tiling
  return {
    vae_tiling: true,
    ...(x > 0 && y > 0 ? { vae_tile_size: `${x}x${y}` } : {}),
    ...(overlap === undefined ? {} : { vae_tile_overlap: overlap })
  }
}

interface Cache { mode?: string, reuse_threshold?: number }

function cacheTerms (cache: Cache | undefined): Record<string, unknown> {
  if (cache?.mode === undefined || cache.mode === 'disabled') return {}
  return {
    cache_mode: cache.mode.replace('_', '-'),
    ...(cache.reuse_threshold === undefined ? {} : { cache_threshold: cache.reuse_threshold })
  }
}

const fileNames: Partial<Record<keyof ModelFiles, string>> = {
  high_noise_diffusion_model: 'highNoiseDiffusionModel',
  uncond_diffusion_model: 'uncondModel',
  clip_l: 'clipL',
  clip_g: 'clipG',
  t5xxl: 't5Xxl',
  llm: 'llm',
  vae: 'vae'
}
const encoders = ['clip_l', 'clip_g', 't5xxl', 'llm'] as const

/**
 * The files of an image model; undefined when `files` names none.
 * @throws {EngineError} unsupported
 */
export function toAddonFiles ({ model, diffusion_model: diffusion, esrgan, ...others }: ModelFiles): Record<string, string> | undefined {
  const companions = Object.entries(others).filter(([, path]) => path !== undefined)
  if (model === undefined && diffusion === undefined) {
    if (companions.length === 0) return undefined
    throw new EngineError('invalid_parameters', 'A model needs a checkpoint or a diffusion model.')
  }
  // The addon takes a model with separate encoders for a mere diffusion model.
  if (model !== undefined && (diffusion !== undefined || encoders.some((name) => others[name] !== undefined))) {
    throw new EngineError('unsupported', 'The portable engine takes either a complete checkpoint, or a diffusion model with its text encoders. The native engine takes both.')
  }
  const named = companions.map(([name, path]) => {
    const addonName = fileNames[name as keyof ModelFiles]
    if (addonName !== undefined) return [addonName, path]
    const feature = missingFeatures[name]
    throw new EngineError('unsupported', `The portable engine cannot load a ${name} file${feature ? `: it lacks '${feature}'` : ''}. The native engine can.`)
  })
  return { model: model ?? diffusion!, ...Object.fromEntries(named) }
}

const loadChecks: Record<string, Check> = {
  threads: integer(1, 256),
  device: text(1),
  weight_type: oneOf(weightTypes),
  prediction: oneOf(predictions),
  flash_attention: flag,
  mmap: flag,
  offload_to_cpu: flag,
  vae_on_cpu: flag,
  clip_on_cpu: flag
}

/**
 * @param devices names that `device` may have beside `cpu` and `gpu`.
 * @throws {EngineError} invalid_parameters
 */
export function toAddonConfig (options: LoadOptions, devices: string[]): Record<string, string | number | boolean> {
  const {
    device = 'gpu', weight_type: type, prediction, flash_attention: flash, vae_on_cpu: vae, clip_on_cpu: clip, ...others
  } = checked(options, loadChecks) as LoadOptions & Record<string, string | number | boolean>
  const isNamed = device !== 'cpu' && device !== 'gpu'
  if (isNamed && !devices.includes(device)) throw refuse('device', `one of cpu, gpu, ${devices.join(', ')}`, device)
  const modules = [...(isNamed ? [`all=${device}`] : []), ...(vae ? ['vae=cpu'] : []), ...(clip ? ['te=cpu'] : [])]
  return {
    ...others,
    device: device === 'cpu' ? 'cpu' : 'gpu',
    ...(modules.length === 0 ? {} : { backend: modules.join(',') }),
    ...(type === undefined ? {} : { type }),
    ...(prediction === undefined ? {} : { prediction }),
    ...(flash === undefined ? {} : { diffusion_fa: flash }),
    // The other modes leave a LoRA in the weights for the next request, and may crash.
    lora_apply_mode: 'at_runtime',
    // The log is where the engine tells what it does and why it fails.
    verbosity: 3
  }
}

/** @throws {EngineError} invalid_parameters for weights that MiniT2I dies of at its first step. */
export function checkWeightType ({ architecture }: ModelTraits, type: unknown): void {
  if (architecture !== 'MiniT2I' || type === undefined) return
  oneOf(['f32', 'f16'])(`weight_type of ${architecture}`, type)
}
