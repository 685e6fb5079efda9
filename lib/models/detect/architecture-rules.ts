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
  /** A name without a prefix that must exist. */
  mark?: string
  lengths?: readonly Length[]
  /** Why the engine can't use such a file. */
  unsupported?: string
}

/** The first tensor of `of` that exists has the length `is` at `axis` (0 is the outermost). */
interface Length {
  of: readonly string[]
  axis: number
  is: number
  /** Whether none of these tensors need exist. */
  optional?: true
}

/** The cross attention of a UNet. Its second axis, the width of the text encoder, tells SD 1, 2 and XL apart. */
const crossAttention = [
  'input_blocks.1.1', 'input_blocks.2.1', 'input_blocks.4.1', 'down_blocks.0.attentions.0', 'down_blocks.1.attentions.0'
].map(block => `${block}.transformer_blocks.0.attn2.to_k.weight`)
const textWidth = { sd1: 768, sd2: 1024, sdxl: 2048 } as const
type UnetName = keyof typeof textWidth
export const unetNames = Object.keys(textWidth) as UnetName[]

/** Stable Video Diffusion: a UNet of SD 2 with a further axis. */
const videoUnet = ['input_blocks.1.0.time_mixer.mix_factor', 'down_blocks.0.resnets.0.time_mixer.mix_factor']
/** Kolors: a UNet of SDXL behind a language model. */
const languageUnet = ['encoder_hid_proj.weight']
const otherUnets = [...videoUnet, ...languageUnet]

function unets (rule: Omit<Rule, 'architecture'>): Rule[] {
  return unetNames.map(architecture => ({
    ...rule,
    lacks: [...rule.lacks ?? [], ...otherUnets],
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

/** A ControlNet has a copy of the network that it controls. */
const controlMarks = [
  'controlnet_blocks.0.weight', 'controlnet_x_embedder.weight', 'controlnet_cond_embedding.conv_in.weight',
  'input_hint_block.0.weight'
]

const controlNets: Rule[] = (() => {
  const type = 'controlnet'
  const prefixes = ['control_model.', '', 'controlnet.', 'module.control_model.']
  const has = [['input_hint_block.0.weight', 'controlnet_cond_embedding.conv_in.weight']]
  const unsupported = 'The engine loads ControlNets of SD 1, 2 and XL only.'
  const ofTransformer = (architecture: string, ...marks: Rule['has']) => ({
    type, architecture, has: ['controlnet_blocks.0.weight', ...marks], unsupported
  } as const)
  return [
    { type, architecture: null, has: ['lora_controlnet'], unsupported: 'The engine loads no Control-LoRAs.' },
    ...unets({
      type,
      prefixes,
      has,
      mark: 'difference',
      unsupported: 'It is the difference to its base model, which the engine does not add. Take the whole ControlNet.'
    }),
    ...unets({ type, prefixes, has }),
    ofTransformer('sd3', 'pos_embed_input.proj.weight'),
    ofTransformer('qwen_image', [
      'transformer_blocks.0.img_mlp.net.0.proj.weight', 'transformer_blocks.0.img_mod.1.weight'
    ]),
    ofTransformer('flux1', [
      'controlnet_x_embedder.weight', 'double_blocks.0.img_attn.qkv.weight', 'double_blocks.0.img_attn.proj.weight'
    ]),
    { type, architecture: 'flux1', has: ['controlnet_x_embedder.weight'], unsupported },
    {
      type,
      architecture: null,
      has: [['controlnet_blocks.0.weight', 'controlnet_blocks.0.linear.weight']],
      unsupported
    },
    { type, architecture: null, prefixes, has }
  ]
})()

const fluxAttention = 'double_blocks.0.img_attn.qkv.weight'
/** Of relatives of FLUX.1 with other text encoders: HunyuanVideo, which makes videos, and Ovis-Image. */
const fluxRelatives = [
  'txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1.weight', 'double_blocks.0.img_mlp.gate_proj.weight'
]
/** Its text encoder is T5; LongCat-Image has another one. */
const fluxText = { of: ['txt_in.weight'], axis: 1, is: 4096, optional: true } as const
const fluxInput = (variant: string, is: number) => ({
  architecture: 'flux1',
  variant,
  has: [fluxAttention],
  lacks: fluxRelatives,
  lengths: [{ of: ['img_in.weight'], axis: 1, is }, fluxText]
})
const flux2Modulation = 'double_stream_modulation_img.lin.weight'
const miniPatch = 'net.img_embedder.proj2.weight'

const layerAttention = ['layers.0.attention.qkv.weight', 'layers.0.attention.to_q.weight']

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
  {
    architecture: 'flux1',
    variant: 'dev',
    has: [fluxAttention, 'guidance_in.in_layer.weight'],
    lacks: fluxRelatives,
    lengths: [fluxText]
  },
  {
    architecture: 'flux1',
    variant: 'schnell',
    has: [fluxAttention, 'img_in.weight', 'vector_in.in_layer.weight'],
    lacks: fluxRelatives,
    lengths: [fluxText]
  },
  {
    architecture: 'flux1',
    has: ['single_transformer_blocks.0.attn.to_q.weight', 'transformer_blocks.0.attn.add_q_proj.weight']
  },
  {
    architecture: 'qwen_image',
    has: ['transformer_blocks.0.img_mod.1.weight'],
    // Mage-Flow has 128 inputs.
    lengths: [{ of: ['img_in.weight'], axis: 1, is: 64, optional: true }]
  },
  // Its relatives (Lumina 2, Ideogram 4) have other widths.
  { architecture: 'z_image', has: ['cap_embedder.0.weight'], lengths: [{ of: layerAttention, axis: 1, is: 3840 }] },
  { architecture: 'wan', has: ['blocks.0.cross_attn.norm_k.weight'] }
]

const diffusionModels: Rule[] = ((): Rule[] => {
  const type = 'diffusion'
  const prefixes = [
    'model.diffusion_model.', '', 'diffusion_model.', 'model.diffusion_model.model.', 'model.', 'unet.', 'transformer.',
    'model.model.', 'module.', 'dit.'
  ]
  const has = [firstConvolution]
  // Models that edit an image take it in more channels, beside the four of the latent image.
  const channels = (is: number) => [{ of: firstConvolution, axis: 1, is }]
  const other = { type, architecture: null, prefixes } as const
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
    ...unets({
      type,
      prefixes,
      has,
      mark: 'edm_mean',
      unsupported: 'It predicts as EDM does (Playground 2.5), which the engine can\'t.'
    }),
    ...unets({ type, prefixes, has, variant: 'inpaint', lengths: channels(9) }),
    ...unets({ type, prefixes, has, variant: 'pix2pix', lengths: channels(8) }),
    ...unets({ type, prefixes, has, lengths: channels(4) }),
    // SD 2 has such models, for depth and for enlarging.
    ...unets({ type, prefixes, has, unsupported: 'It takes more inputs than a text and an image.' }),
    { ...other, has: [firstConvolution, videoUnet], unsupported: 'It makes videos; this server makes images.' },
    { ...other, has: [firstConvolution, languageUnet], unsupported: 'The engine knows no Kolors.' },
    {
      ...other,
      has: [firstConvolution, crossAttention],
      lengths: [{ of: crossAttention, axis: 1, is: 1280 }],
      unsupported: 'It is the refiner of SDXL, which draws no images by itself. Take the base model.'
    }
  ]
})().map(rule => ({ ...rule, lacks: [...rule.lacks ?? [], ...controlMarks] }))

/** Autoencoders are called by the family that is known for them: those of SDXL and SD 1 look the same. */
const autoencoders: Rule[] = ([
  {
    type: 'taesd',
    architecture: null,
    has: [[0, 1, 2, 3].flatMap(layer => [`decoder.layers.${layer}.weight`, `decoder.layers.${layer}.conv.0.weight`])]
  },
  { type: 'taesd', architecture: 'wan', has: ['decoder.1.weight', 'decoder.3.conv.0.weight'] },
  { type: 'vae', architecture: 'wan', has: ['decoder.middle.0.residual.0.gamma'] },
  ...([['sd', 4], ['flux1', 16], ['flux2', 32]] as const).map(([architecture, is]) => ({
    type: 'vae' as const,
    architecture,
    has: ['decoder.conv_in.weight', 'decoder.conv_out.weight'],
    lacks: ['decoder.time_conv_out.weight'],
    lengths: [{ of: ['decoder.conv_in.weight'], axis: 1, is }]
  })),
  { type: 'vae', architecture: null, has: ['decoder.conv_in.weight', 'decoder.conv_out.weight'] }
] satisfies Rule[]).map(rule => ({ ...rule, prefixes: ['', 'first_stage_model.', 'vae.'] }))

const upscalers: Rule[] = [
  ...([
    ['conv_first.weight', 'body.0.rdb1.conv1.weight'], ['model.0.weight', 'model.1.sub.0.RDB1.conv1.0.weight']
  ] as const).flatMap(([first, body]): Rule[] => [
    { type: 'upscaler', architecture: 'esrgan', has: [first, body], lengths: [{ of: [first], axis: 1, is: 3 }] },
    {
      type: 'upscaler',
      architecture: 'esrgan',
      has: [first, body],
      unsupported: 'The engine loads no ESRGAN that takes its image apart first (×2plus, ×1 with unshuffle).'
    }
  ]),
  ...([
    ['SRVGGNet (compact)', ['body.0.weight', 'body.2.weight'], 'body.0.weight'],
    ['SPAN', [['block_1.c1_r.sk.weight', 'conv_1.sk.weight']], 'conv_1.sk.weight'],
    // SwinIR, DAT, HAT and others.
    ['transformer', ['conv_first.weight', [
      'layers.0.blocks.0.attn.qkv.weight', 'layers.0.residual_group.blocks.0.attn.qkv.weight',
      'layers.0.residual_group.blocks.0.norm1.weight', 'before_RG.1.weight'
    ]], 'conv_first.weight']
  ] as const).map(([kind, has, first]): Rule => ({
    type: 'upscaler',
    architecture: null,
    prefixes: ['', 'params.', 'params_ema.'],
    has,
    lengths: [{ of: [first], axis: 1, is: 3 }],
    unsupported: `It is an upscaler of the kind ${kind}; the engine loads ESRGAN only.`
  }))
]

function embedding (architecture: UnetName): Rule {
  const of = ['emb_params']
  return { type: 'embedding', architecture, has: of, lengths: [{ of, axis: 1, is: textWidth[architecture] }] }
}
const embeddings: Rule[] = [
  embedding('sd1'),
  embedding('sd2'),
  { type: 'embedding', architecture: 'sdxl', has: ['clip_l', 'clip_g'], lacks: ['t5xxl'] },
  {
    type: 'embedding',
    architecture: 'sdxl',
    has: ['text_encoders_0', 'text_encoders_1'],
    lengths: [{ of: ['text_encoders_0'], axis: 1, is: 768 }, { of: ['text_encoders_1'], axis: 1, is: 1280 }]
  },
  {
    type: 'embedding',
    architecture: null,
    has: [['emb_params', 'clip_l', 'clip_g', 'string_to_param.*', 'text_encoders_0', 'text_encoders_1']]
  }
]

function clip (architecture: string, is: number, positionCount = 77): Rule {
  const of = [
    'text_model.embeddings.token_embedding.weight', 'transformer.text_model.embeddings.token_embedding.weight',
    'token_embedding.weight'
  ]
  const positions = [
    'text_model.embeddings.position_embedding.weight', 'transformer.text_model.embeddings.position_embedding.weight',
    'positional_embedding'
  ]
  return {
    type: 'text_encoder',
    architecture,
    has: [of],
    lengths: [{ of, axis: 1, is }, { of: positions, axis: 0, is: positionCount, optional: true }]
  }
}

/** The attention of T5, as diffusers and as llama.cpp name it. */
const t5Attention = ['encoder.block.0.layer.0.SelfAttention.q.weight', 'enc.blk.0.attn_q.weight']
/** uMT5 has a bias in each block, T5 in the first one. */
const manyBiases = [
  'encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight', 'enc.blk.1.attn_rel_b.weight'
]
const textEncoders: Rule[] = ([
  clip('clip_l', 768),
  clip('clip_h', 1024),
  clip('clip_g', 1280),
  clip('long_clip', 768, 248),
  { type: 'text_encoder', architecture: 'umt5', has: [t5Attention, manyBiases] },
  {
    type: 'text_encoder',
    architecture: 'umt5',
    has: [t5Attention],
    lengths: [{ of: ['shared.weight', 'encoder.embed_tokens.weight', 'token_embd.weight'], axis: 0, is: 256_384 }]
  },
  {
    type: 'text_encoder',
    architecture: 't5xxl',
    has: [t5Attention],
    lengths: [{ of: t5Attention, axis: 1, is: 4096 }]
  },
  // Of another size, such as T5 base and ByT5.
  { type: 'text_encoder', architecture: 't5', has: [t5Attention] },
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

/** Of networks, which may have other parts of a model beside them in one file. */
export const networkRules: readonly Rule[] = [...controlNets, ...diffusionModels]

export const partRules: readonly Rule[] = [
  ...upscalers, ...autoencoders, ...embeddings, ...textEncoders, ...visionEncoders
]

/** The UNet whose text encoder has this width. */
export function unetOfTextWidth (width: number | undefined): UnetName | undefined {
  return unetNames.find(name => textWidth[name] === width)
}
