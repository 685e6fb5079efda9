import {
  EngineError, cacheModes, isProcessor, maximumSeed, type Capability, type ImageParameters, type LoadOptions,
  type ModelFiles
} from '../../engine.ts'
import { checked, flag, group, integer, number, oneOf, invalid, text, type Check, type Checks } from './checks.ts'
import type { Attachments } from '../host.ts'
import { pngSize } from './png-size.ts'

/**
 * Translates parameters into those of `@qvac/diffusion-cpp` 0.25.0, with errors for what it would ignore, misunderstand
 * or crash on.
 *
 * The addon lists its samplers and schedulers only in the error for an unknown one, once a model is loaded. Hence the
 * lists here, which a test compares with the installed version.
 */
export const samplers = [
  'euler', 'euler_a', 'heun', 'dpm2', 'dpm++2m', 'dpm++2mv2', 'dpm++2s_a', 'lcm', 'ipndm', 'ipndm_v', 'ddim_trailing',
  'tcd', 'res_multistep', 'res_2s'
]
export const schedulers = [
  'discrete', 'karras', 'exponential', 'ays', 'gits', 'sgm_uniform', 'simple', 'lcm', 'smoothstep', 'kl_optimal',
  'bong_tangent', 'ltx2'
]
export const weightTypes = [
  'f32', 'f16', 'bf16', 'q2_k', 'q3_k', 'q4_0', 'q4_1', 'q4_k', 'q5_0', 'q5_1', 'q5_k', 'q6_k', 'q8_0'
]

export const capabilities: Capability[] = [
  'txt2img', 'img2img', 'upscale', 'lora', 'vae_tiling', 'cache', 'device_list'
]

/** The missing feature that a parameter, an attachment or a file belongs to. */
const missingFeatures = new Map<string, Capability>([
  ['mask', 'inpaint'],
  ['control_image', 'controlnet'],
  ['control_strength', 'controlnet'],
  ['ref_images', 'ref_images'],
  ['photo_maker', 'photo_maker'],
  ['photo_maker_images', 'photo_maker'],
  ['ip_adapter_image', 'ip_adapter'],
  ['ip_adapter_strength', 'ip_adapter'],
  ['embeddings', 'embeddings'],
  ['hires', 'hires'],
  ['preview', 'previews'],
  ['skip_layer_guidance', 'skip_layer_guidance'],
  ['custom_sigmas', 'custom_sigmas']
])

function unknown (name: string): EngineError {
  const feature = missingFeatures.get(name.split('.')[0]!)
  return feature === undefined
    ? new EngineError('invalid_parameters', `The portable engine knows no parameter '${name}'.`)
    : missing(feature, name)
}

function missing (feature: Capability, what: string): EngineError {
  return new EngineError('unsupported',
    `The portable engine lacks '${feature}' and can't take ${what}; the native engine can.`)
}

const loras: Check = (name, value) => {
  if (!Array.isArray(value)) throw invalid(name, 'a list', value)
  if (value.length > 1) throw missing('multiple_loras', `${value.length} LoRAs`)
  return value.map((lora) => {
    const { path, weight = 1 } = lorasEntry(name, lora) as { path: string, weight?: number }
    if (weight !== 1) throw missing('lora_weight', `the weight ${weight} of a LoRA`)
    return path
  })
}
const lorasEntry = group({ path: text(1), weight: number(-100, 100) }, unknown)

const imageChecks: Checks = {
  prompt: text(0),
  negative_prompt: text(0),
  width: integer(64, 8192, 8),
  height: integer(64, 8192, 8),
  // A billion steps exhaust the memory and can't be cancelled.
  steps: integer(1, 1000),
  cfg_scale: number(0, 100),
  img_cfg_scale: number(0, 100),
  guidance: number(0, 100),
  // With −1 the addon takes the time in seconds, and does not report it.
  seed: integer(0, maximumSeed),
  sampler: oneOf(samplers),
  scheduler: oneOf(schedulers),
  eta: number(0, 10),
  batch_count: integer(1, 64),
  clip_skip: integer(-1, 12),
  strength: number(0, 1),
  loras,
  vae_tiling: group({
    enabled: flag, tile_size_x: integer(0, 1024), tile_size_y: integer(0, 1024), target_overlap: number(0, 0.5)
  }, unknown),
  cache: group({ mode: oneOf(cacheModes), reuse_threshold: number(0, 10) }, unknown)
}

/** The addon has defaults for the others. */
const required = ['prompt', 'width', 'height', 'seed'] as const

/** Pixels of one image: at most 4096², or 8192² when upscaled. */
const mostPixels = 4096 * 4096
const mostUpscaledPixels = 8192 * 8192
/** Both sides grow by this factor at most in one pass of an upscaler. */
const largestScale = 4

interface AddonRun {
  parameters: Record<string, unknown>
  /** LoRA files, which the addon skips silently when they are missing. */
  files: string[]
}

/**
 * @param architecture of the loaded model, in the addon's own words.
 * @throws {EngineError} invalid_parameters, unsupported
 */
export function toAddonRun (parameters: ImageParameters, attachments: Attachments, architecture: string): AddonRun {
  for (const name of required) imageChecks[name]!(name, parameters[name])
  const { loras: files = [], vae_tiling: tiling, cache, sampler, ...others } =
    checked(parameters, imageChecks, unknown) as Record<string, unknown> & SpecialParameters
  const { width, height } = parameters
  if (width * height > mostPixels) throw invalid('width × height', `at most ${mostPixels} pixels`, width * height)
  for (const name of Object.keys(attachments)) if (name !== 'init_image') throw unknown(name)
  if (attachments.init_image !== undefined) checkInitImage(attachments.init_image, parameters)
  if (architecture === 'MiniT2I') checkMiniT2I(parameters, attachments)
  return {
    files,
    parameters: {
      ...others,
      // It refuses a text without characters.
      prompt: parameters.prompt || ' ',
      ...attachments,
      ...(sampler === undefined ? {} : { sampling_method: sampler }),
      ...(files[0] === undefined ? {} : { lora: files[0] }),
      ...tilingTerms(tiling),
      ...cacheTerms(cache)
    }
  }
}

interface SpecialParameters {
  loras?: string[]
  vae_tiling?: { enabled?: boolean, tile_size_x?: number, tile_size_y?: number, target_overlap?: number }
  cache?: { mode?: string, reuse_threshold?: number }
}

/** The addon draws in the size of this image, not in the requested one. */
function checkInitImage (png: Uint8Array, { width, height }: ImageParameters): void {
  const size = pngSize(png)
  if (size?.width === width && size.height === height) return
  const came = size === undefined ? 'something else' : `one of ${size.width} × ${size.height}`
  throw new EngineError('invalid_parameters',
    `Expected a PNG image of ${width} × ${height} for init_image but received ${came}.`)
}

/** Other shapes end the process, and an initial image is ignored. */
function checkMiniT2I ({ width, height }: ImageParameters, { init_image: image }: Attachments): void {
  if (width !== height) throw invalid('height', `${width}, because MiniT2I draws squares only,`, height)
  if (image !== undefined) throw new EngineError('invalid_parameters', 'MiniT2I cannot begin with an init_image.')
}

function tilingTerms (tiling: SpecialParameters['vae_tiling']): Record<string, unknown> {
  if (tiling === undefined || tiling.enabled === false) return {}
  const { tile_size_x: x = 0, tile_size_y: y = 0, target_overlap: overlap } = tiling
  return {
    vae_tiling: true,
    // The addon needs both sides or neither.
    ...(x > 0 || y > 0 ? { vae_tile_size: `${x || y}x${y || x}` } : {}),
    ...(overlap === undefined ? {} : { vae_tile_overlap: overlap })
  }
}

function cacheTerms (cache: SpecialParameters['cache']): Record<string, unknown> {
  if (cache?.mode === undefined) return {}
  return {
    cache_mode: cache.mode.replace('_', '-'),
    ...(cache.reuse_threshold === undefined ? {} : { cache_threshold: cache.reuse_threshold })
  }
}

/**
 * The only image of an upscaling.
 * @throws {EngineError} invalid_parameters
 */
export function imageToUpscale (repeats: unknown, attachments: Attachments): Uint8Array {
  integer(1, 4)('repeats', repeats)
  const images = Object.values(attachments)
  const size = images.length === 1 ? pngSize(images[0]!) : undefined
  if (size === undefined) throw new EngineError('invalid_parameters', 'Expected one PNG image to upscale.')
  const pixels = size.width * size.height * largestScale ** (2 * (repeats as number))
  if (pixels > mostUpscaledPixels) throw invalid('the upscaled image', `at most ${mostUpscaledPixels} pixels`, pixels)
  return images[0]!
}

const fileNames = new Map([
  ['high_noise_diffusion_model', 'highNoiseDiffusionModel'],
  ['uncond_diffusion_model', 'uncondModel'],
  ['clip_l', 'clipL'],
  ['clip_g', 'clipG'],
  ['t5xxl', 't5Xxl'],
  ['llm', 'llm'],
  ['vae', 'vae']
])
const encoders = ['clip_l', 'clip_g', 't5xxl', 'llm'] as const

/**
 * The files of an image model; undefined when `files` names none.
 * @throws {EngineError} invalid_parameters, unsupported
 */
export function toAddonFiles (
  { model, diffusion_model: diffusion, esrgan, ...others }: ModelFiles
): Record<string, string> | undefined {
  const companions = Object.entries(others).filter(([, path]) => path !== undefined)
  const main = model ?? diffusion
  if (main === undefined) {
    if (companions.length === 0) return undefined
    throw new EngineError('invalid_parameters', 'A model needs a checkpoint or a diffusion model.')
  }
  // With text encoders the addon takes any checkpoint for a bare diffusion model.
  if (model !== undefined && (diffusion !== undefined || encoders.some((name) => others[name] !== undefined))) {
    throw new EngineError('unsupported', 'The portable engine takes a complete checkpoint, or a diffusion model with ' +
      'its text encoders, and not both; the native engine takes both.')
  }
  const named = companions.map(([name, path]) => {
    const addonName = fileNames.get(name)
    if (addonName !== undefined) return [addonName, path]
    throw new EngineError('unsupported', `The portable engine can't load a file for ${name}; the native engine can.`)
  })
  return { model: main, ...Object.fromEntries(named) }
}

const loadChecks: Checks = {
  threads: integer(1, 256),
  device: text(1),
  weight_type: oneOf(weightTypes),
  flash_attention: flag,
  offload_to_cpu: flag,
  vae_on_cpu: flag,
  clip_on_cpu: flag
}

type AddonConfig = Record<string, string | number | boolean>
/** Options with another name in the addon. */
type NamedOptions = Pick<LoadOptions, 'device' | 'weight_type' | 'flash_attention' | 'vae_on_cpu' | 'clip_on_cpu'>

/**
 * @param devices of this machine, in the addon's own words.
 * @throws {EngineError} invalid_parameters
 */
export function toAddonConfig (options: LoadOptions, devices: string[]): AddonConfig {
  const {
    device = 'gpu', weight_type: type, flash_attention: flash, vae_on_cpu: vae, clip_on_cpu: clip, ...others
  } = checked(options, loadChecks, unknown) as NamedOptions & AddonConfig
  const isNamed = device !== 'cpu' && device !== 'gpu'
  const named = devices.find(name => name.toLowerCase() === device.toLowerCase())
  if (isNamed && named === undefined) throw invalid('device', `one of cpu, gpu, ${devices.join(', ')}`, device)
  const modules = [
    ...(isNamed ? [`all=${named}`] : []), ...(vae ? ['vae=cpu'] : []), ...(clip ? ['te=cpu'] : [])
  ]
  return {
    ...others,
    // Without a GPU, `gpu` makes an image model fall back to the CPU and an upscaler fail.
    device: device === 'cpu' || devices.every(isProcessor) ? 'cpu' : 'gpu',
    ...(modules.length === 0 ? {} : { backend: modules.join(',') }),
    ...(type === undefined ? {} : { type }),
    ...(flash === undefined ? {} : { diffusion_fa: flash }),
    // The other modes leave a LoRA in the weights for later requests, and may crash.
    lora_apply_mode: 'at_runtime',
    // Only the log says what the addon does and why it fails.
    verbosity: 3
  }
}

/**
 * Checks for weights that end the process at the first step: those converted to another type than f32.
 * @throws {EngineError} invalid_parameters
 */
export function checkWeightType (type: unknown, architecture: string): void {
  if (architecture === 'MiniT2I' && type !== undefined) oneOf(['f32'])('the weight_type of MiniT2I', type)
}
