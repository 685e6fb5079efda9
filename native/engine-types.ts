import type { Addon } from './types.ts'

/** Mirror of what engine.node exports (native/engine/). A change there changes this file in the same commit. */

/** The library that the addon is linked with. Names and defaults are its own. */
interface EngineLibrary {
  readonly version: string
  readonly commit: string
  /** The file that was loaded. */
  readonly path: string
  readonly samplers: string[]
  readonly schedulers: string[]
  readonly predictions: string[]
  readonly rngs: string[]
  readonly previews: string[]
  readonly hires_upscalers: string[]
  /** Formats that weights can be loaded and converted to. */
  readonly weight_types: string[]
  /** null where the default depends on the model. */
  readonly defaults: Record<string, number | null>
}

/** Rows of 8-bit samples without padding: 1 channel is grey, 3 are RGB. */
export interface RawImage {
  width: number
  height: number
  channels: number
  /** width × height × channels bytes. */
  data: Buffer
}

export interface ContextParameters {
  /** Paths. One of the first two is needed. */
  model?: string
  diffusion_model?: string
  high_noise_diffusion_model?: string
  uncond_diffusion_model?: string
  clip_l?: string
  clip_g?: string
  clip_vision?: string
  t5xxl?: string
  llm?: string
  llm_vision?: string
  vae?: string
  taesd?: string
  control_net?: string
  ip_adapter?: string
  photo_maker?: string
  pulid_weights?: string
  embeddings?: Array<{ name: string, path: string }>

  /** 1…256; the number of physical cores by default. */
  threads?: number
  weight_type?: string
  /** Weight types by tensor name, in the library's own notation. */
  tensor_type_rules?: string
  rng?: string
  sampler_rng?: string
  prediction?: string
  /** `at_runtime` by default, which is not the library's: its own may leave a LoRA in the weights. */
  lora_apply_mode?: string
  vae_format?: 'auto' | 'flux' | 'sd3' | 'flux2' | 'wan'
  model_args?: string

  /** Device of the model, or devices by module: `CUDA0`, `all=CUDA0,vae=cpu`. */
  backend?: string
  /** Where the weights stay while they are not used. */
  params_backend?: string
  split_mode?: string
  auto_fit?: boolean
  max_vram?: string
  stream_layers?: boolean
  /** Read all weights at load; true by default, which is not the library's. */
  eager_load?: boolean
  mmap?: boolean
  flash_attention?: boolean
  diffusion_flash_attention?: boolean
  diffusion_conv_direct?: boolean
  vae_conv_direct?: boolean
  taesd_preview_only?: boolean
  force_sdxl_vae_conv_scale?: boolean
}

interface UpscalerParameters {
  /** Path. */
  esrgan: string
  threads?: number
  backend?: string
  params_backend?: string
  /** Pixels, 32…4096; 128 by default. */
  tile_size?: number
  direct?: boolean
}

/** Absent ones have the library's default, unless it says otherwise. */
export interface GenerationParameters {
  prompt: string
  negative_prompt?: string
  /** Pixels, 64…8192, multiples of 8, at most 4096 × 4096 together. 512 by default. */
  width?: number
  height?: number
  /** 0…2⁵³−1. Image n of a batch has seed + n. */
  seed: number
  /** 1…64 */
  batch_count?: number
  /** −1…12; −1 is the model's own. */
  clip_skip?: number

  /** 1…1000 */
  steps?: number
  sampler?: string
  scheduler?: string
  cfg_scale?: number
  img_cfg_scale?: number
  guidance?: number
  eta?: number
  flow_shift?: number
  shifted_timestep?: number
  /** 2…1001 numbers; they replace steps and scheduler. */
  custom_sigmas?: number[]
  extra_sample_args?: string
  skip_layer_guidance?: { layers?: number[], start?: number, end?: number, scale?: number }

  loras?: Array<{ path: string, weight?: number, high_noise?: boolean }>

  init_image?: RawImage
  /** 0…1 */
  strength?: number
  /** 1 channel: white is drawn anew. Needs `init_image`. */
  mask?: RawImage
  ref_images?: RawImage[]
  ref_image_args?: string
  control_image?: RawImage
  control_strength?: number
  ip_adapter_image?: RawImage
  ip_adapter_strength?: number
  photo_maker?: { images?: RawImage[], id_embed_path?: string, style_strength?: number }
  pulid?: { id_embedding_path?: string, id_weight?: number }

  vae_tiling?: {
    enabled?: boolean
    temporal_tiling?: boolean
    /** Latent pixels; 0 is the library's choice. */
    tile_size_x?: number
    tile_size_y?: number
    rel_size_x?: number
    rel_size_y?: number
    /** 0…0.5 */
    target_overlap?: number
    extra_tiling_args?: string
  }
  cache?: {
    mode?: 'disabled' | 'easycache' | 'ucache' | 'dbcache' | 'taylorseer' | 'cache_dit' | 'spectrum'
    reuse_threshold?: number
    start_percent?: number
    end_percent?: number
    error_decay_rate?: number
    use_relative_threshold?: boolean
    reset_error_on_compute?: boolean
    fn_compute_blocks?: number
    bn_compute_blocks?: number
    residual_diff_threshold?: number
    max_warmup_steps?: number
    max_cached_steps?: number
    max_continuous_cached_steps?: number
    taylorseer_n_derivatives?: number
    taylorseer_skip_interval?: number
    scm_mask?: string
    scm_policy_dynamic?: boolean
    spectrum_w?: number
    spectrum_m?: number
    spectrum_lam?: number
    spectrum_window_size?: number
    spectrum_flex_window?: number
    spectrum_warmup_steps?: number
    spectrum_stop_percent?: number
  }
  hires?: {
    enabled?: boolean
    upscaler?: string
    /** Path of an upscaler, for `upscaler: 'Model'`. */
    model_path?: string
    /** 1…8 */
    scale?: number
    target_width?: number
    target_height?: number
    /** 0 takes the steps of the first pass. */
    steps?: number
    denoising_strength?: number
    upscale_tile_size?: number
    custom_sigmas?: number[]
  }
  qwen_image_layers?: number
  circular_x?: boolean
  circular_y?: boolean

  preview?: {
    mode?: string
    /** Milliseconds from one preview to the next at least; 1000 by default. */
    interval?: number
  }
}

export interface ConvertParameters {
  input: string
  output: string
  vae?: string
  weight_type?: string
  tensor_type_rules?: string
  convert_name?: boolean
  threads?: number
}

/** All numbers 0…1. */
export interface CannyParameters {
  image: RawImage
  high_threshold?: number
  low_threshold?: number
  weak?: number
  strong?: number
  inverse?: boolean
}

export type EngineEvent =
  /** Of the weights that are read, then of the steps of each image: both counters start at 0. */
  | { type: 'progress', step: number, steps: number }
  | { type: 'preview', step: number, image: RawImage }
  | { type: 'log', level: 'info' | 'warn' | 'error', message: string }

interface EngineOutcome {
  /** Of the operation, without the way through JavaScript. */
  milliseconds: number
  images: RawImage[]
}

/**
 * The model of this process. One operation runs at a time, on a thread of its own; a promise is rejected with an Error
 * whose `code` is one of `EngineErrorCode`, and at once for parameters that are not as expected.
 */
export interface NativeEngine {
  /** Replaces the model that was loaded before. */
  load (parameters: ContextParameters): Promise<EngineOutcome & { sampler: string, scheduler: string }>
  loadUpscaler (parameters: UpscalerParameters): Promise<EngineOutcome>
  /** Changes the ControlNet of the loaded model, or takes it away. */
  loadControlNet (parameters: { control_net?: string }): Promise<EngineOutcome>
  /** Frees model and upscaler. */
  unload (): Promise<EngineOutcome>
  generate (parameters: GenerationParameters): Promise<EngineOutcome>
  /** `factor` is the upscaler's own by default. */
  upscale (parameters: { image: RawImage, factor?: number }): Promise<EngineOutcome>
  convert (parameters: ConvertParameters): Promise<EngineOutcome>
  canny (parameters: CannyParameters): Promise<EngineOutcome>
  /**
   * Asks the generation that runs to stop: between two steps, or after the image that is being drawn when those that
   * are finished shall be kept. Other operations can't be stopped. False when nothing runs.
   */
  cancel (keepFinished?: boolean): boolean
  /** Frees everything, after the operation that runs. Another engine may be made then. */
  close (): void
  readonly busy: boolean
}

export interface EngineAddon extends Addon {
  readonly library: EngineLibrary
  /** There can be one at a time in a process. @throws {Error} with code `engine_busy` */
  readonly Engine: new (listener: (event: EngineEvent) => void) => NativeEngine
  devices (): Array<{ name: string, description: string }>
  systemInfo (): string
}
