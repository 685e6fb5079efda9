import t from 'tap'
import { inspectHeader } from '../../../../lib/models/detect/inspect.ts'
import { readLayouts } from '../../../fixtures/layouts.ts'

const unusable = 'unusable'

/** What each file is. Null where no architecture of this server is right. */
const expected: ReadonlyArray<
  readonly [name: string, type: string, architecture: string | null, usable?: typeof unusable]
> = [
  ['ck-flux-aio-fp8.safetensors', 'checkpoint', 'flux1/dev'],
  ['ck-flux-aio-schnell-notextenc.safetensors', 'diffusion', 'flux1/schnell'],
  ['ck-ip2p.safetensors', 'checkpoint', 'sd1/pix2pix'],
  ['ck-neta-lumina-aio.safetensors', 'checkpoint', null, unusable],
  ['ck-playground25.safetensors', 'checkpoint', 'sdxl', unusable],
  ['ck-sd15-inpaint.safetensors', 'checkpoint', 'sd1/inpaint'],
  ['ck-sd15-nai-oldclip.safetensors', 'checkpoint', 'sd1'],
  ['ck-sd15-novae.safetensors', 'checkpoint', 'sd1'],
  ['ck-sd21.safetensors', 'checkpoint', 'sd2'],
  ['ck-sd3-incl-clips.safetensors', 'checkpoint', 'sd3'],
  ['ck-sdxl-vpred.safetensors', 'checkpoint', 'sdxl'],
  ['ck-sdxl.safetensors', 'checkpoint', 'sdxl'],
  ['ck-ssd1b.safetensors', 'checkpoint', 'sdxl'],
  ['ck-svd.safetensors', 'checkpoint', null, unusable],
  ['cn-flux-instantx-union.safetensors', 'controlnet', 'flux1', unusable],
  ['cn-flux-xlabs.safetensors', 'controlnet', 'flux1', unusable],
  ['cn-lllite-sdxl.safetensors', 'unknown', null],
  ['cn-sd15-diff.safetensors', 'controlnet', 'sd1', unusable],
  ['cn-sdxl-diffusers.safetensors', 'controlnet', 'sdxl'],
  ['cn-zimage-fun-union.safetensors', 'unknown', null],
  ['cv-siglip-redux.safetensors', 'unknown', null],
  ['df-auraflow.safetensors', 'unknown', null],
  ['df-chroma.safetensors', 'diffusion', 'chroma'],
  ['df-flux-dev-diffusers.safetensors', 'diffusion', 'flux1'],
  ['df-flux-fill.safetensors', 'diffusion', 'flux1/fill'],
  ['df-flux-kontext-fp8-scaled.safetensors', 'diffusion', 'flux1/dev', unusable],
  ['df-flux-nokv.gguf', 'diffusion', 'flux1/dev'],
  ['df-flux-q4ks-city96.gguf', 'diffusion', 'flux1/dev'],
  ['df-flux-schnell.safetensors', 'diffusion', 'flux1/schnell'],
  ['df-flux2-klein4b.safetensors', 'diffusion', 'flux2/klein'],
  ['df-flux2-klein9b.gguf', 'diffusion', 'flux2/klein'],
  ['df-hidream.safetensors', 'unknown', null],
  ['df-hunyuanimage21.safetensors', 'unknown', null],
  ['df-ideogram4.safetensors', 'unknown', null],
  ['df-krea2.safetensors', 'unknown', null],
  ['df-longcat.safetensors', 'unknown', null],
  ['df-ltxv.safetensors', 'unknown', null],
  ['df-mage-flow.safetensors', 'unknown', null],
  ['df-pixart-sigma.safetensors', 'unknown', null],
  ['df-qwen-fp8mixed-comfy_quant.safetensors', 'diffusion', 'qwen_image', unusable],
  ['df-wan21-14b.safetensors', 'diffusion', 'wan'],
  ['df-wan22-5b.gguf', 'diffusion', 'wan'],
  ['df-zimage-lumina2arch.gguf', 'diffusion', 'z_image'],
  ['em-sdxl.safetensors', 'embedding', 'sdxl'],
  ['em-star.safetensors', 'embedding', 'sd1'],
  ['lo-anima_lora_kohya_format.safetensors', 'lora', null],
  ['lo-anima_lora_lokr_format.safetensors', 'lora', null],
  ['lo-anima_lora_peft_format.safetensors', 'lora', null],
  ['lo-chroma-kohya-meta.safetensors', 'lora', 'chroma'],
  ['lo-cosmos2-diffusers.safetensors', 'lora', null],
  ['lo-f32alpha-qwen-lightning.safetensors', 'lora', 'qwen_image'],
  ['lo-flux-diffusers-doubleonly.safetensors', 'lora', 'flux1'],
  ['lo-flux2-dev-diffusers.safetensors', 'lora', 'flux2'],
  ['lo-flux_control_lora_format.safetensors', 'lora', 'flux1'],
  ['lo-flux_dora_onetrainer_format.safetensors', 'lora', 'flux1'],
  ['lo-flux_lokr_bfl_format.safetensors', 'lora', 'flux1'],
  ['lo-flux_lora_aitoolkit_format.safetensors', 'lora', 'flux1'],
  ['lo-flux_lora_diffusers_base_model_format.safetensors', 'lora', 'flux1'],
  ['lo-flux_lora_diffusers_format.safetensors', 'lora', 'flux1'],
  ['lo-flux_lora_diffusers_no_proj_mlp_format.safetensors', 'lora', 'flux1'],
  ['lo-flux_lora_kohya_format.safetensors', 'lora', 'flux1'],
  ['lo-flux_lora_kohya_with_te1_format.safetensors', 'lora', 'flux1'],
  ['lo-flux_lora_xlabs_format.safetensors', 'lora', 'flux1', unusable],
  ['lo-ideogram4.safetensors', 'lora', null],
  ['lo-krea2_lora_kohya_format.safetensors', 'lora', null],
  ['lo-lumina2-kohya.safetensors', 'lora', null],
  ['lo-pixart-peft.safetensors', 'lora', null],
  ['lo-qwen-lightning.safetensors', 'lora', 'qwen_image'],
  ['lo-qwen-peft-attnonly.safetensors', 'lora', 'qwen_image'],
  ['lo-qwen_image_lora_diffusers_format.safetensors', 'lora', 'qwen_image'],
  ['lo-sd1-f32alpha-f16weights.safetensors', 'lora', 'sd1'],
  ['lo-sd1-full-diff.safetensors', 'lora', 'sd1'],
  ['lo-sd1-glora.safetensors', 'lora', 'sd1', unusable],
  ['lo-sd1-ia3.safetensors', 'lora', 'sd1', unusable],
  ['lo-sd1-kohya.safetensors', 'lora', 'sd1'],
  ['lo-sd1-lokr.safetensors', 'lora', 'sd1'],
  ['lo-sd1-oft.safetensors', 'lora', 'sd1', unusable],
  ['lo-sd2-kohya.safetensors', 'lora', 'sd2'],
  ['lo-sd35-diffusers.safetensors', 'lora', 'sd3'],
  ['lo-sdxl-kohya.safetensors', 'lora', 'sdxl'],
  ['lo-sdxl-peft.safetensors', 'lora', 'sdxl'],
  ['lo-wan-diffusers.safetensors', 'lora', 'wan'],
  ['mm-animatediff.safetensors', 'unknown', null],
  ['st-flux-redux.safetensors', 'unknown', null],
  ['te-byt5-small.safetensors', 'text_encoder', 't5'],
  ['te-clip_g-openclip.safetensors', 'text_encoder', 'clip_g'],
  ['te-clip_g.safetensors', 'text_encoder', 'clip_g'],
  ['te-clip_l-full-vision.safetensors', 'text_encoder', 'clip_l'],
  ['te-clip_l.safetensors', 'text_encoder', 'clip_l'],
  ['te-mistral-flux2.safetensors', 'text_encoder', 'llm'],
  ['te-qwen25vl7b.safetensors', 'text_encoder', 'llm'],
  ['te-qwen3-4b-unsloth.gguf', 'text_encoder', 'llm'],
  ['te-qwen3-4b.safetensors', 'text_encoder', 'llm'],
  ['te-t5base.safetensors', 'text_encoder', 't5'],
  ['te-t5xxl_fp16.safetensors', 'text_encoder', 't5xxl'],
  ['te-umt5xxl.safetensors', 'text_encoder', 'umt5'],
  ['up-esrgan-old.safetensors', 'upscaler', 'esrgan'],
  ['up-realesr-general-x4v3-compact.safetensors', 'upscaler', null, unusable],
  ['up-realesrgan-x4plus.safetensors', 'upscaler', 'esrgan'],
  ['up-span.safetensors', 'upscaler', null, unusable],
  ['up-swinir-dat.safetensors', 'upscaler', null, unusable],
  ['va-flux-ae.safetensors', 'vae', 'flux1'],
  ['va-flux2.safetensors', 'vae', 'flux2'],
  ['va-qwenimage.safetensors', 'vae', 'wan'],
  ['va-sd15.safetensors', 'vae', 'sd'],
  ['va-wan21.safetensors', 'vae', 'wan'],
  ['va-wan22.safetensors', 'vae', 'wan']
]

/** Base models that these few tensors leave open. */
const undecidable = ['lo-qwen_image_lora_diffusers_format.safetensors']

const families = {
  ck: 'checkpoints',
  df: 'diffusion models',
  lo: 'LoRA',
  cn: 'ControlNet',
  te: 'text encoders',
  em: 'embeddings',
  va: 'VAE',
  up: 'upscalers',
  cv: 'others',
  st: 'others',
  mm: 'others'
}
type Verdict = 'right' | 'not told' | 'wrong'

t.test('tells published files apart, and guesses at none', async t => {
  const table = new Map<string, Record<Verdict, number>>()
  const layouts = new Map(readLayouts().map(({ name, header }) => [name, header]))
  t.strictSame([...layouts.keys()].sort(), expected.map(([name]) => name).sort(), 'each layout is expected')
  for (const [name, type, architecture, usable] of expected) {
    const found = inspectHeader(layouts.get(name)!)
    const told = found.variant === undefined ? found.architecture : `${found.architecture}/${found.variant}`
    const isWhole = found.type === type && (found.unsupported === undefined) === (usable === undefined)
    const verdict = isWhole && told === architecture ? 'right' : isWhole && told === null ? 'not told' : 'wrong'
    t.equal(verdict, undecidable.includes(name) ? 'not told' : 'right', `${name}: ${found.type} ${told}`)
    const row = table.get(families[name.slice(0, 2) as keyof typeof families]) ?? { right: 0, 'not told': 0, wrong: 0 }
    row[verdict]++
    table.set(families[name.slice(0, 2) as keyof typeof families], row)
  }
  for (const [family, { right, 'not told': open, wrong }] of table) {
    t.comment(`${family}: ${right} right, ${open} not told, ${wrong} wrong`)
  }
})
