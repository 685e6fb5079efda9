/** What a model file is used for. The words are the first part of a model's id and part of the API. */
export const modelTypes = [
  'checkpoint', 'diffusion', 'lora', 'vae', 'taesd', 'controlnet', 'upscaler', 'embedding', 'text_encoder',
  'clip_vision', 'ip_adapter', 'photo_maker', 'unknown'
] as const
export type ModelType = typeof modelTypes[number]

/** The types that an image request can name as its `model`: a whole checkpoint, or a diffusion model with its parts. */
export const drawingTypes: readonly ModelType[] = ['checkpoint', 'diffusion']

/** Folder names in collections of A1111 (and Forge), ComfyUI and this server, in lower case. */
const folderNames: Partial<Record<ModelType, readonly string[]>> = {
  checkpoint: ['checkpoint', 'checkpoints', 'stable-diffusion', 'stablediffusion'],
  diffusion: ['diffusion', 'diffusion_models', 'unet', 'unet_gguf'],
  lora: ['lora', 'loras', 'lycoris', 'locon'],
  vae: ['vae'],
  taesd: ['taesd', 'vae_approx', 'vae-approx'],
  controlnet: ['controlnet', 'controlnets', 'control_net'],
  upscaler: ['upscaler', 'upscalers', 'upscale_models', 'esrgan', 'realesrgan'],
  embedding: ['embedding', 'embeddings', 'textual_inversion'],
  text_encoder: ['text_encoder', 'text_encoders', 'clip', 'clip_gguf'],
  clip_vision: ['clip_vision'],
  ip_adapter: ['ip_adapter', 'ipadapter', 'ip-adapter'],
  photo_maker: ['photo_maker', 'photomaker']
}

const folderTypes = new Map(modelTypes.flatMap(type => (folderNames[type] ?? []).map(name => [name, type] as const)))

/** Type that a folder's name gives to its files, in any case of letters; undefined when the name says nothing. */
export function typeOfFolder (name: string): ModelType | undefined {
  return folderTypes.get(name.toLowerCase())
}
