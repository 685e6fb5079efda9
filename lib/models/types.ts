/** What a model file is used for. The words are the first part of a model's id and part of the API. */
export const modelTypes = [
  'checkpoint', 'diffusion', 'lora', 'vae', 'taesd', 'controlnet', 'upscaler', 'embedding', 'text_encoder', 'clip_vision', 'unknown'
] as const
export type ModelType = typeof modelTypes[number]

/** The types that an image request can name as its `model`: a whole checkpoint, or a diffusion model with its parts. */
export const drawingTypes: readonly ModelType[] = ['checkpoint', 'diffusion']

/** Folder names in collections of A1111 (and Forge), ComfyUI and this server, in lower case → type of the files in it. */
const folderTypes: ReadonlyMap<string, ModelType> = new Map<string, ModelType>([
  ['checkpoint', 'checkpoint'], ['checkpoints', 'checkpoint'], ['stable-diffusion', 'checkpoint'], ['stablediffusion', 'checkpoint'],
  ['diffusion', 'diffusion'], ['diffusion_models', 'diffusion'], ['unet', 'diffusion'], ['unet_gguf', 'diffusion'],
  ['lora', 'lora'], ['loras', 'lora'], ['lycoris', 'lora'], ['locon', 'lora'],
  ['vae', 'vae'],
  ['taesd', 'taesd'], ['vae_approx', 'taesd'], ['vae-approx', 'taesd'],
  ['controlnet', 'controlnet'], ['control_net', 'controlnet'], ['controlnets', 'controlnet'],
  ['upscaler', 'upscaler'], ['upscalers', 'upscaler'], ['upscale_models', 'upscaler'], ['esrgan', 'upscaler'], ['realesrgan', 'upscaler'],
  ['embedding', 'embedding'], ['embeddings', 'embedding'], ['textual_inversion', 'embedding'],
  ['text_encoder', 'text_encoder'], ['text_encoders', 'text_encoder'], ['clip', 'text_encoder'], ['clip_gguf', 'text_encoder'],
  ['clip_vision', 'clip_vision']
])

/** Type that a folder's name gives to its files, in any case of letters; undefined when the name says nothing. */
export function typeOfFolder (name: string): ModelType | undefined {
  return folderTypes.get(name.toLowerCase())
}
