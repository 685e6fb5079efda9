import { Type, type TSchema } from 'typebox'
import type { Capability, EngineInfo } from '../engine/engine.ts'
import { jobTypes, type JobType } from '../jobs/job.ts'
import type { Options } from '../options.ts'

/** Bounds that the operator sets; a refusal names the one that was met. */
export type Limits = Pick<Options,
  'maxWidth' | 'maxHeight' | 'maxPixels' | 'maxSteps' | 'maxBatch' | 'maxWork' | 'maxPromptLength' | 'maxLoras' |
  'maxUploadSize' | 'maxUploadPixels' | 'maxUpscaledPixels'>

/** Seeds that every engine takes. */
export const maximumSeed = 2 ** 31 - 1

/** Smallest side in pixels that any supported model draws. */
export const smallestSide = 64

/** How often an upscaler may be applied to its own result. */
const mostRepeats = 4

/** What the first image is enlarged with before hires draws it again, in the words of stable-diffusion.cpp. */
export const hiresMethods = [
  'Latent', 'Latent (nearest)', 'Latent (nearest-exact)', 'Latent (antialiased)', 'Latent (bicubic)',
  'Latent (bicubic antialiased)', 'Lanczos', 'Nearest'
]

const cacheModes = ['disabled', 'easycache', 'ucache', 'dbcache', 'taylorseer', 'cache_dit']

/** What A1111 and stable-diffusion.cpp take. */
export const defaultStrength = 0.75

export const imageNames = ['init_image', 'mask', 'control_image'] as const
export type ImageName = typeof imageNames[number]

export function isImage (name: string): name is ImageName {
  return (imageNames as readonly string[]).includes(name)
}

export interface Parameter {
  schema: TSchema
  /** The types of jobs that take it. */
  types: readonly JobType[]
  /** What the engine has to be able to do when it is given; `loras` are looked at one by one. */
  feature?: Capability
}

const drawing = jobTypes.filter(type => type !== 'upscale')
/** Those that begin with an image, of which `strength` is left. */
const redrawing = ['img2img', 'inpaint', 'controlnet'] as const

const requiredParameters: Readonly<Record<JobType, readonly string[]>> = {
  txt2img: ['prompt'],
  img2img: ['prompt', 'init_image'],
  inpaint: ['prompt', 'init_image', 'mask'],
  controlnet: ['prompt', 'control_image'],
  upscale: ['init_image']
}

export function isRequired (type: JobType, name: string): boolean {
  return requiredParameters[type].includes(name)
}

/**
 * Everything that an image request can say, by name. The schemas of the routes, `GET /api/parameters` and the OpenAPI
 * document are all made from this; samplers and schedulers are those of the running engine.
 */
export function requestParameters (limits: Limits, engine: EngineInfo): Record<string, Parameter> {
  const { maxSteps, maxPromptLength: longestPrompt } = limits
  const side = (maximum: number, description: string) => Type.Integer({
    minimum: smallestSide, maximum, multipleOf: 8, description: `${description}, in pixels, a multiple of 8`, examples: [512]
  })
  const image = (what: string) => Type.String({
    minLength: 1,
    description: `${what}: PNG, JPEG or WebP of at most ${limits.maxUploadSize} MiB and ${limits.maxUploadPixels} pixels, as base64 or a data URL, or as a file of a multipart form`
  })

  return {
    ...ofTypes(jobTypes, {
      model: Type.String({ minLength: 1, maxLength: 512, description: 'Id or name of the model; the loaded one, else the first that fits, when absent' }),
      priority: Type.Integer({ minimum: -10, maximum: 10, default: 0, description: 'Higher runs first; above 0 is for those who may manage all jobs' })
    }),
    ...ofTypes(drawing, {
      prompt: Type.String({ minLength: 1, maxLength: longestPrompt, description: 'What to draw; <lora:name:weight> adds a LoRA, embedding:name an embedding', examples: ['a red fox in the snow'] }),
      negative_prompt: Type.String({ maxLength: longestPrompt, default: '', description: 'What not to draw' }),
      width: side(limits.maxWidth, 'Width; when absent, as the model or the image has it'),
      height: side(limits.maxHeight, 'Height; when absent, as the model or the image has it'),
      steps: Type.Integer({ minimum: 1, maximum: maxSteps, description: "Sampling steps; the model's own when absent", examples: [20] }),
      cfg_scale: Type.Number({ minimum: 0, maximum: 100, description: "How strictly the prompt is followed; the model's own when absent", examples: [7] }),
      img_cfg_scale: Type.Number({ minimum: 0, maximum: 100, description: 'How strictly the image is followed, for models that edit; cfg_scale when absent' }),
      guidance: Type.Number({ minimum: 0, maximum: 100, description: 'Distilled guidance of FLUX-like models', examples: [3.5] }),
      seed: Type.Integer({ minimum: -1, maximum: maximumSeed, default: -1, description: 'Same seed, same image; −1 or absent lets the server choose. Image n of a batch has seed + n' }),
      sampler: choice(engine.samplers, "Sampling method; the model's own when absent"),
      scheduler: choice(engine.schedulers, "Noise schedule; the model's own when absent"),
      eta: Type.Number({ minimum: 0, maximum: 10, description: 'Noise that samplers with such a parameter add' }),
      batch_count: Type.Integer({ minimum: 1, maximum: limits.maxBatch, default: 1, description: 'How many images' }),
      clip_skip: Type.Integer({ minimum: 1, maximum: 12, description: "Layers of CLIP to leave out, counted from the last; the model's own when absent" }),
      loras: Type.Array(object({
        name: Type.String({ minLength: 1, maxLength: 512, description: 'Id or name of the LoRA' }),
        weight: Type.Optional(Type.Number({ minimum: -10, maximum: 10, default: 1, description: 'How strongly it counts' }))
      }), { maxItems: limits.maxLoras, description: 'LoRAs to apply, together with those of the prompt; the weights of one that is named twice are added' })
    }),
    ...ofTypes(drawing, {
      vae_tiling: group({
        tile_size_x: Type.Integer({ minimum: 0, maximum: 1024, description: "Width of a tile in latent pixels; 0 is the engine's choice" }),
        tile_size_y: Type.Integer({ minimum: 0, maximum: 1024, description: "Height of a tile in latent pixels; 0 is the engine's choice" }),
        target_overlap: Type.Number({ minimum: 0, maximum: 0.5, description: 'Part of a tile that lies over the next one' })
      }, 'Decode in tiles, which takes less memory')
    }, 'vae_tiling'),
    ...ofTypes(drawing, {
      cache: object({
        mode: choice(cacheModes, 'How'),
        reuse_threshold: Type.Optional(Type.Number({ minimum: 0, maximum: 10, description: 'Up to which difference a step is left out' }))
      }, { description: 'Leave out steps that change little: faster, a little less exact' })
    }, 'cache'),
    ...ofTypes(drawing, {
      hires: group({
        scale: Type.Number({ minimum: 1, maximum: 8, description: 'How much larger, unless target_width or target_height say it; 2 when absent' }),
        target_width: side(limits.maxWidth, 'Final width'),
        target_height: side(limits.maxHeight, 'Final height'),
        steps: Type.Integer({ minimum: 1, maximum: maxSteps, description: 'Steps of the second pass; those of the first when absent' }),
        denoising_strength: Type.Number({ minimum: 0, maximum: 1, description: 'How much the second pass may change; 0.7 when absent' }),
        upscaler: Type.String({ minLength: 1, maxLength: 512, description: `What enlarges: ${hiresMethods.join(', ')}, or the id or name of an upscaler; Latent when absent` })
      }, 'Draw small, enlarge, and draw over it once more')
    }, 'hires'),
    ...ofTypes(drawing, {
      custom_sigmas: Type.Array(Type.Number({ minimum: 0, maximum: 10_000 }), {
        minItems: 2, maxItems: maxSteps + 1, description: 'The noise at each step, from the first to the last; takes the place of steps and scheduler'
      })
    }, 'custom_sigmas'),
    ...ofTypes(drawing, {
      skip_layer_guidance: object(Type.Partial(Type.Object({
        layers: Type.Array(Type.Integer({ minimum: 0, maximum: 1023 }), { maxItems: 256, description: 'Layers to leave out' }),
        start: Type.Number({ minimum: 0, maximum: 1, description: 'Part of the steps after which it begins' }),
        end: Type.Number({ minimum: 0, maximum: 1, description: 'Part of the steps after which it ends' }),
        scale: Type.Number({ minimum: 0, maximum: 100, description: 'How strongly it counts; 0 is off' })
      })).properties, { description: 'Guide by what the model draws without some of its layers (SD3)' })
    }, 'skip_layer_guidance'),
    ...ofTypes([...redrawing, 'upscale'], { init_image: image('The image to begin with') }),
    ...ofTypes(redrawing, {
      strength: Type.Number({ minimum: 0, maximum: 1, description: `How much of the init image may change: 0 nothing, 1 everything; ${defaultStrength} when absent` })
    }),
    ...ofTypes(['inpaint'], { mask: image('What is white is drawn anew, what is black or transparent stays; laid over the init image') }),
    ...ofTypes(['controlnet'], {
      control_image: image('What the ControlNet follows'),
      control_net: Type.String({ minLength: 1, maxLength: 512, description: 'Id or name of the ControlNet; the first that there is when absent' }),
      control_strength: Type.Number({ minimum: 0, maximum: 10, default: 0.9, description: 'How strictly the control image is followed' })
    }),
    ...ofTypes(['controlnet'], {
      canny: group({
        low_threshold: unitNumber('Edges weaker than this are none; 0.08 when absent'),
        high_threshold: unitNumber('Edges stronger than this are; 0.08 when absent'),
        weak: unitNumber('Brightness of weak edges; 0.8 when absent'),
        strong: unitNumber('Brightness of strong edges; 1 when absent'),
        inverse: Type.Boolean({ description: 'Dark edges on white' })
      }, 'Make an edge drawing of the control image first')
    }, 'canny'),
    ...ofTypes(['upscale'], {
      repeats: Type.Integer({ minimum: 1, maximum: mostRepeats, default: 1, description: 'How often the upscaler is applied' })
    })
  }
}

/** The schema of the body of a request. */
export function bodySchema (type: JobType, parameters: Record<string, Parameter>) {
  const own = Object.entries(parameters).filter(([, { types }]) => types.includes(type))
  return object(Object.fromEntries(own.map(([name, { schema }]) => [name, isRequired(type, name) ? schema : Type.Optional(schema)])))
}

function ofTypes (types: readonly JobType[], schemas: Record<string, TSchema>, feature?: Capability): Record<string, Parameter> {
  return Object.fromEntries(Object.entries(schemas).map(([name, schema]) => [name, { schema, types, ...(feature && { feature }) }]))
}

function choice (names: readonly string[], description: string) {
  return Type.Unsafe<string>({ type: 'string', enum: [...names], description })
}

function unitNumber (description: string) {
  return Type.Number({ minimum: 0, maximum: 1, description })
}

function object (properties: Record<string, TSchema>, options: object = {}) {
  return Type.Object(properties, { additionalProperties: false, ...options })
}

/** Settings that can be left alone one by one, and switched off together. */
function group (properties: Record<string, TSchema>, description: string) {
  const enabled = Type.Boolean({ default: true, description: 'Whether it is done' })
  return object(Type.Partial(Type.Object({ enabled, ...properties })).properties, { description })
}
