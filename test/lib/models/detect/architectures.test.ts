import { join } from 'node:path'
import t from 'tap'
import { architectures, defaultsOf } from '../../../../lib/models/detect/architectures.ts'
import { type Summary, inspectHeader } from '../../../../lib/models/detect/inspect.ts'
import { modelOfFile } from '../../../../lib/models/model.ts'
import { readModelHeader, parseModelHeader } from '../../../../lib/models/headers/read-header.ts'
import { networkRules, partRules } from '../../../../lib/models/detect/architecture-rules.ts'
import { type CheckpointKind, writeCheckpoint } from '../../../../bin/support/demo-model/checkpoints.ts'
import { type FixtureTensor, gguf, safetensors, sourceOf, typical } from '../../../fixtures/headers.ts'

async function inspect (bytes: Buffer): Promise<Summary> {
  return inspectHeader(await parseModelHeader(sourceOf(bytes)))
}

/** Tensors that all have the same small shape, except where another one is given. */
function tensors (...names: Array<string | [name: string, shape: number[]]>): Record<string, FixtureTensor> {
  return Object.fromEntries(names.map(entry => {
    const [name, shape] = typeof entry === 'string' ? [entry, [2, 2]] : entry
    return [name, { shape }]
  }))
}

function prefixed (prefix: string, of: Record<string, FixtureTensor>): Record<string, FixtureTensor> {
  return Object.fromEntries(Object.entries(of).map(([name, tensor]) => [prefix + name, tensor]))
}

const attention = 'transformer_blocks.0.attn2.to_k.weight'
const unet = (width: number, channels = 4): Record<string, FixtureTensor> => tensors(
  ['input_blocks.0.0.weight', [32, channels, 3, 3]],
  [`input_blocks.4.1.${attention}`, [32, width]],
  'middle_block.1.norm.weight',
  ...width === 2048 ? ['label_emb.0.0.weight'] : [])

/** What each kind of file looks like, by the names that its makers use. */
type Kind = [what: string, of: Record<string, FixtureTensor>, expected: Partial<Summary>]
const kinds: Kind[] = [
  ['SD 1 checkpoint', typical.sd1, { type: 'checkpoint', architecture: 'sd1', prediction: 'eps' }],
  ['SD 1 UNet alone', unet(768), { type: 'diffusion', architecture: 'sd1' }],
  [
    'SD 1 UNet of diffusers',
    tensors(['conv_in.weight', [32, 4, 3, 3]], [`down_blocks.0.attentions.0.${attention}`, [32, 768]]),
    { type: 'diffusion', architecture: 'sd1' }
  ],
  ['SD 1 inpainting', unet(768, 9), { type: 'diffusion', architecture: 'sd1', variant: 'inpaint' }],
  ['SD 2 inpainting', unet(1024, 9), { type: 'diffusion', architecture: 'sd2', variant: 'inpaint' }],
  ['SDXL inpainting', unet(2048, 9), { type: 'diffusion', architecture: 'sdxl', variant: 'inpaint' }],
  ['SD 1 pix2pix', unet(768, 8), { type: 'diffusion', architecture: 'sd1', variant: 'pix2pix' }],
  [
    'SD 2 checkpoint',
    { ...prefixed('model.diffusion_model.', unet(1024)), ...tensors('cond_stage_model.model.ln_final.weight') },
    { type: 'checkpoint', architecture: 'sd2' }
  ],
  [
    'SDXL checkpoint',
    { ...prefixed('model.diffusion_model.', unet(2048)), ...tensors('conditioner.embedders.1.model.ln_final.weight') },
    { type: 'checkpoint', architecture: 'sdxl' }
  ],
  [
    'SDXL with v prediction',
    { ...prefixed('model.diffusion_model.', unet(2048)), ...tensors('v_pred', 'conditioner.embedders.1.model.ln_final.weight') },
    { type: 'checkpoint', architecture: 'sdxl', prediction: 'v' }
  ],
  [
    'SD 3 checkpoint',
    tensors('model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight', 'text_encoders.clip_g.logit_scale',
      'first_stage_model.decoder.conv_in.weight'),
    { type: 'checkpoint', architecture: 'sd3' }
  ],
  ['FLUX.1 schnell', typical.flux, { type: 'diffusion', architecture: 'flux1', variant: 'schnell' }],
  [
    'FLUX.1 dev', { ...typical.flux, ...tensors('guidance_in.in_layer.weight') },
    { type: 'diffusion', architecture: 'flux1', variant: 'dev' }
  ],
  [
    'FLUX.1 fill', { ...typical.flux, ...tensors('guidance_in.in_layer.weight', ['img_in.weight', [32, 384]]) },
    { type: 'diffusion', architecture: 'flux1', variant: 'fill' }
  ],
  [
    'FLUX.1 with a control image', { ...typical.flux, ...tensors('guidance_in.in_layer.weight', ['img_in.weight', [32, 128]]) },
    { type: 'diffusion', architecture: 'flux1', variant: 'control' }
  ],
  [
    'Flex.2', { ...typical.flux, ...tensors('guidance_in.in_layer.weight', ['img_in.weight', [32, 196]]) },
    { type: 'diffusion', architecture: 'flux1', variant: 'flex2' }
  ],
  [
    'HunyuanVideo, named like FLUX.1',
    {
      ...typical.flux,
      ...tensors('guidance_in.in_layer.weight', 'txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1.weight')
    },
    { type: 'unknown', architecture: null }
  ],
  [
    'Ovis-Image, named like FLUX.1', { ...typical.flux, ...tensors('double_blocks.0.img_mlp.gate_proj.weight') },
    { type: 'unknown', architecture: null }
  ],
  [
    'Stable Video Diffusion, named like SD 2',
    prefixed('model.diffusion_model.', { ...unet(1024, 8), ...tensors('input_blocks.1.0.time_mixer.mix_factor') }),
    { type: 'diffusion', architecture: null, unsupported: 'It makes videos; this server makes images.' }
  ],
  [
    'FLUX.1 with everything',
    {
      ...prefixed('model.diffusion_model.', typical.flux),
      ...tensors('text_encoders.t5xxl.transformer.shared.weight')
    },
    { type: 'checkpoint', architecture: 'flux1' }
  ],
  [
    'Chroma', { ...typical.flux, ...tensors('distilled_guidance_layer.in_proj.weight') },
    { type: 'diffusion', architecture: 'chroma' }
  ],
  [
    'Chroma1-Radiance',
    { ...typical.flux, ...tensors('distilled_guidance_layer.in_proj.weight', 'nerf_final_layer_conv.conv.weight') },
    { type: 'diffusion', architecture: 'chroma_radiance' }
  ],
  [
    'FLUX.2 dev',
    tensors('double_stream_modulation_img.lin.weight',
      'double_blocks.0.img_attn.qkv.weight', 'single_blocks.47.linear1.weight'),
    { type: 'diffusion', architecture: 'flux2', variant: undefined }
  ],
  [
    'FLUX.2 klein',
    tensors('double_stream_modulation_img.lin.weight',
      'double_blocks.0.img_attn.qkv.weight', 'single_blocks.19.linear1.weight'),
    { type: 'diffusion', architecture: 'flux2', variant: 'klein' }
  ],
  [
    'Qwen-Image', tensors('transformer_blocks.0.img_mod.1.weight', 'transformer_blocks.0.attn.add_q_proj.weight'),
    { type: 'diffusion', architecture: 'qwen_image' }
  ],
  [
    'Z-Image',
    tensors('model.diffusion_model.cap_embedder.0.weight',
      ['model.diffusion_model.layers.0.attention.qkv.weight', [32, 3840]]),
    { type: 'diffusion', architecture: 'z_image' }
  ],
  [
    'Wan', tensors('blocks.0.cross_attn.norm_k.weight', 'patch_embedding.weight'),
    { type: 'diffusion', architecture: 'wan' }
  ],
  [
    'MiniT2I as published',
    tensors('net.img_embedder.proj1.weight', ['net.img_embedder.proj2.weight', [768, 16, 1, 1]]),
    { type: 'diffusion', architecture: 'minit2i', variant: undefined }
  ],
  ['VAE', typical.vae, { type: 'vae', architecture: 'sd', latent_channels: 4 }],
  ['VAE of FLUX.1', typical.flux_vae, { type: 'vae', architecture: 'flux1', latent_channels: 16 }],
  ['VAE of Wan', tensors('decoder.middle.0.residual.0.gamma', 'conv1.weight'), { type: 'vae', architecture: 'wan' }],
  ['TAESD', tensors('encoder.layers.0.weight', 'decoder.layers.0.weight'), { type: 'taesd' }],
  [
    'ControlNet for SD 1',
    { ...prefixed('control_model.', unet(768)), ...tensors('control_model.input_hint_block.0.weight') },
    { type: 'controlnet', architecture: 'sd1' }
  ],
  [
    'ControlNet of diffusers for SDXL',
    tensors('controlnet_cond_embedding.conv_in.weight',
      'conv_in.weight', [`down_blocks.1.attentions.0.${attention}`, [32, 2048]]),
    { type: 'controlnet', architecture: 'sdxl' }
  ],
  ['ESRGAN', typical.esrgan, { type: 'upscaler', architecture: 'esrgan' }],
  [
    'ESRGAN, older', tensors(['model.0.weight', [8, 3, 3, 3]], 'model.1.sub.0.RDB1.conv1.0.weight'),
    { type: 'upscaler', architecture: 'esrgan' }
  ],
  ['embedding for SD 1', tensors(['emb_params', [4, 768]]), { type: 'embedding', architecture: 'sd1' }],
  ['embedding for SDXL', tensors('clip_l', 'clip_g'), { type: 'embedding', architecture: 'sdxl' }],
  ['CLIP-L', typical.clip_l, { type: 'text_encoder', architecture: 'clip_l' }],
  [
    'CLIP-G', tensors(['text_model.embeddings.token_embedding.weight', [4, 1280]]),
    { type: 'text_encoder', architecture: 'clip_g' }
  ],
  ['T5', typical.t5xxl, { type: 'text_encoder', architecture: 't5xxl' }],
  ['Qwen', tensors('model.layers.0.self_attn.q_proj.weight'), { type: 'text_encoder', architecture: 'llm' }],
  [
    'Mistral, as FLUX.2 has it', tensors('language_model.model.layers.0.self_attn.q_proj.weight'),
    { type: 'text_encoder', architecture: 'llm' }
  ],
  ['OpenCLIP-H', tensors(['text_model.embeddings.token_embedding.weight', [4, 1024]]), { type: 'text_encoder', architecture: 'clip_h' }],
  ['embedding for SD 2', tensors(['emb_params', [4, 1024]]), { type: 'embedding', architecture: 'sd2' }],
  ['CLIP vision', tensors('vision_model.embeddings.class_embedding'), { type: 'clip_vision' }],
  ['LoRA for SD 1', typical.lora, { type: 'lora', architecture: 'sd1' }],
  [
    'LoRA for SDXL',
    tensors('lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight',
      'lora_unet_input_blocks_4_1_proj_in.lora_down.weight'),
    { type: 'lora', architecture: 'sdxl' }
  ],
  [
    'LoRA for SDXL by width',
    tensors(['lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight', [4, 2048]]),
    { type: 'lora', architecture: 'sdxl' }
  ],
  [
    'LoRA of diffusers',
    tensors(['unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight', [4, 768]]),
    { type: 'lora', architecture: 'sd1' }
  ],
  [
    'LoRA of PEFT',
    tensors(['unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight', [4, 1024]]),
    { type: 'lora', architecture: 'sd2' }
  ],
  [
    'LoRA for FLUX', tensors('lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight'),
    { type: 'lora', architecture: 'flux1' }
  ],
  [
    'LoRA for FLUX of diffusers', tensors('transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight'),
    { type: 'lora', architecture: 'flux1' }
  ],
  [
    'LoRA for Qwen-Image',
    tensors('transformer_blocks.0.attn.to_k.lora_A.default.weight',
      'transformer_blocks.0.img_mlp.net.2.lora_A.default.weight'),
    { type: 'lora', architecture: 'qwen_image' }
  ],
  [
    'LoRA for Wan', tensors('diffusion_model.blocks.0.cross_attn.k.lora_A.weight'),
    { type: 'lora', architecture: 'wan' }
  ],
  [
    'LoRA for Z-Image', tensors('diffusion_model.layers.0.attention.to_q.lora_A.weight'),
    { type: 'lora', architecture: 'z_image' }
  ],
  ['LoHa', tensors('lora_unet_mid_block_attentions_0_proj_in.hada_w1_a'), { type: 'lora', architecture: null }],
  ['LoKr', tensors('lycoris_blocks_0_attn.lokr_w1'), { type: 'lora', architecture: null }],
  [
    'LoHa by width', tensors(['lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.hada_w1_b', [8, 768]]),
    { type: 'lora', architecture: 'sd1' }
  ],
  [
    'LoKr by the product of its widths',
    tensors(['lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lokr_w1', [16, 16]],
      ['lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lokr_w2', [80, 64]]),
    { type: 'lora', architecture: 'sd2' }
  ],
  [
    'slider without text attention',
    tensors(...[0, 1].map(n => `lora_unet_down_blocks_1_attentions_0_transformer_blocks_${n}_attn1_to_k.lora_down.weight`)),
    { type: 'lora', architecture: 'sdxl' }
  ],
  ...([
    ['SD 3 medium, diffusers', 'transformer.transformer_blocks.5.attn.to_q.lora_A.weight', 1536, 'sd3'],
    ['SD 3.5 large, diffusers', 'transformer.transformer_blocks.37.attn.to_q.lora_A.weight', 2432, 'sd3'],
    ['SD 3.5 large, kohya', 'lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight', 2432, 'sd3'],
    ['Qwen-Image by its depth', 'diffusion_model.transformer_blocks.59.attn.to_k.lora_A.default.weight', 3072, 'qwen_image'],
    ['one of many', 'transformer_blocks.3.attn.to_k.lora_A.weight', 3072, null],
    ['FLUX.1, OneTrainer', 'lora_transformer_single_transformer_blocks_3_attn_to_k.lora_down.weight', 3072, 'flux1'],
    ['FLUX.1 of PEFT', 'base_model.model.double_blocks.0.img_attn.qkv.lora_A.default.weight', 3072, 'flux1'],
    ['FLUX.2 dev', 'diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight', 6144, 'flux2'],
    ['FLUX.2 klein 9B', 'lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight', 4096, 'flux2'],
    ['HunyuanImage', 'diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight', 3584, null],
    ['HunyuanVideo by its depth', 'diffusion_model.double_blocks.19.img_attn.qkv.lora_A.weight', 3072, null],
    ['HunyuanVideo by its names', 'lora_unet_double_blocks_0_img_mlp_fc1.lora_down.weight', 3072, null],
    ['LTX', 'diffusion_model.transformer_blocks.0.attn2.to_k.lora_A.weight', 2048, null],
    ['Cosmos', 'transformer.transformer_blocks.0.attn2.to_k.lora_A.weight', 1024, null],
    ['PixArt', 'transformer.transformer_blocks.0.attn2.to_k.lora_A.weight', 1152, null],
    ['AuraFlow', 'transformer.joint_transformer_blocks.0.attn.to_q.lora_A.weight', 3072, null],
    ['Anima', 'lora_unet_blocks_0_cross_attn_k_proj.lora_down.weight', 2048, null],
    ['Wan, kohya', 'lora_unet_blocks_0_cross_attn_k.lora_down.weight', 5120, 'wan'],
    ['Wan 1.3B, diffusers', 'transformer.blocks.0.attn2.to_k.lora_A.weight', 1536, 'wan'],
    ['Lumina 2', 'lora_unet_layers_0_attention_qkv.lora_down.weight', 2304, null],
    ['Ideogram', 'diffusion_model.layers.0.attention.qkv.lora_A.weight', 4608, null],
    ['Z-Image', 'lora_unet_layers_0_attention_to_q.lora_down.weight', 3840, 'z_image'],
    ['the refiner', 'lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight', 1280, null],
    ['AnimateDiff', 'down_blocks.0.motion_modules.0.transformer_blocks.0.attn2.to_k.lora_A.weight', 768, null]
  ] as const).map(([what, name, width, architecture]): Kind =>
    [`LoRA for ${what}`, tensors([name, [16, width]]), { type: 'lora', architecture }]),
  [
    'LoRA for FLUX.2 klein 4B',
    tensors(['diffusion_model.double_blocks.0.img_mlp.0.lora_A.weight', [16, 3072]],
      ['diffusion_model.double_blocks.0.img_mlp.0.lora_B.weight', [18_432, 16]]),
    { type: 'lora', architecture: 'flux2' }
  ],
  [
    'LoRA whose factors come first',
    {
      ...Object.fromEntries(Array.from({ length: 100 }, (_, n) => [`blocks.${n}.attn.alpha`, { dtype: 'I64', shape: [] }])),
      ...tensors(['unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight', [4, 768]])
    },
    { type: 'lora', architecture: 'sd1', unsupported: undefined }
  ],
  ...([
    ['XLabs', 'double_blocks.0.processor.qkv_lora1.down.weight', 'flux1', 'an XLabs LoRA'],
    ['OFT of PEFT', 'unet.mid_block.attentions.0.proj_in.oft_R.weight', null, 'an OFT adapter'],
    ['OFT of LyCORIS', 'lora_unet_mid_block_attentions_0_proj_in.oft_blocks', null, 'an OFT adapter'],
    ['IA3', 'lora_unet_mid_block_attentions_0_proj_in.on_input', null, 'an IA3 adapter'],
    ['GLoRA', 'lycoris_unet_mid_block_attentions_0_proj_in.a1.weight', null, 'a GLoRA']
  ] as const).map(([what, name, architecture, kind]): Kind => [what, tensors(name), {
    type: 'lora',
    architecture,
    unsupported: `This is ${kind}; the engine applies LoRA, LoHa, LoKr and full differences only.`
  }]),
  ...([
    ['PixArt', 'model.diffusion_model.t_block.1.weight', 'first_stage_model'],
    ['HunyuanDiT', 'model.diffusion_model.blocks.0.attn1.Wqkv.weight', 'vae'],
    ['AuraFlow under another prefix', 'model.double_layers.0.attn.w1q.weight', 'vae'],
    ['a network without a prefix', 'blocks.0.attn.qkv.weight', 'first_stage_model']
  ] as const).map(([what, name, prefix]): Kind => [
    `${what} with its VAE`, { ...tensors(name), ...prefixed(`${prefix}.`, typical.vae) },
    {
      type: 'checkpoint',
      architecture: null,
      unsupported: 'It is a checkpoint of an architecture that this server does not know.'
    }
  ]),
  [
    'VAE with what its training left', { ...prefixed('first_stage_model.', typical.vae), ...tensors('model_ema.decay', 'global_step') },
    { type: 'vae', architecture: 'sd', unsupported: undefined }
  ],
  [
    'refiner of SDXL',
    prefixed('model.diffusion_model.', { ...unet(1280), ...tensors('time_embed.0.weight') }),
    {
      type: 'diffusion',
      architecture: null,
      unsupported: 'It is the refiner of SDXL, which draws no images by itself. Take the base model.'
    }
  ],
  ...[5, 7].map((channels): Kind => [`SD 2 of ${channels} channels`, unet(1024, channels), {
    type: 'diffusion',
    architecture: 'sd2',
    unsupported: 'It takes more inputs than a text and an image.'
  }]),
  [
    'Kolors', { ...tensors(['conv_in.weight', [32, 4, 3, 3]], [`down_blocks.1.attentions.0.${attention}`, [32, 2048]], 'encoder_hid_proj.weight') },
    { type: 'diffusion', architecture: null, unsupported: 'The engine knows no Kolors.' }
  ],
  [
    'Lumina 2',
    tensors(['cap_embedder.0.weight', [2304]], ['layers.0.attention.qkv.weight', [3840, 2304]]),
    { type: 'unknown', architecture: null }
  ],
  [
    'Mage-Flow', tensors('transformer_blocks.0.img_mod.1.weight', ['img_in.weight', [3072, 128]]),
    { type: 'unknown', architecture: null }
  ],
  [
    'FLUX.1 of nunchaku',
    {
      'single_transformer_blocks.0.mlp_fc1.qweight': { dtype: 'U8', shape: [4, 4] },
      ...tensors('single_transformer_blocks.0.mlp_fc1.lora_down', 'single_transformer_blocks.0.mlp_fc1.lora_up')
    },
    {
      type: 'diffusion',
      architecture: 'flux1',
      unsupported: 'It is quantized for another engine (SVDQuant, AWQ or GPTQ): take a GGUF version.'
    }
  ],
  [
    'LongCLIP of OpenAI', tensors(['token_embedding.weight', [8, 768]], ['positional_embedding', [248, 768]]),
    { type: 'text_encoder', architecture: 'long_clip' }
  ],
  [
    'FLUX.1 NF4',
    { ...typical.flux, 'txt_in.weight': { dtype: 'U8', shape: [64, 1] }, 'double_blocks.0.img_attn.proj.weight.quant_state.bitsandbytes__nf4': { dtype: 'U8', shape: [9] } },
    {
      type: 'diffusion',
      architecture: 'flux1',
      unsupported: 'It is quantized with bitsandbytes (NF4), which the engine can\'t read: take a GGUF version.'
    }
  ],
  ...['encoder.block.0.layer.0.SelfAttention.q.scale_weight', 'encoder.block.0.layer.0.SelfAttention.q.weight_scale',
    'scaled_fp8', 'encoder.block.0.layer.0.SelfAttention.q.comfy_quant'].map((name): Kind => [
    `scaled fp8 by ${name}`,
    {
      'encoder.block.0.layer.0.SelfAttention.q.weight': { dtype: 'F8_E4M3', shape: [32, 4096] },
      [name]: { dtype: 'F32', shape: [] }
    },
    {
      type: 'text_encoder',
      architecture: 't5xxl',
      quantization: 'F8_E4M3 scaled',
      unsupported: 'It is scaled fp8, which this engine reads without its scales: take another version.'
    }
  ]),
  [
    'fp8 without scales', { 'encoder.block.0.layer.0.SelfAttention.q.weight': { dtype: 'F8_E4M3', shape: [32, 4096] } },
    { type: 'text_encoder', architecture: 't5xxl', quantization: 'F8_E4M3', unsupported: undefined }
  ],
  ...([
    ['SD 3', 'pos_embed_input.proj.weight', 'sd3'],
    ['Qwen-Image', 'transformer_blocks.0.img_mlp.net.0.proj.weight', 'qwen_image'],
    ['FLUX.1', 'controlnet_x_embedder.weight', 'flux1'],
    ['FLUX.1 of XLabs', 'double_blocks.0.img_attn.qkv.weight', 'flux1'],
    ['something else', 'blocks.0.weight', null]
  ] as const).map(([what, name, architecture]): Kind => [
    `ControlNet for ${what}`, tensors('controlnet_blocks.0.weight', name),
    { type: 'controlnet', architecture, unsupported: 'The engine loads ControlNets of SD 1, 2 and XL only.' }
  ]),
  [
    'ControlNet under another prefix',
    prefixed('unet.', { ...unet(768), ...tensors('controlnet_cond_embedding.conv_in.weight') }),
    { type: 'unknown', architecture: null }
  ],
  [
    'Control-LoRA', tensors('lora_controlnet', 'input_hint_block.0.weight', 'input_blocks.1.0.in_layers.2.down'),
    { type: 'controlnet', architecture: null, unsupported: 'The engine loads no Control-LoRAs.' }
  ],
  [
    'uMT5 by its words', tensors(['encoder.block.0.layer.0.SelfAttention.q.weight', [8, 4096]], ['shared.weight', [256_384, 2]]),
    { type: 'text_encoder', architecture: 'umt5' }
  ],
  [
    'uMT5 by its biases',
    tensors(['encoder.block.0.layer.0.SelfAttention.q.weight', [8, 4096]],
      'encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight'),
    { type: 'text_encoder', architecture: 'umt5' }
  ],
  ['T5 base', tensors(['encoder.block.0.layer.0.SelfAttention.q.weight', [8, 768]]), { type: 'text_encoder', architecture: 't5' }],
  [
    'LongCLIP',
    { ...typical.clip_l, ...tensors(['text_model.embeddings.position_embedding.weight', [248, 768]]) },
    { type: 'text_encoder', architecture: 'long_clip' }
  ],
  ['embedding of diffusers', tensors(['<my-style>', [1, 768]]), { type: 'embedding', architecture: 'sd1' }],
  ['embedding of diffusers, flat', tensors(['*', [1024]]), { type: 'embedding', architecture: 'sd2' }],
  ['one vector of something', tensors(['x', [4, 640]]), { type: 'unknown', architecture: null }],
  [
    'embedding of diffusers for SDXL', tensors(['text_encoders_0', [2, 768]], ['text_encoders_1', [2, 1280]]),
    { type: 'embedding', architecture: 'sdxl' }
  ],
  ['VAE of FLUX.2', tensors(['decoder.conv_in.weight', [8, 32, 3, 3]], 'decoder.conv_out.weight'), { type: 'vae', architecture: 'flux2' }],
  ['another VAE', tensors(['decoder.conv_in.weight', [8, 64, 3, 3]], 'decoder.conv_out.weight'), { type: 'vae', architecture: null, latent_channels: 64 }],
  [
    'ESRGAN ×2plus', tensors(['conv_first.weight', [8, 12, 3, 3]], 'body.0.rdb1.conv1.weight'),
    {
      type: 'upscaler',
      architecture: 'esrgan',
      unsupported: 'The engine loads no ESRGAN that takes its image apart first (×2plus, ×1 with unshuffle).'
    }
  ],
  ['something else', tensors('fc.weight'), { type: 'unknown', architecture: null, parameters: 4 }],
  ['nothing', {}, { type: 'unknown', architecture: null, parameters: 0, quantization: null }]
]

t.test('recognises every kind of file by its tensor names', async t => {
  for (const [what, of, expected] of kinds) {
    const summary = await inspect(safetensors(of))
    t.strictSame(Object.fromEntries(Object.keys(expected).map(key => [key, summary[key as keyof Summary]])),
      expected, what)
  }
  const found = new Set(kinds.map(([, , { architecture }]) => architecture))
  for (const name of Object.keys(architectures)) if (name !== 'sdxs') t.ok(found.has(name), `${name} is tested`)
  for (const { architecture, type } of [...networkRules, ...partRules]) {
    t.ok(architecture === null || type !== 'diffusion' || Object.hasOwn(architectures, architecture),
      `the rules for ${String(architecture)} lead somewhere`)
  }
})

t.test('recognises the checkpoints that the engines draw with', async t => {
  const folder = t.testdir()
  const expected: Record<CheckpointKind, Partial<Summary>> = {
    minit2i: { type: 'checkpoint', architecture: 'minit2i', variant: 'tiny', quantization: 'F16' },
    sdxs: { type: 'checkpoint', architecture: 'sdxs' },
    sd1: { type: 'checkpoint', architecture: 'sd1' },
    esrgan: { type: 'upscaler', architecture: 'esrgan' },
    lora: { type: 'lora' }
  }
  for (const [kind, summary] of Object.entries(expected)) {
    const file = join(folder, `${kind}.safetensors`)
    writeCheckpoint(kind as CheckpointKind, file)
    t.match(inspectHeader(await readModelHeader(file)), summary, kind)
  }
})

t.test('recognises GGUF files', async t => {
  const flux = gguf({
    'double_blocks.0.img_attn.qkv.weight': { dimensions: [256, 12], type: 12 },
    'img_in.weight': { dimensions: [64, 2], type: 0 },
    'vector_in.in_layer.weight': { dimensions: [2, 2], type: 0 }
  }, { metadata: { 'general.architecture': 'flux', 'general.name': 'Flux', 'general.file_type': 15 } })
  t.match(await inspect(flux), {
    format: 'gguf',
    type: 'diffusion',
    architecture: 'flux1',
    quantization: 'Q4_K',
    metadata: { title: 'Flux', architecture: 'flux' }
  })
  const t5 = gguf({
    'enc.blk.0.attn_q.weight': { dimensions: [4096, 2], type: 8 },
    'enc.blk.0.attn_norm.weight': { dimensions: [4096], type: 0 }
  })
  t.match(await inspect(t5), { type: 'text_encoder', architecture: 't5xxl', quantization: 'mixed' })
  t.match(await inspect(gguf({ 'blk.0.attn_q.weight': { dimensions: [32, 2], type: 8 } })),
    { type: 'text_encoder', architecture: 'llm', quantization: 'Q8_0' })
})

t.test('shows bounded metadata of trainers', async t => {
  const summary = await inspect(safetensors(typical.lora, {
    ss_tag_frequency: JSON.stringify({ set1: { ' ink': 5, wash: 9 }, set2: { ink: 7, '\u202e\nodd': 1 } }),
    ss_base_model_version: 'sd_v1',
    ss_resolution: '(768, 512)',
    'modelspec.title': 'Ink\u0000 and\nwash',
    'modelspec.description': 'x'.repeat(100_000),
    'modelspec.license': 'None',
    __proto__: 'no'
  }))
  t.strictSame(summary.trigger_words, ['ink', 'wash', 'odd'])
  t.equal(summary.resolution, 768)
  t.equal(summary.metadata?.title, 'Ink and wash')
  t.equal(summary.metadata?.description?.length, 1000)
  t.equal(summary.metadata?.license, undefined)
  const withPhrase = { 'modelspec.trigger_phrase': 'inkwash', ss_tag_frequency: '{"a":{"b":1}}' }
  t.strictSame((await inspect(safetensors(typical.lora, withPhrase))).trigger_words, ['inkwash'])
  for (const text of ['{', '[]', 'null', '{"a":null,"b":3,"c":{"d":"x"}}']) {
    t.equal((await inspect(safetensors(typical.lora, { ss_tag_frequency: text }))).trigger_words, undefined, text)
  }
  for (const [key, value, architecture] of [
    ['ss_base_model_version', 'sdxl_base_v1-0', 'sdxl'],
    ['modelspec.architecture', 'flux-1-dev/lora', 'flux1'],
    ['modelspec.architecture', 'stable-diffusion-v1/lora', 'sd1'],
    ['modelspec.architecture', 'lumina-2/lora', null],
    ['ss_base_model_version', 'chroma', 'chroma']
  ] as const) {
    const silent = tensors('lora_unet_x.lora_down.weight')
    t.equal((await inspect(safetensors(silent, { [key]: value }))).architecture, architecture, value)
  }
  const looksLikeFlux = tensors(['lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight', [4, 3072]])
  for (const [claim, architecture] of [
    ['chroma/lora', 'chroma'], ['Flux.2-klein-4B', 'flux2'], ['hunyuan-video', null], ['my own', 'flux1']
  ] as const) {
    const { architecture: told } = await inspect(safetensors(looksLikeFlux, { 'modelspec.architecture': claim }))
    t.equal(told, architecture, `FLUX names, ${claim}`)
  }
})

t.test('gives defaults and limits', async t => {
  for (const [name, { defaults, limits }] of Object.entries(architectures)) {
    for (const side of [defaults.width, defaults.height]) {
      t.ok(side % limits.multiple_of === 0 && side >= limits.min_side && side <= limits.max_side,
        `the defaults of ${name} keep to its limits`)
    }
  }
  t.match(defaultsOf('minit2i', 'tiny'), { width: 64, height: 64, sampler: 'euler' })
  t.match(defaultsOf('flux1', 'schnell'), { steps: 4, width: 1024 })
  t.equal(defaultsOf('flux1', 'constructor')?.steps, 20)
  t.equal(defaultsOf('constructor'), undefined)
  t.equal(defaultsOf(null), undefined)
})

t.test('prefers the size in a file to that of its family', async t => {
  const sizeOf = async (resolution: string) => {
    const content = await inspect(safetensors(typical.sd1, { 'modelspec.resolution': resolution }))
    return modelOfFile({
      root: 0, path: '/a.safetensors', relative: 'a.safetensors', folderDepth: 0, format: 'safetensors', size: 1, modified: 0, content
    }).defaults
  }
  t.match(await sizeOf('768x768'), { width: 768, height: 768, steps: 20 })
  for (const resolution of ['770', '16384', '32', 'none']) t.match(await sizeOf(resolution), { width: 512, height: 512 })
})
