import { apiError } from '../../errors.ts'
import type { Capability, ModelFiles } from '../engine/engine.ts'
import { architectureOf, type Component } from './detect/architectures.ts'
import type { ComponentFile } from './bundle.ts'
import { noVaeReason, wholeOnlyReason, type Model } from './model.ts'
import { mismatchReason } from './parts.ts'
import type { ModelType } from './types.ts'

interface ComponentKind {
  /** The engine's name of it. */
  file: ComponentFile
  type: ModelType
  /** What the engine must be able to do. */
  feature?: Capability
  description: string
}

/** Files that a request can load beside a model's own, or in place of them. */
export const components = {
  diffusion: { file: 'diffusion_model', type: 'diffusion', description: 'Diffusion model' },
  uncond_diffusion: {
    file: 'uncond_diffusion_model', type: 'diffusion', description: 'Diffusion model for the negative prompt'
  },
  clip_l: { file: 'clip_l', type: 'text_encoder', description: 'CLIP-L, of SD2 OpenCLIP-H' },
  clip_g: { file: 'clip_g', type: 'text_encoder', description: 'CLIP-G' },
  t5xxl: { file: 't5xxl', type: 'text_encoder', description: 'T5' },
  llm: { file: 'llm', type: 'text_encoder', description: 'Language model, such as Qwen' },
  vae: { file: 'vae', type: 'vae', description: 'VAE' },
  taesd: { file: 'taesd', type: 'taesd', feature: 'taesd', description: 'Tiny autoencoder instead of the VAE' },
  clip_vision: {
    file: 'clip_vision', type: 'clip_vision', feature: 'clip_vision', description: 'Image encoder of CLIP'
  }
} as const satisfies Record<string, ComponentKind>

export type ComponentName = keyof typeof components
export const componentNames = Object.keys(components) as ComponentName[]

/** By name: ids or names of models in a request, models once found. */
export type Components<Value> = Partial<Record<ComponentName, Value>>

/** What the engine calls the only file of a model of each type. */
const fileNames: Partial<Record<ModelType, keyof ModelFiles>> = {
  checkpoint: 'model',
  diffusion: 'diffusion_model',
  upscaler: 'esrgan',
  vae: 'vae',
  taesd: 'taesd',
  controlnet: 'control_net',
  clip_vision: 'clip_vision'
}

/** The files that a model is loaded from; undefined for a model that can't be loaded by itself. */
export function componentsOf ({ components, type, path }: Model): ModelFiles | undefined {
  const name = fileNames[type]
  return components !== undefined ? { ...components } : name && { [name]: path }
}

/**
 * Checks that a file fits its place in a model.
 * @throws {ApiError} SDR_UNSUPPORTED_MODEL
 */
export function requireFit (name: ComponentName, part: Model, { architecture }: Model): void {
  const mismatch = mismatchReason(components[name].file, part, architecture)
  if (mismatch !== undefined) throw apiError('SDR_UNSUPPORTED_MODEL', `${part.id} ${mismatch}`)
}

/**
 * A model with these components beside its files or in their place. Its other properties are those of `main`.
 * @throws {ApiError} SDR_UNSUPPORTED_MODEL when something is missing.
 */
export function compose (main: Model, chosen: Components<Model>): Model {
  const added = Object.entries(chosen).map(([name, { path }]) => [components[name as ComponentName].file, path])
  const files = { ...componentsOf(main), ...Object.fromEntries(added) as ModelFiles }
  const reason = incompleteReason(main, files)
  if (reason === undefined) return { ...main, components: files }
  throw apiError('SDR_UNSUPPORTED_MODEL', `${main.id} can't be used: ${reason}`)
}

/** Why the engine can't load a model with these files; undefined when it can. */
function incompleteReason ({ type, architecture, summary }: Model, files: ModelFiles): string | undefined {
  if (type !== 'diffusion') return summary?.lacks_vae === true && !isGiven('vae', files) ? noVaeReason : undefined
  const { components = [], optional = [] } = architectureOf(architecture) ?? {}
  const missing = components.filter(name => !optional.includes(name) && !isGiven(name, files))
  if (missing.length > 0) return `it needs ${missing.join(', ')} beside it.`
  if (Object.keys(files).length === 1) return 'it needs its text encoders and VAE beside it.'
  // The engine may crash without any.
  if (optional.length > 0 && !optional.some(name => isGiven(name, files))) {
    return `it needs at least one of ${optional.join(', ')} beside it.`
  }
  return wholeOnlyReason(architecture)
}

function isGiven (name: Component, files: ModelFiles): boolean {
  return files[name] !== undefined || (name === 'vae' && files.taesd !== undefined)
}

const encoders = ['clip_l', 'clip_g', 't5xxl', 'llm'] as const

/** What the engine must be able to do to load a model of several files. */
export function featuresOf ({ components: files = {} }: Model): Capability[] {
  const replaced = files.model !== undefined && encoders.some(name => files[name] !== undefined)
  const needed = Object.values<ComponentKind>(components).filter(({ file }) => files[file] !== undefined)
  return [
    ...replaced ? ['text_encoder_swap' as const] : [],
    ...needed.flatMap(({ feature }) => feature ?? [])
  ]
}
