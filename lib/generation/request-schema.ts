import { Type, type TSchema } from '../http/type.ts'
import { cacheModes, maximumSeed, type Capability, type EngineInfo } from '../engine/engine.ts'
import { imageTypes, type ImageType } from '../jobs/job.ts'
import { components, componentNames } from '../models/components.ts'
import type { Options } from '../options/options.ts'
import { longestUrl } from '../jobs/webhooks/delivery.ts'

/** Bounds that the operator sets; errors name the one that was exceeded. */
export type Limits = Pick<Options,
  'maxWidth' | 'maxHeight' | 'maxPixels' | 'maxSteps' | 'maxBatch' | 'maxWork' | 'maxPromptLength' | 'maxLoras' |
  'maxUploadSize' | 'maxUploadPixels' | 'maxUpscaledPixels'>

/** Smallest side in pixels that any supported model draws. */
export const smallestSide = 64

/** How often an upscaler may be applied to its own result. */
const mostRepeats = 4

/** What A1111 and stable-diffusion.cpp take. */
export const defaultStrength = 0.75

/** What the first image is enlarged with before hires draws it again, in the words of stable-diffusion.cpp. */
export const hiresMethods = [
  'Latent', 'Latent (nearest)', 'Latent (nearest-exact)', 'Latent (antialiased)', 'Latent (bicubic)',
  'Latent (bicubic antialiased)', 'Lanczos', 'Nearest'
]

/** How an unfinished image is made visible: by a projection, which costs next to nothing, by a TAESD, or by the VAE. */
const previewModes = ['none', 'proj', 'tae', 'vae']

export const imageNames = ['init_image', 'mask', 'control_image', 'ip_adapter_image'] as const
export type ImageName = typeof imageNames[number]

/** Parameters that are several images. */
export const imageLists = ['ref_images', 'photo_maker_images'] as const
export type ImageListName = typeof imageLists[number]
/** Images of such a list. */
export const mostListedImages = 4

export function isImage (name: string): name is ImageName {
  return (imageNames as readonly string[]).includes(name)
}

export function isImageList (name: string): name is ImageListName {
  return (imageLists as readonly string[]).includes(name)
}

export interface Parameter {
  schema: TSchema
  /** The types of jobs that take it. */
  types: readonly ImageType[]
  /** What the engine has to be able to do when it is given; `loras` are looked at one by one. */
  feature?: Capability
}

const drawing = imageTypes.filter(type => type !== 'upscale')
/** Those that may begin with an image, of which `strength` is left. */
const redrawing = ['img2img', 'inpaint', 'controlnet'] as const

const requiredParameters: Readonly<Record<ImageType, readonly string[]>> = {
  txt2img: ['prompt'],
  img2img: ['prompt', 'init_image'],
  inpaint: ['prompt', 'init_image', 'mask'],
  controlnet: ['prompt', 'control_image'],
  upscale: ['init_image']
}

export function isRequired (type: ImageType, name: string): boolean {
  return requiredParameters[type].includes(name)
}

/**
 * Everything that an image request can say, by name. The schemas of the routes, `GET /api/parameters` and the OpenAPI
 * document are all made from this; samplers and schedulers are those of the running engine.
 */
export function requestParameters (limits: Limits, engine: EngineInfo): Record<string, Parameter> {
  return {
    ...ofTypes(imageTypes, {
      model: modelName('Id or name of the model; the loaded one, else the first that fits, when absent'),
      priority: integer(-10, 10, 'Higher runs first; above 0 is for those who may manage all jobs', { default: 0 }),
      webhook_url: Type.String({
        minLength: 1,
        maxLength: longestUrl,
        description: 'Where the end of the job is posted to, on one of the hosts that --webhook-hosts allows; ' +
          'docs/queue.md says what and how it is signed',
        examples: ['https://hooks.example/images']
      })
    }),
    ...ofTypes(drawing, {
      components: settings('ModelComponents',
        'A model of several files for this job: ' +
        'each of them in the place of what `model` has, or beside a diffusion model',
        Object.fromEntries(componentNames.map(name =>
          [name, modelName(`${components[name].description}: id or name`)])))
    }),
    ...ofTypes(drawing, drawingSchemas(limits, engine)),
    ...ofFeatures(drawing, featureSchemas(limits)),
    ...ofTypes([...redrawing, 'upscale'], { init_image: image('The image to begin with', limits) }),
    ...ofTypes(redrawing, {
      strength: number(0, 1, `How much of the init image may change: 0 nothing, 1 all; ${defaultStrength} when absent`)
    }),
    ...ofTypes(['inpaint'], {
      mask: image('What is white is drawn anew, what is black stays; laid over the init image. In a picture with ' +
        'holes the transparent part is drawn anew', limits)
    }),
    ...ofTypes(['controlnet'], {
      control_image: image('What the ControlNet follows', limits),
      control_net: modelName('Id or name of the ControlNet; the first that there is when absent'),
      control_strength: number(0, 10, 'How strictly the control image is followed', { default: 0.9 })
    }),
    ...ofFeatures(['controlnet'], {
      canny: group('Canny', 'Make an edge drawing of the control image first', {
        low_threshold: number(0, 1, 'Edges weaker than this are none; 0.08 when absent'),
        high_threshold: number(0, 1, 'Edges stronger than this are; 0.08 when absent'),
        weak: number(0, 1, 'Brightness of weak edges; 0.8 when absent'),
        strong: number(0, 1, 'Brightness of strong edges; 1 when absent'),
        inverse: Type.Boolean({ description: 'Dark edges on white' })
      })
    }),
    ...ofFeature('ref_images', drawing, {
      ref_images: images('What the model draws from beside the text, for models that edit or combine images', limits)
    }),
    ...ofFeature('ip_adapter', drawing, {
      ip_adapter_image: image('Whose subject and look the image takes on', limits),
      ip_adapter: modelName('Id or name of the IP-Adapter; the first that there is when absent'),
      ip_adapter_strength: number(0, 10, 'How much the IP-Adapter image counts beside the prompt; 1 when absent')
    }),
    ...ofFeature('photo_maker', drawing, {
      photo_maker_images: images("Photographs of the person that the prompt calls, for example, 'man img'", limits),
      photo_maker: modelName('Id or name of the PhotoMaker model; the first that there is when absent'),
      photo_maker_style_strength: number(0, 100,
        'Per cent of the steps that draw the style alone, before the person counts; 20 when absent')
    }),
    ...ofTypes(['upscale'], {
      repeats: integer(1, mostRepeats, 'How often the upscaler is applied', { default: 1 })
    })
  }
}

/** PNG images of 64 × 64 pixels. */
const [orange, white] = [
  'iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAMAAACdt4HsAAAAA1BMVEXMiES9JMU0AAAAG0lEQVRYw+3BgQAAAADDoPlT3+AEVQEAAAB8' +
    'AxBAAAEZszF2AAAAAElFTkSuQmCC',
  'iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQMAAACQp+OdAAAAA1BMVEX///+nxBvIAAAAD0lEQVQoz2NgGAWjgHwAAAJAAAGMxat3AAAAAElFTkSuQmCC'
]

/** Requests that run as they are, on a server that has a model for them. */
const examples: Record<ImageType, object> = {
  txt2img: { prompt: 'a red fox in the snow', steps: 20, seed: 42 },
  img2img: { prompt: 'an oil painting', init_image: orange, strength: 0.6, steps: 20 },
  inpaint: { prompt: 'a red fox', init_image: orange, mask: white, steps: 20 },
  controlnet: { prompt: 'a red fox', control_image: orange, steps: 20 },
  upscale: { init_image: orange }
}

/** The schema of the body of a request, in JSON or as a form; what it has to have comes first. */
export function bodySchema (type: ImageType, parameters: Record<string, Parameter>, { isForm = false } = {}) {
  const own = Object.entries(parameters).filter(([, { types }]) => types.includes(type))
    .sort(([a], [b]) => Number(isRequired(type, b)) - Number(isRequired(type, a)))
    .map(([name, { schema }]) => [name, isForm ? asFile(name, schema) : schema] as const)
  return object(Object.fromEntries(own.map(([name, schema]) =>
    [name, isRequired(type, name) ? schema : Type.Optional(schema)]
  )), isForm ? {} : { examples: [examples[type]] })
}

/** Images of a form are files; base64 goes on working there. */
function asFile (name: string, schema: TSchema): TSchema {
  if (isImage(name)) return { ...schema, format: 'binary' }
  if (!isImageList(name)) return schema
  return { ...schema, items: { ...(schema as { items?: object }).items, format: 'binary' } }
}

/**
 * What the document says of a job's parameters and result, which are stored as they are: every field that a request of
 * any type can have, but for the images.
 */
export function typedJob (limits: Limits, engine: EngineInfo): Record<string, object> {
  const own = Object.entries(requestParameters(limits, engine)).filter(([name]) => !isImage(name) && !isImageList(name))
  return {
    'Job.parameters': {
      properties: Object.fromEntries(own.map(([name, { schema }]) => [name, schema]))
    },
    'Job.result': {
      properties: {
        model: Type.Unsafe({ type: ['string', 'null'], description: 'Id of the model' }),
        size: Type.Integer({ description: 'Bytes' }),
        sha256: Type.String()
      }
    }
  }
}

function drawingSchemas (limits: Limits, { samplers, schedulers }: EngineInfo): Record<string, TSchema> {
  const { maxSteps, maxBatch, maxLoras: maxItems, maxPromptLength: maxLength } = limits
  return {
    prompt: Type.String({
      maxLength,
      description: 'What to draw, may be empty; <lora:name:weight> adds a LoRA, embedding:name an embedding',
      examples: ['a red fox in the snow']
    }),
    negative_prompt: Type.String({ maxLength, default: '', description: 'What not to draw' }),
    width: side(limits.maxWidth, 'Width; when absent, as the model or the image has it'),
    height: side(limits.maxHeight, 'Height; when absent, as the model or the image has it'),
    steps: integer(1, maxSteps, "Sampling steps; the model's own when absent", { examples: [20] }),
    cfg_scale: number(0, 100, "How strictly the prompt is followed; the model's own when absent", { examples: [7] }),
    img_cfg_scale: number(0, 100, 'How strictly the image is followed, for models that edit; cfg_scale when absent'),
    guidance: number(0, 100, 'Distilled guidance of FLUX-like models', { examples: [3.5] }),
    seed: integer(-1, maximumSeed,
      'Same seed, same image; −1 or absent lets the server choose. Image n of a batch has seed + n', { default: -1 }),
    sampler: choice(samplers, "Sampling method; the model's own when absent", 'Sampler'),
    scheduler: choice(schedulers, "Noise schedule; the model's own when absent", 'Scheduler'),
    eta: number(0, 10, 'Noise that samplers with such a parameter add'),
    batch_count: integer(1, maxBatch, 'How many images', { default: 1 }),
    clip_skip: integer(1, 12, "Layers of CLIP to leave out, counted from the last; the model's own when absent"),
    loras: Type.Array(object({
      name: modelName('Id or name of the LoRA'),
      weight: Type.Optional(number(-10, 10, 'How strongly it counts', { default: 1 }))
    }, { title: 'Lora' }), {
      maxItems,
      description: 'LoRAs to apply, together with those of the prompt; the weights of one that is named twice are added'
    })
  }
}

/** What not every engine has; the names are those of the features. */
function featureSchemas ({ maxWidth, maxHeight, maxSteps }: Limits) {
  return {
    vae_tiling: group('VaeTiling', 'Decode in tiles, which takes less memory', {
      tile_size_x: integer(0, 1024, "Width of a tile in latent pixels; 0 is the engine's choice"),
      tile_size_y: integer(0, 1024, "Height of a tile in latent pixels; 0 is the engine's choice"),
      target_overlap: number(0, 0.5, 'Part of a tile that lies over the next one')
    }),
    cache: object({
      mode: choice(cacheModes, 'How'),
      reuse_threshold: Type.Optional(number(0, 10, 'Up to which difference a step is left out'))
    }, { title: 'StepCache', description: 'Leave out steps that change little: faster, a little less exact' }),
    hires: group('Hires', 'Draw small, enlarge, and draw over it once more', {
      scale: number(1, 8, 'How much larger, unless target_width or target_height say it; 2 when absent'),
      target_width: side(maxWidth, 'Final width'),
      target_height: side(maxHeight, 'Final height'),
      steps: integer(1, maxSteps, 'Steps of the second pass; those of the first when absent'),
      denoising_strength: number(0, 1, 'How much the second pass may change; 0.7 when absent'),
      upscaler: modelName(`${hiresMethods.join(', ')}, or the id or name of an upscaler; Latent when absent`)
    }),
    custom_sigmas: Type.Array(number(0, 10_000, 'Noise'), {
      minItems: 2,
      maxItems: maxSteps + 1,
      description: 'The noise at each step, from the first to the last; takes the place of steps and scheduler'
    }),
    previews: settings('Previews', 'What the events of the job show of the unfinished image', {
      mode: choice(previewModes, 'How; tae needs a model with a TAESD, vae takes as long as decoding an image'),
      interval: integer(200, 60_000, 'Milliseconds from one to the next at least; 1000 when absent')
    }),
    skip_layer_guidance: settings('SkipLayerGuidance',
      'Guide by what the model draws without some of its layers (SD3)', {
        layers: Type.Array(integer(0, 1023, 'Layer'), { maxItems: 256, description: 'Layers to leave out' }),
        start: number(0, 1, 'Part of the steps after which it begins'),
        end: number(0, 1, 'Part of the steps after which it ends'),
        scale: number(0, 100, 'How strongly it counts; 0 is off')
      })
  } satisfies Partial<Record<Capability, TSchema>>
}

function side (maximum: number, description: string) {
  const options = { multipleOf: 8, examples: [512] }
  return integer(smallestSide, maximum, `${description}, in pixels, a multiple of 8`, options)
}

function image (what: string, { maxUploadSize, maxUploadPixels }: Limits) {
  return Type.String({
    minLength: 1,
    description: `${what}: PNG, JPEG or WebP of at most ${maxUploadSize} MiB and ${maxUploadPixels} pixels, as ` +
      'base64 or a data URL, or as a file of a multipart form'
  })
}

function images (what: string, limits: Limits) {
  return Type.Array(image('One of them', limits), {
    minItems: 1,
    maxItems: mostListedImages,
    description: `${what}; in a multipart form a file for each, all with this name`
  })
}

function ofTypes (types: readonly ImageType[], schemas: Record<string, TSchema>): Record<string, Parameter> {
  return Object.fromEntries(Object.entries(schemas).map(([name, schema]) => [name, { schema, types }]))
}

function ofFeature (
  feature: Capability, types: readonly ImageType[], schemas: Record<string, TSchema>
): Record<string, Parameter> {
  return Object.fromEntries(Object.entries(schemas).map(([name, schema]) => [name, { schema, types, feature }]))
}

/** Parameters that are called as what they need. */
function ofFeatures (
  types: readonly ImageType[], schemas: Partial<Record<Capability, TSchema>>
): Record<string, Parameter> {
  return Object.assign({}, ...Object.entries(schemas).map(([name, schema]) =>
    ofFeature(name as Capability, types, { [name]: schema }))) as Record<string, Parameter>
}

function integer (minimum: number, maximum: number, description: string, options: object = {}) {
  return Type.Integer({ minimum, maximum, description, ...options })
}

function number (minimum: number, maximum: number, description: string, options: object = {}) {
  return Type.Number({ minimum, maximum, description, ...options })
}

/** @param title its name in the OpenAPI document. */
function choice (names: readonly string[], description: string, title?: string) {
  return Type.Unsafe<string>({ type: 'string', enum: [...names], description, ...(title !== undefined && { title }) })
}

/** An id or a name of a model. */
function modelName (description: string) {
  return Type.String({ minLength: 1, maxLength: 512, description })
}

/** An object whose fields are all needed, but for those that are `Type.Optional`. */
function object (properties: Record<string, TSchema>, options: object = {}) {
  return Type.Object(properties, { additionalProperties: false, ...options })
}

/** Settings that can be left alone one by one, and switched off together. */
function group (title: string, description: string, properties: Record<string, TSchema>) {
  const enabled = Type.Boolean({ default: true, description: 'Whether it is done' })
  return settings(title, description, { enabled, ...properties })
}

/** Settings that can be left alone one by one. @param title their name in the OpenAPI document. */
function settings (title: string, description: string, properties: Record<string, TSchema>) {
  return object(Type.Partial(Type.Object(properties)).properties, { title, description })
}
