import type { ArchitectureName } from './architectures.ts'
import type { ModelType } from '../types.ts'

/**
 * How to tell types and architectures (SDXL from SD 1) by the names and shapes of tensors, as data. The names are those
 * that stable-diffusion.cpp (97d2990) takes: of the original releases, ComfyUI, diffusers, kohya-ss and PEFT.
 */

/** One way to recognise a kind of file. Each rule is tried in order, with every prefix; the first that fits wins. */
export interface Rule {
  type: ModelType
  /** A key of `architectures`, the role of a text encoder (`clip_l`…), or null when the names don't show it. */
  architecture: string | null
  variant?: string
  /** Prefixes of the names; `['']` by default. */
  prefixes?: readonly string[]
  /** Names that must all exist; of an inner list one. */
  has: ReadonlyArray<string | readonly string[]>
  lacks?: readonly string[]
  lengths?: readonly Length[]
}

/** The first tensor of `of` that exists has the length `is` at `axis` (0 is the outermost). */
interface Length {
  of: readonly string[]
  axis: number
  is: number
}

/** The cross attention of a UNet. Its second axis, the width of the text encoder, tells SD 1, 2 and XL apart. */
const crossAttention = [
  'input_blocks.1.1', 'input_blocks.2.1', 'input_blocks.4.1', 'down_blocks.0.attentions.0', 'down_blocks.1.attentions.0'
].map(block => `${block}.transformer_blocks.0.attn2.to_k.weight`)
const textWidth = { sd1: 768, sd2: 1024, sdxl: 2048 } as const
type UnetName = keyof typeof textWidth
const unetNames = Object.keys(textWidth) as UnetName[]

/** Stable Video Diffusion: a UNet of SD 2 with a further axis. */
const videoUnet = ['input_blocks.1.0.time_mixer.mix_factor', 'down_blocks.0.resnets.0.time_mixer.mix_factor']

function unets (rule: Omit<Rule, 'architecture'>): Rule[] {
  return unetNames.map(architecture => ({
    ...rule,
    lacks: [...rule.lacks ?? [], ...videoUnet],
    architecture,
    has: [...rule.has, crossAttention],
    lengths: [...rule.lengths ?? [], { of: crossAttention, axis: 1, is: textWidth[architecture] }]
  }))
}

const firstConvolution = ['input_blocks.0.0.weight', 'conv_in.weight']
const middleAttention = [
  'middle_block.1.norm.weight', 'middle_block.1.proj_in.weight', 'mid_block.attentions.0.norm.weight'
]
const lateAttention = ['output_blocks.7.1.norm.weight', 'output_blocks.7.1.proj_in.weight']

const controlNets: Rule[] = (() => {
  const prefixes = ['control_model.', '']
  const has = [['input_hint_block.0.weight', 'controlnet_cond_embedding.conv_in.weight']]
  return [
    ...unets({ type: 'controlnet', prefixes, has }),
    { type: 'controlnet', architecture: null, prefixes, has },
    { type: 'controlnet', architecture: 'flux1', has: ['controlnet_x_embedder.weight'] }
  ]
})()

const fluxAttention = 'double_blocks.0.img_attn.qkv.weight'
/** Of relatives of FLUX.1 with other text encoders: HunyuanVideo, which makes videos, and Ovis-Image. */
const fluxRelatives = [
  'txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1.weight', 'double_blocks.0.img_mlp.gate_proj.weight'
]
const fluxInput = (variant: string, is: number) => ({
  architecture: 'flux1',
  variant,
  has: [fluxAttention],
  lacks: fluxRelatives,
  lengths: [{ of: ['img_in.weight'], axis: 1, is }]
})
const flux2Modulation = 'double_stream_modulation_img.lin.weight'
const miniPatch = 'net.img_embedder.proj2.weight'

const transformers: Array<Omit<Rule, 'type' | 'prefixes'>> = [
  { architecture: 'minit2i', variant: 'tiny', has: [miniPatch], lengths: [{ of: [miniPatch], axis: 0, is: 64 }] },
  { architecture: 'minit2i', has: ['net.img_embedder.proj1.weight'] },
  { architecture: 'sd3', has: ['joint_blocks.0.x_block.attn.qkv.weight'] },
  { architecture: 'sd3', has: ['transformer_blocks.0.attn.add_q_proj.weight', 'pos_embed.proj.weight'] },
  {
    architecture: 'chroma_radiance',
    has: ['distilled_guidance_layer.in_proj.weight', 'nerf_final_layer_conv.conv.weight']
  },
  { architecture: 'chroma', has: ['distilled_guidance_layer.in_proj.weight'] },
  { architecture: 'flux2', has: [flux2Modulation, 'single_blocks.47.linear1.weight'] },
  { architecture: 'flux2', variant: 'klein', has: [flux2Modulation] },
  fluxInput('fill', 384),
  fluxInput('control', 128),
  fluxInput('flex2', 196),
  { architecture: 'flux1', variant: 'dev', has: [fluxAttention, 'guidance_in.in_layer.weight'], lacks: fluxRelatives },
  {
    architecture: 'flux1',
    variant: 'schnell',
    has: [fluxAttention, 'img_in.weight', 'vector_in.in_layer.weight'],
    lacks: fluxRelatives
  },
  {
    architecture: 'flux1',
    has: ['single_transformer_blocks.0.attn.to_q.weight', 'transformer_blocks.0.attn.add_q_proj.weight']
  },
  { architecture: 'qwen_image', has: ['transformer_blocks.0.img_mod.1.weight'] },
  {
    architecture: 'z_image',
    has: ['cap_embedder.0.weight', ['layers.0.attention.qkv.weight', 'layers.0.attention.to_q.weight']]
  },
  { architecture: 'wan', has: ['blocks.0.cross_attn.norm_k.weight'] }
]

const diffusionModels: Rule[] = (() => {
  const type = 'diffusion'
  const prefixes = [
    'model.diffusion_model.', '', 'diffusion_model.', 'model.diffusion_model.model.', 'model.', 'unet.', 'transformer.'
  ]
  const has = [firstConvolution]
  // Models that edit an image take it in more channels, beside the four of the latent image.
  const channels = (is: number) => [{ of: firstConvolution, axis: 1, is }]
  return [
    ...transformers.map(rule => ({ ...rule, type, prefixes } as const)),
    {
      type,
      architecture: 'sdxs',
      prefixes,
      has: ['input_blocks.0.0.weight', crossAttention],
      lacks: [...middleAttention, ...lateAttention],
      lengths: [{ of: crossAttention, axis: 1, is: textWidth.sd1 }]
    },
    ...unets({ type, prefixes, has, variant: 'inpaint', lengths: channels(9) }),
    ...unets({ type, prefixes, has, variant: 'pix2pix', lengths: channels(8) }),
    ...unets({ type, prefixes, has })
  ]
})()

const autoencoders: Rule[] = ([
  {
    type: 'taesd',
    architecture: null,
    has: [[0, 1, 2, 3].flatMap(layer => [`decoder.layers.${layer}.weight`, `decoder.layers.${layer}.conv.0.weight`])]
  },
  { type: 'taesd', architecture: 'wan', has: ['decoder.1.weight', 'decoder.3.conv.0.weight'] },
  { type: 'vae', architecture: 'wan', has: ['decoder.middle.0.residual.0.gamma'] },
  { type: 'vae', architecture: null, has: ['decoder.conv_in.weight', 'decoder.conv_out.weight'] }
] satisfies Rule[]).map(rule => ({ ...rule, prefixes: ['', 'first_stage_model.', 'vae.'] }))

const upscalers: Rule[] = [
  { type: 'upscaler', architecture: 'esrgan', has: ['conv_first.weight', 'body.0.rdb1.conv1.weight'] },
  { type: 'upscaler', architecture: 'esrgan', has: ['model.0.weight', 'model.1.sub.0.RDB1.conv1.0.weight'] }
]

function embedding (architecture: UnetName): Rule {
  const of = ['emb_params']
  return { type: 'embedding', architecture, has: of, lengths: [{ of, axis: 1, is: textWidth[architecture] }] }
}
const embeddings: Rule[] = [
  embedding('sd1'),
  embedding('sd2'),
  { type: 'embedding', architecture: 'sdxl', has: ['clip_l', 'clip_g'] },
  { type: 'embedding', architecture: null, has: [['emb_params', 'clip_l', 'clip_g', 'string_to_param.*']] }
]

function clip (architecture: string, is: number): Rule {
  const of = [
    'text_model.embeddings.token_embedding.weight', 'transformer.text_model.embeddings.token_embedding.weight',
    'token_embedding.weight'
  ]
  return { type: 'text_encoder', architecture, has: [of], lengths: [{ of, axis: 1, is }] }
}
const textEncoders: Rule[] = ([
  clip('clip_l', 768),
  clip('clip_h', 1024),
  clip('clip_g', 1280),
  {
    type: 'text_encoder',
    architecture: 't5xxl',
    has: [['encoder.block.0.layer.0.SelfAttention.q.weight', 'enc.blk.0.attn_q.weight']]
  },
  {
    type: 'text_encoder',
    architecture: 'llm',
    has: [[
      'model.layers.0.self_attn.q_proj.weight', 'layers.0.self_attn.q_proj.weight',
      'language_model.layers.0.self_attn.q_proj.weight', 'language_model.model.layers.0.self_attn.q_proj.weight',
      'blk.0.attn_q.weight'
    ]]
  }
] satisfies Rule[]).map(rule => ({
  ...rule, prefixes: ['', 'text_encoder.', 'text_encoders.', 'cond_stage_model.', 'model.']
}))

const visionEncoders: Rule[] = [{
  type: 'clip_vision',
  architecture: 'clip_vision',
  has: [['vision_model.embeddings.class_embedding', 'visual.class_embedding']]
}]

const ipAttention = ['ip_adapter.1.to_k_ip.weight']

/** Adapters for an image of a subject. Tried first, because some contain a LoRA. */
export const subjectRules: readonly Rule[] = [
  ...(['sd1', 'sdxl'] as const).map(architecture => ({
    type: 'ip_adapter' as const,
    architecture,
    has: ipAttention,
    lengths: [{ of: ipAttention, axis: 1, is: textWidth[architecture] }]
  })),
  { type: 'ip_adapter', architecture: null, has: [['image_proj.proj.weight', 'image_proj.latents'], ipAttention] },
  {
    type: 'photo_maker',
    architecture: 'sdxl',
    prefixes: ['', 'id_encoder.', 'pmid.'],
    has: ['fuse_module.mlp1.fc1.weight', 'vision_model.embeddings.class_embedding']
  }
]

export const rules: readonly Rule[] = [
  ...controlNets, ...diffusionModels, ...upscalers, ...autoencoders, ...embeddings, ...textEncoders, ...visionEncoders
]

/** Endings of tensor names in adapters only: LoRA, LoHa, LoKr, and full differences. */
export const adapterName = new RegExp([
  '[._]lora[._](?:up|down|mid|A|B|linear)(?:$|\\.)', '\\.lora_[AB]$', '\\.hada_[wt]\\d', '\\.lokr_[wt]\\d',
  '\\.(?:diff|diff_b|dora_scale)$'
].join('|'))

/** The base model of an adapter by the names of its modules: the first rule that matches any name wins. */
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

/** The module of an adapter whose input is as wide as the text encoder. */
export const adapterTextModule = /attn2[._](?:processor[._])?to_k[._](?:lora[._])?(?:lora_down|down|lora_A|A)/

/** The UNet whose text encoder has this width. */
export function unetOfTextWidth (width: number | undefined): UnetName | undefined {
  return unetNames.find(name => textWidth[name] === width)
}

/** Names of the base model in the metadata of trainers; tried in order. */
export const baseModelNames: ReadonlyArray<readonly [name: RegExp, architecture: ArchitectureName]> = [
  [/flux[-_. ]?2/i, 'flux2'], [/flux/i, 'flux1'], [/chroma/i, 'chroma'], [/qwen[-_ ]?image/i, 'qwen_image'],
  [/z[-_ ]?image|lumina2/i, 'z_image'], [/wan/i, 'wan'], [/stable-diffusion-v?3|sd_?v?3/i, 'sd3'],
  [/sdxl|diffusion-xl/i, 'sdxl'], [/stable-diffusion-v2|sd_?v?2/i, 'sd2'], [/stable-diffusion-v1|sd_?v?1/i, 'sd1']
]
