import type { ModelType } from './types.ts'

/**
 * What is known about each family of models, as data: how to tell it by its tensor names, and what it likes to be asked for.
 * The names of tensors are those that stable-diffusion.cpp (97d2990) and the tools around it write; numbers of `defaults`
 * are from its documentation and the model cards.
 */

export interface ImageDefaults {
  /** Pixels. */
  width: number
  height: number
  steps: number
  cfg_scale: number
  /** Distilled guidance, for the models that were trained with it. */
  guidance?: number
  sampler: string
  /** Absent where the engine chooses better by itself. */
  scheduler?: string
}

export interface ImageLimits {
  /** Pixels of either side. */
  min_side: number
  max_side: number
  multiple_of: number
  /** The engine aborts on any other shape. */
  square_only: boolean
}

export type Part = 'clip_l' | 'clip_g' | 't5xxl' | 'llm' | 'vae'

export interface Architecture {
  title: string
  defaults: ImageDefaults
  /** Changes to `defaults` for variants of the family. */
  variants?: Record<string, Partial<ImageDefaults>>
  limits: ImageLimits
  /** What the network predicts; absent where the file alone does not tell. */
  prediction?: 'eps' | 'v' | 'flow'
  /** Files that a bare diffusion model of this family needs beside it. */
  parts: readonly Part[]
  /** It makes videos, which the engine refuses to make single images with. */
  video?: true
}

const unetLimits: ImageLimits = { min_side: 64, max_side: 2048, multiple_of: 8, square_only: false }
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
    parts: ['clip_l', 'vae']
  },
  sd2: {
    title: 'Stable Diffusion 2.x',
    defaults: { ...square(768), steps: 20, cfg_scale: 7, sampler: 'euler_a', scheduler: 'discrete' },
    limits: unetLimits,
    parts: ['clip_l', 'vae']
  },
  sdxs: {
    title: 'SDXS (one step)',
    defaults: { ...square(512), steps: 1, cfg_scale: 1, sampler: 'euler_a', scheduler: 'discrete' },
    limits: unetLimits,
    prediction: 'eps',
    parts: ['clip_l', 'vae']
  },
  sdxl: {
    title: 'Stable Diffusion XL',
    defaults: { ...square(1024), steps: 25, cfg_scale: 7, sampler: 'euler_a', scheduler: 'discrete' },
    limits: { ...unetLimits, max_side: 4096 },
    prediction: 'eps',
    parts: ['clip_l', 'clip_g', 'vae']
  },
  sd3: {
    title: 'Stable Diffusion 3 and 3.5',
    defaults: { ...square(1024), steps: 28, cfg_scale: 4.5, sampler: 'euler', scheduler: 'discrete' },
    limits: transformerLimits,
    prediction: 'flow',
    parts: ['clip_l', 'clip_g', 't5xxl', 'vae']
  },
  flux1: {
    title: 'FLUX.1',
    defaults: { ...square(1024), steps: 20, cfg_scale: 1, guidance: 3.5, sampler: 'euler' },
    variants: { schnell: { steps: 4 }, fill: { guidance: 30 } },
    limits: transformerLimits,
    prediction: 'flow',
    parts: ['clip_l', 't5xxl', 'vae']
  },
  flux2: {
    title: 'FLUX.2',
    defaults: { ...square(1024), steps: 28, cfg_scale: 1, guidance: 4, sampler: 'euler' },
    variants: { klein: { steps: 4, guidance: undefined } },
    limits: transformerLimits,
    prediction: 'flow',
    parts: ['llm', 'vae']
  },
  chroma: {
    title: 'Chroma',
    defaults: { ...square(1024), steps: 26, cfg_scale: 4, sampler: 'euler' },
    limits: transformerLimits,
    prediction: 'flow',
    parts: ['t5xxl', 'vae']
  },
  qwen_image: {
    title: 'Qwen-Image',
    defaults: { ...square(1024), steps: 20, cfg_scale: 2.5, sampler: 'euler', scheduler: 'discrete' },
    limits: transformerLimits,
    prediction: 'flow',
    parts: ['llm', 'vae']
  },
  z_image: {
    title: 'Z-Image',
    defaults: { ...square(1024), steps: 8, cfg_scale: 1, sampler: 'euler', scheduler: 'discrete' },
    limits: transformerLimits,
    prediction: 'flow',
    parts: ['llm', 'vae']
  },
  wan: {
    title: 'Wan 2.x',
    defaults: { width: 832, height: 480, steps: 20, cfg_scale: 6, sampler: 'euler', scheduler: 'discrete' },
    limits: transformerLimits,
    prediction: 'flow',
    parts: ['t5xxl', 'vae'],
    video: true
  },
  minit2i: {
    title: 'MiniT2I',
    defaults: { ...square(512), steps: 100, cfg_scale: 6, sampler: 'euler', scheduler: 'discrete' },
    variants: { tiny: { ...square(64), steps: 20 } },
    limits: { min_side: 64, max_side: 1024, multiple_of: 8, square_only: true },
    prediction: 'flow',
    parts: ['t5xxl']
  }
} as const satisfies Record<string, Architecture>

export type ArchitectureName = keyof typeof architectures

/** Looks up what is known about an architecture; undefined for names that are not in the table. */
export function architectureOf (name: string | null): Architecture | undefined {
  return name !== null && Object.hasOwn(architectures, name) ? architectures[name as ArchitectureName] : undefined
}

/** Defaults of an architecture with those of the variant over them; undefined when the architecture is not known. */
export function defaultsOf (name: string | null, variant?: string): ImageDefaults | undefined {
  const architecture = architectureOf(name)
  if (architecture === undefined) return undefined
  const changes = variant !== undefined && Object.hasOwn(architecture.variants ?? {}, variant) ? architecture.variants![variant] : {}
  return { ...architecture.defaults, ...changes }
}

/** One way to tell a kind of file. Rules are tried in order, each with every prefix, and the first that fits wins. */
export interface Rule {
  type: ModelType
  /** A key of `architectures`, or the role of a text encoder (`clip_l`, `t5xxl`, `llm`…), or null when the names don't tell. */
  architecture: string | null
  variant?: string
  /** What the names may begin with; `''` alone when absent. */
  prefixes?: readonly string[]
  /** Every one of these must be there; an inner list means one of them. */
  has: ReadonlyArray<string | readonly string[]>
  lacks?: readonly string[]
  lengths?: readonly Length[]
}

/** The first tensor of `of` that exists has the length `is` at `axis` (0 is the outermost). */
export interface Length {
  of: readonly string[]
  axis: number
  is: number
}

const diffusionPrefixes = ['model.diffusion_model.', '', 'diffusion_model.', 'model.diffusion_model.model.', 'model.', 'unet.', 'transformer.']
const controlPrefixes = ['control_model.', '']
const vaePrefixes = ['', 'first_stage_model.', 'vae.']
const encoderPrefixes = ['', 'text_encoder.', 'text_encoders.', 'cond_stage_model.', 'model.']

/** The cross attention of a UNet: its second axis is the width of the text encoder, and tells SD 1, 2 and XL apart. */
const crossAttention = ['input_blocks.1.1', 'input_blocks.2.1', 'input_blocks.4.1', 'down_blocks.0.attentions.0', 'down_blocks.1.attentions.0']
  .map(block => `${block}.transformer_blocks.0.attn2.to_k.weight`)
const textWidth = { sd1: 768, sd2: 1024, sdxl: 2048 } as const
type UnetName = keyof typeof textWidth

function unetRules (type: ModelType, prefixes: readonly string[], has: Rule['has'], variant?: string, lengths: readonly Length[] = []): Rule[] {
  return (Object.keys(textWidth) as UnetName[]).map(architecture => ({
    type, architecture, variant, prefixes, has: [...has, crossAttention], lengths: [...lengths, { of: crossAttention, axis: 1, is: textWidth[architecture] }]
  }))
}

const firstConvolution = ['input_blocks.0.0.weight', 'conv_in.weight']
/** Models that edit take more than the four channels of the latent image. */
function inputChannels (is: number): Length[] {
  return [{ of: firstConvolution, axis: 1, is }]
}
const hint = ['input_hint_block.0.weight', 'controlnet_cond_embedding.conv_in.weight']
const middleAttention = ['middle_block.1.norm.weight', 'middle_block.1.proj_in.weight', 'mid_block.attentions.0.norm.weight']

export const rules: readonly Rule[] = [
  ...unetRules('controlnet', controlPrefixes, [hint]),
  { type: 'controlnet', architecture: null, prefixes: controlPrefixes, has: [hint] },
  { type: 'controlnet', architecture: 'flux1', has: ['controlnet_x_embedder.weight'] },

  {
    type: 'diffusion',
    architecture: 'minit2i',
    variant: 'tiny',
    prefixes: diffusionPrefixes,
    has: ['net.img_embedder.proj1.weight', 'net.img_embedder.proj2.weight'],
    lengths: [{ of: ['net.img_embedder.proj2.weight'], axis: 0, is: 64 }]
  },
  { type: 'diffusion', architecture: 'minit2i', prefixes: diffusionPrefixes, has: ['net.img_embedder.proj1.weight'] },
  { type: 'diffusion', architecture: 'sd3', prefixes: diffusionPrefixes, has: ['joint_blocks.0.x_block.attn.qkv.weight'] },
  { type: 'diffusion', architecture: 'sd3', prefixes: diffusionPrefixes, has: ['transformer_blocks.0.attn.add_q_proj.weight', 'pos_embed.proj.weight'] },
  { type: 'diffusion', architecture: 'chroma', prefixes: diffusionPrefixes, has: ['distilled_guidance_layer.in_proj.weight'] },
  {
    type: 'diffusion',
    architecture: 'flux2',
    prefixes: diffusionPrefixes,
    has: ['double_stream_modulation_img.lin.weight', 'single_blocks.47.linear1.weight']
  },
  { type: 'diffusion', architecture: 'flux2', variant: 'klein', prefixes: diffusionPrefixes, has: ['double_stream_modulation_img.lin.weight'] },
  {
    type: 'diffusion',
    architecture: 'flux1',
    variant: 'fill',
    prefixes: diffusionPrefixes,
    has: ['double_blocks.0.img_attn.qkv.weight', 'img_in.weight'],
    lengths: [{ of: ['img_in.weight'], axis: 1, is: 384 }]
  },
  {
    type: 'diffusion',
    architecture: 'flux1',
    variant: 'dev',
    prefixes: diffusionPrefixes,
    has: ['double_blocks.0.img_attn.qkv.weight', 'guidance_in.in_layer.weight']
  },
  { type: 'diffusion', architecture: 'flux1', variant: 'schnell', prefixes: diffusionPrefixes, has: ['double_blocks.0.img_attn.qkv.weight', 'img_in.weight', 'vector_in.in_layer.weight'] },
  { type: 'diffusion', architecture: 'flux1', prefixes: diffusionPrefixes, has: ['single_transformer_blocks.0.attn.to_q.weight', 'transformer_blocks.0.attn.add_q_proj.weight'] },
  { type: 'diffusion', architecture: 'qwen_image', prefixes: diffusionPrefixes, has: ['transformer_blocks.0.img_mod.1.weight'] },
  { type: 'diffusion', architecture: 'z_image', prefixes: diffusionPrefixes, has: ['cap_embedder.0.weight', ['layers.0.attention.qkv.weight', 'layers.0.attention.to_q.weight', 'noise_refiner.0.attention.qkv.weight']] },
  { type: 'diffusion', architecture: 'wan', prefixes: diffusionPrefixes, has: ['blocks.0.cross_attn.norm_k.weight'] },
  {
    type: 'diffusion',
    architecture: 'sdxs',
    prefixes: diffusionPrefixes,
    has: ['input_blocks.0.0.weight', crossAttention],
    lacks: [...middleAttention, 'output_blocks.7.1.norm.weight', 'output_blocks.7.1.proj_in.weight'],
    lengths: [{ of: crossAttention, axis: 1, is: 768 }]
  },
  ...unetRules('diffusion', diffusionPrefixes, [firstConvolution], 'inpaint', inputChannels(9)),
  ...unetRules('diffusion', diffusionPrefixes, [firstConvolution], 'pix2pix', inputChannels(8)),
  ...unetRules('diffusion', diffusionPrefixes, [firstConvolution]),

  { type: 'upscaler', architecture: 'esrgan', has: ['conv_first.weight', 'body.0.rdb1.conv1.weight'] },
  { type: 'upscaler', architecture: 'esrgan', has: ['model.0.weight', 'model.1.sub.0.RDB1.conv1.0.weight'] },
  { type: 'taesd', architecture: null, prefixes: vaePrefixes, has: [['decoder.layers.0.weight', 'decoder.layers.1.weight', 'decoder.layers.2.conv.0.weight', 'decoder.layers.3.conv.0.weight']] },
  { type: 'taesd', architecture: 'wan', prefixes: vaePrefixes, has: ['decoder.1.weight', 'decoder.3.conv.0.weight'] },
  { type: 'vae', architecture: 'wan', prefixes: vaePrefixes, has: ['decoder.middle.0.residual.0.gamma'] },
  { type: 'vae', architecture: null, prefixes: vaePrefixes, has: ['decoder.conv_in.weight', 'decoder.conv_out.weight'] },

  { type: 'embedding', architecture: 'sdxl', has: ['clip_l', 'clip_g'] },
  { type: 'embedding', architecture: 'sd1', has: ['emb_params'], lengths: [{ of: ['emb_params'], axis: 1, is: 768 }] },
  { type: 'embedding', architecture: 'sd2', has: ['emb_params'], lengths: [{ of: ['emb_params'], axis: 1, is: 1024 }] },
  { type: 'embedding', architecture: null, has: [['emb_params', 'clip_l', 'clip_g', 'string_to_param.*']] },

  ...textEncoder('clip_l', 768),
  ...textEncoder('clip_h', 1024),
  ...textEncoder('clip_g', 1280),
  { type: 'clip_vision', architecture: 'clip_vision', has: [['vision_model.embeddings.class_embedding', 'visual.class_embedding']] },
  { type: 'text_encoder', architecture: 't5xxl', prefixes: encoderPrefixes, has: [['encoder.block.0.layer.0.SelfAttention.q.weight', 'enc.blk.0.attn_q.weight']] },
  {
    type: 'text_encoder',
    architecture: 'llm',
    prefixes: encoderPrefixes,
    has: [['model.layers.0.self_attn.q_proj.weight', 'layers.0.self_attn.q_proj.weight', 'language_model.layers.0.self_attn.q_proj.weight', 'blk.0.attn_q.weight']]
  }
]

function textEncoder (architecture: string, width: number): Rule[] {
  const embeddings = ['text_model.embeddings.token_embedding.weight', 'transformer.text_model.embeddings.token_embedding.weight', 'token_embedding.weight']
  return [{ type: 'text_encoder', architecture, prefixes: encoderPrefixes, has: [embeddings], lengths: [{ of: embeddings, axis: 1, is: width }] }]
}

/** Endings of tensor names that only adapters (LoRA, LoHa, LoKr, and full differences) have. */
export const adapterName = /[._]lora[._](?:up|down|mid|A|B|linear)(?:$|\.)|\.lora_[AB]$|\.hada_[wt]\d|\.lokr_[wt]\d|\.(?:diff|diff_b|dora_scale)$/

/** The base model of an adapter, by the modules that it names; tried in order, the first that any name matches wins. */
export const adapterRules: ReadonlyArray<readonly [architecture: ArchitectureName, name: RegExp]> = [
  ['qwen_image', /(?:^|[._])transformer_blocks[._]\d+[._](?:img_mod|txt_mod|img_mlp|txt_mlp)[._]/],
  ['sd3', /(?:^|[._])joint_blocks[._]\d/],
  ['flux2', /double_stream_modulation_img/],
  ['chroma', /distilled_guidance_layer/],
  ['flux1', /(?:^|[._])(?:double_blocks|single_blocks|single_transformer_blocks)[._]\d/],
  ['wan', /(?:^|[._])blocks[._]\d+[._]cross_attn[._]/],
  ['z_image', /(?:^|[._])(?:layers|noise_refiner|context_refiner)[._]\d+[._](?:attention|feed_forward)[._]/],
  ['sdxl', /^lora_te2_|(?:^|[._])text_encoder_2[._]|transformer_blocks[._][2-9][._].*attn/]
]

/** The module of an adapter whose input is the width of the text encoder, as in `textWidth`. */
export const adapterTextModule = /attn2[._](?:processor[._])?to_k[._](?:lora[._])?(?:lora_down|down|lora_A|A)/

/** Architecture of a UNet by the width of its text encoder. */
export function unetOfTextWidth (width: number | undefined): UnetName | undefined {
  return (Object.keys(textWidth) as UnetName[]).find(name => textWidth[name] === width)
}

/** What trainers write about the base model, in the order in which the patterns are tried → architecture. */
export const baseModelNames: ReadonlyArray<readonly [pattern: RegExp, architecture: ArchitectureName]> = [
  [/flux[-_. ]?2/i, 'flux2'], [/flux/i, 'flux1'], [/chroma/i, 'chroma'], [/qwen[-_ ]?image/i, 'qwen_image'],
  [/z[-_ ]?image|lumina2/i, 'z_image'], [/wan/i, 'wan'], [/stable-diffusion-v?3|sd_?v?3/i, 'sd3'],
  [/sdxl|diffusion-xl/i, 'sdxl'], [/stable-diffusion-v2|sd_?v?2/i, 'sd2'], [/stable-diffusion-v1|sd_?v?1/i, 'sd1']
]
