/** Uses of a model file. The words begin the ids of models and are part of the API. */
export const modelTypes = [
  'checkpoint', 'diffusion', 'lora', 'vae', 'taesd', 'controlnet', 'upscaler', 'embedding', 'text_encoder',
  'clip_vision', 'ip_adapter', 'photo_maker', 'unknown'
] as const
export type ModelType = typeof modelTypes[number]

/** The types that an image request can name as its `model`. */
export const drawingTypes: readonly ModelType[] = ['checkpoint', 'diffusion']

/** Folder names of A1111, Forge, ComfyUI and this server, in lower case; new folders get the first one. */
export const folderNames: Partial<Record<ModelType, readonly string[]>> = {
  checkpoint: ['checkpoints', 'checkpoint', 'stable-diffusion', 'stablediffusion'],
  diffusion: ['diffusion_models', 'diffusion', 'unet', 'unet_gguf'],
  lora: ['loras', 'lora', 'lycoris', 'locon'],
  vae: ['vae'],
  taesd: ['vae_approx', 'taesd', 'vae-approx'],
  controlnet: ['controlnet', 'controlnets', 'control_net'],
  upscaler: ['upscale_models', 'upscaler', 'upscalers', 'esrgan', 'realesrgan'],
  embedding: ['embeddings', 'embedding', 'textual_inversion'],
  text_encoder: ['text_encoders', 'text_encoder', 'clip', 'clip_gguf'],
  clip_vision: ['clip_vision'],
  ip_adapter: ['ip_adapter', 'ipadapter', 'ip-adapter'],
  photo_maker: ['photo_maker', 'photomaker']
}

const folderTypes = new Map(modelTypes.flatMap(type => (folderNames[type] ?? []).map(name => [name, type] as const)))

/** Type of the files in a folder by its name, in any case of letters; undefined for unknown names. */
export function typeOfFolder (name: string): ModelType | undefined {
  return folderTypes.get(name.toLowerCase())
}

/** Name of a new folder for files of a type. */
export function folderOfType (type: ModelType): string {
  return folderNames[type]?.[0] ?? type
}
