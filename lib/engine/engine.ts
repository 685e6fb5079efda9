/**
 * The interface of an engine, and the types of the messages to its process. `EngineProcess` (process.ts) implements it;
 * a host (hosts/) is the other side.
 */

export type EngineName = 'native' | 'portable'

/** Features that one engine has and another lacks. A 422 names them, so they are part of the API. */
export const capabilityNames = [
  'txt2img', 'img2img', 'inpaint', 'controlnet', 'upscale', 'canny', 'convert',
  'lora', 'lora_weight', 'multiple_loras', 'embeddings', 'hires', 'previews',
  'vae_tiling', 'cache', 'ref_images', 'photo_maker', 'ip_adapter', 'skip_layer_guidance', 'custom_sigmas',
  'device_list', 'text_encoder_swap', 'taesd', 'clip_vision'
] as const
export type Capability = typeof capabilityNames[number]

/** The first message of a host. All lists come from the engine. */
export interface EngineInfo {
  engine: EngineName
  /** Version of the stable-diffusion.cpp build or of the package that carries it. */
  version: string
  /** The device that runs the model, by the engine's name: `cpu`, `CUDA0`. */
  device: string
  devices?: Array<{ name: string, description: string }>
  capabilities: Capability[]
  samplers: string[]
  schedulers: string[]
  weight_types: string[]
}

/** Absolute paths of the files that make up one model; `model` is a complete checkpoint. */
export interface ModelFiles {
  model?: string
  diffusion_model?: string
  high_noise_diffusion_model?: string
  uncond_diffusion_model?: string
  clip_l?: string
  clip_g?: string
  clip_vision?: string
  t5xxl?: string
  llm?: string
  vae?: string
  taesd?: string
  control_net?: string
  ip_adapter?: string
  photo_maker?: string
  esrgan?: string
}

export interface LoadOptions {
  /** CPU threads, 1…256. */
  threads?: number
  /** `cpu`, `gpu`, or a device name that the engine lists. */
  device?: string
  weight_type?: string
  flash_attention?: boolean
  offload_to_cpu?: boolean
  vae_on_cpu?: boolean
  clip_on_cpu?: boolean
  /** Textual inversions, by their names in prompts. Needs the capability `embeddings`. */
  embeddings?: Array<{ name: string, path: string }>
  [option: string]: unknown
}

/** Every engine takes the seeds 0…this. */
export const maximumSeed = Number.MAX_SAFE_INTEGER

/** Values of `cache.mode` that every engine with the capability `cache` takes. */
export const cacheModes = ['disabled', 'easycache', 'ucache', 'dbcache', 'taylorseer', 'cache_dit']

/** An image request: names as clients see them, files as absolute paths. */
export interface ImageParameters {
  prompt: string
  negative_prompt?: string
  /** Pixels. */
  width: number
  height: number
  steps?: number
  cfg_scale?: number
  guidance?: number
  /** 0…`maximumSeed`, always chosen by the server. */
  seed: number
  sampler?: string
  scheduler?: string
  eta?: number
  batch_count?: number
  clip_skip?: number
  strength?: number
  control_strength?: number
  loras?: Array<{ path: string, weight: number }>
  /** Tiles, for less memory. Sizes are latent pixels (8 of the image); 0 leaves them to the engine. */
  vae_tiling?: { enabled?: boolean, tile_size_x?: number, tile_size_y?: number, target_overlap?: number }
  [parameter: string]: unknown
}

interface Drawn {
  generate_ms: number
  /** Sentences about what had an effect only in part. */
  notices?: string[]
}

/** Operations of a host, with parameters and result. */
export interface Operations {
  load: { parameters: { files: ModelFiles, options: LoadOptions }, result: { load_ms: number } }
  unload: { parameters: Record<string, never>, result: Record<string, never> }
  generate: { parameters: ImageParameters, result: Drawn }
  upscale: { parameters: { repeats?: number }, result: Drawn }
  convert: { parameters: { input: string, output: string, weight_type: string }, result: Record<string, never> }
  canny: { parameters: Record<string, unknown>, result: Record<string, never> }
}
export type OperationName = keyof Operations

export const phases = ['loading_model', 'conditioning', 'sampling', 'decoding', 'saving'] as const
export type Phase = typeof phases[number]

export interface Progress {
  phase: Phase
  /** 0…steps; 0 when the phase has no steps. */
  step: number
  steps: number
  /** Which image of the batch, from 0. */
  index: number
}

/** An image as the engine made it: PNG bytes without any text chunk. */
export interface EngineImage {
  index: number
  /** As drawn: some models round a size up. */
  width: number
  height: number
  seed: number
  png: Uint8Array
}

/** An unfinished image. */
export interface Preview {
  step: number
  index: number
  width: number
  height: number
  png: Uint8Array
}

export interface Observer {
  progress?: (progress: Progress) => void
  preview?: (preview: Preview) => void
  image?: (image: EngineImage) => void
}

export interface RunOptions extends Observer {
  /**
   * Images of the request, by parameter name: `init_image`, `mask`, `control_image`, `ref_images.0`… All are PNG. The
   * first three have exactly `width` × `height`, because not every engine scales them. `upscale` takes any one.
   */
  attachments?: Record<string, Uint8Array>
  /** Asks the host to cancel; the process is killed after the grace period. */
  signal?: AbortSignal
  /** Milliseconds without any message before the process counts as hung and is killed. */
  silenceTimeout?: number
}

/** Why an operation failed: the job's `error.code`, unless the job is tried again (lib/jobs/schedule/lane.ts). */
export type EngineErrorCode =
  | 'engine_crashed' // the process died: signal, abort, out of memory
  | 'engine_timeout' // it was silent for too long and was killed
  | 'engine_unavailable' // it can't be started
  | 'engine_busy' // another operation is running
  | 'model_load_failed'
  | 'generation_failed'
  | 'invalid_parameters'
  | 'unsupported' // the engine lacks the feature
  | 'cancelled'

/** Codes that an engine process may send: with the others the server would retry for ever. */
export const hostErrorCodes = [
  'model_load_failed', 'generation_failed', 'invalid_parameters', 'unsupported', 'cancelled'
] as const satisfies readonly EngineErrorCode[]
export type HostErrorCode = typeof hostErrorCodes[number]

export class EngineError extends Error {
  readonly code: EngineErrorCode
  constructor (code: EngineErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'EngineError'
    this.code = code
  }
}

export type EngineState = 'stopped' | 'starting' | 'idle' | 'busy' | 'backing_off'

export interface EngineStatus {
  engine: EngineName
  state: EngineState
  pid: number | null
  /** Restarts of the process since the server started. */
  restarts: number
  last_crash: { reason: string, at: string } | null
}

/** One engine process with one model context. At most one operation runs at a time. */
export interface Engine {
  readonly status: EngineStatus
  /** Known after the first start; kept across restarts. */
  readonly info: EngineInfo | undefined
  /**
   * Increases with each start and each end of a process: a caller that remembers it knows whether its model is still
   * loaded.
   */
  readonly generation: number
  /** Waits for a start that is under way. @throws {EngineError} engine_unavailable */
  start (): Promise<EngineInfo>
  /**
   * Waits for a restart that is under way. An error of an observer cancels the operation and is thrown.
   * @throws {EngineError}
   */
  run<Name extends OperationName> (
    operation: Name, parameters: Operations[Name]['parameters'], options?: RunOptions
  ): Promise<Operations[Name]['result']>
  /** Ends the process: a request, then SIGTERM, then SIGKILL. */
  stop (): Promise<void>
}

/** A device that draws, with its engine. */
export interface Device {
  /** As --device or --devices names it. */
  name: string
  engine: Engine
}

/** Whether a device of that name, as engines list them, is not a graphics card. */
export function isProcessor (device: string): boolean {
  return /^(CPU|BLAS|RPC|none)/i.test(device)
}
