/**
 * Defaults, limits and components of each family of models, as data; architecture-rules.ts tells which family a file
 * belongs to. The numbers are from the documentation of stable-diffusion.cpp and the model cards.
 */

export interface ImageDefaults {
  /** Pixels. */
  width: number
  height: number
  steps: number
  cfg_scale: number
  /** Distilled guidance, for models that were trained with it. */
  guidance?: number
  sampler: string
  /** Absent where the engine chooses a better one. */
  scheduler?: string
}

export interface ImageLimits {
  /** Pixels of either side. */
  min_side: number
  max_side: number
  multiple_of: number
  /** The engine aborts on other shapes. */
  square_only: boolean
}

export type Component = 'clip_l' | 'clip_g' | 't5xxl' | 'llm' | 'vae'

interface Architecture {
  title: string
  defaults: ImageDefaults
  /** Changes to `defaults` for variants of the family. */
  variants?: Record<string, Partial<ImageDefaults>>
  limits: ImageLimits
  /** What the network predicts; absent where files of the family differ. */
  prediction?: 'eps' | 'v' | 'flow'
  /** Files that a bare diffusion model of this family needs beside it; empty when the engine loads only checkpoints. */
  components: readonly Component[]
  /** Those of `components` that the engine can do without; the image then follows the prompt less. */
  optional?: readonly Component[]
  /** The family of its VAE; absent where it has none. */
  vae?: 'sd' | 'flux1' | 'flux2' | 'wan'
  /** The engine makes no single images with a model for videos. */
  video?: true
}

/** The network halves the latent image three times; any other size is drawn larger than requested. */
const unetLimits: ImageLimits = { min_side: 64, max_side: 2048, multiple_of: 64, square_only: false }
const transformerLimits: ImageLimits = { min_side: 64, max_side: 4096, multiple_of: 16, square_only: false }

function square (side: number): { width: number, height: number } {
  return { width: side, height: side }
}

export const architectures = {
  sd1: {
    title: 'Stable Diffusion 1.x',
    defaults: { ...square(512), steps: 20, cfg_scale: 7, sampler: 'euler_a', scheduler: 'discrete' },
    limits: unetLimits,
    prediction: 'eps',
    vae: 'sd',
    components: []
  },
  sd2: {
    title: 'Stable Diffusion 2.x',
    defaults: { ...square(768), steps: 20, cfg_scale: 7, sampler: 'euler_a', scheduler: 'discrete' },
    limits: unetLimits,
    vae: 'sd',
    components: []
  },
  sdxs: {
    title: 'SDXS (one step)',
    defaults: { ...square(512), steps: 1, cfg_scale: 1, sampler: 'euler_a', scheduler: 'discrete' },
    limits: unetLimits,
    prediction: 'eps',
    vae: 'sd',
    components: []
  },
  sdxl: {
    title: 'Stable Diffusion XL',
    defaults: { ...square(1024), steps: 25, cfg_scale: 7, sampler: 'euler_a', scheduler: 'discrete' },
    limits: { ...unetLimits, max_side: 4096 },
    prediction: 'eps',
    vae: 'sd',
    components: []
  },
  sd3: {
    title: 'Stable Diffusion 3 and 3.5',
    defaults: { ...square(1024), steps: 28, cfg_scale: 4.5, sampler: 'euler', scheduler: 'discrete' },
    limits: transformerLimits,
    prediction: 'flow',
    vae: 'flux1',
    components: ['clip_l', 'clip_g', 't5xxl', 'vae'],
    optional: ['clip_l', 'clip_g', 't5xxl']
  },
  flux1: {
    title: 'FLUX.1',
    defaults: { ...square(1024), steps: 20, cfg_scale: 1, guidance: 3.5, sampler: 'euler' },
    variants: { schnell: { steps: 4 }, fill: { guidance: 30 } },
    limits: transformerLimits,
    prediction: 'flow',
    vae: 'flux1',
    components: ['clip_l', 't5xxl', 'vae'],
    optional: ['clip_l', 't5xxl']
  },
  flux2: {
    title: 'FLUX.2',
    defaults: { ...square(1024), steps: 28, cfg_scale: 1, guidance: 4, sampler: 'euler' },
    variants: { klein: { steps: 4, guidance: undefined } },
    limits: transformerLimits,
    prediction: 'flow',
    vae: 'flux2',
    components: ['llm', 'vae']
  },
  chroma: {
    title: 'Chroma',
    defaults: { ...square(1024), steps: 26, cfg_scale: 4, sampler: 'euler' },
    limits: transformerLimits,
    prediction: 'flow',
    vae: 'flux1',
    components: ['t5xxl', 'vae']
  },
  chroma_radiance: {
    title: 'Chroma1-Radiance',
    defaults: { ...square(1024), steps: 26, cfg_scale: 4, sampler: 'euler' },
    limits: transformerLimits,
    prediction: 'flow',
    components: ['t5xxl']
  },
  qwen_image: {
    title: 'Qwen-Image',
    defaults: { ...square(1024), steps: 20, cfg_scale: 2.5, sampler: 'euler', scheduler: 'discrete' },
    limits: transformerLimits,
    prediction: 'flow',
    vae: 'wan',
    components: ['llm', 'vae']
  },
  z_image: {
    title: 'Z-Image',
    defaults: { ...square(1024), steps: 8, cfg_scale: 1, sampler: 'euler', scheduler: 'discrete' },
    limits: transformerLimits,
    prediction: 'flow',
    vae: 'flux1',
    components: ['llm', 'vae']
  },
  wan: {
    title: 'Wan 2.x',
    defaults: { width: 832, height: 480, steps: 20, cfg_scale: 6, sampler: 'euler', scheduler: 'discrete' },
    limits: transformerLimits,
    prediction: 'flow',
    components: ['t5xxl', 'vae'],
    video: true
  },
  minit2i: {
    title: 'MiniT2I',
    defaults: { ...square(512), steps: 100, cfg_scale: 6, sampler: 'euler', scheduler: 'discrete' },
    variants: { tiny: { ...square(64), steps: 20 } },
    limits: { min_side: 64, max_side: 1024, multiple_of: 8, square_only: true },
    prediction: 'flow',
    components: ['t5xxl']
  }
} as const satisfies Record<string, Architecture>

export type ArchitectureName = keyof typeof architectures

export function architectureOf (name: string | null): Architecture | undefined {
  if (name !== null && Object.hasOwn(architectures, name)) return architectures[name as ArchitectureName]
}

/** Defaults of an architecture and its variant; undefined when the architecture is not known. */
export function defaultsOf (name: string | null, variant?: string): ImageDefaults | undefined {
  const architecture = architectureOf(name)
  if (architecture === undefined) return undefined
  const variants = architecture.variants ?? {}
  const changes = variant !== undefined && Object.hasOwn(variants, variant) ? variants[variant] : {}
  return { ...architecture.defaults, ...changes }
}
