import { randomInt } from 'node:crypto'
import { apiError } from '../../errors.ts'
import type { EngineInfo } from '../engine/engine.ts'
import { InputImage } from '../images/input.ts'
import type { Attachments, JobType, NewJob } from '../jobs/job.ts'
import type { ImageDefaults } from '../models/architectures.ts'
import type { ModelCatalog } from '../models/catalog.ts'
import type { Model } from '../models/model.ts'
import { drawingTypes, type ModelType } from '../models/types.ts'
import { resolveLoras } from './loras.ts'
import {
  defaultStrength, hiresMethods, imageNames, maximumSeed, requestParameters, type ImageName, type Limits
} from './parameters.ts'
import { checkNegativePrompt, readPrompt, replaceEmbeddings, type LoraRequest } from './prompt.ts'
import { aboutField, badValue, requireFeature } from './refusals.ts'
import { checkWork, chooseSize, type Hires, type Size } from './size.ts'

/** A request after its schema was checked; which fields there are, the type of the job decides. */
export interface ImageRequest {
  prompt?: string
  negative_prompt?: string
  model?: string
  width?: number
  height?: number
  steps?: number
  cfg_scale?: number
  guidance?: number
  seed?: number
  sampler?: string
  scheduler?: string
  batch_count?: number
  priority?: number
  strength?: number
  loras?: Array<{ name: string, weight?: number }>
  hires?: Hires & { upscaler?: string }
  custom_sigmas?: number[]
  control_net?: string
  repeats?: number
  [parameter: string]: unknown
}

/** Images as they came: text that holds one, or the bytes of a file. */
export type Uploads = Partial<Record<ImageName, string | Uint8Array>>

export interface Setting {
  catalog: ModelCatalog
  engine: EngineInfo
  limits: Limits
  /** Id of the model in the engine's memory: what a request without a model means. */
  loadedModel: string | null
  /** Whether the caller may put a job before those of others. */
  mayHurry: boolean
}

export interface PreparedJob {
  job: Pick<NewJob, 'type' | 'model' | 'priority' | 'parameters' | 'request'>
  attachments: Attachments
}

type Images = Partial<Record<ImageName, InputImage>>

/** For models of which nothing is known. */
const fallback: ImageDefaults = { width: 512, height: 512, steps: 20, cfg_scale: 7, sampler: 'euler_a' }

/** Pixels of the result for each pixel of the image, in either direction: what nearly every upscaler makes. */
const upscaleFactor = 4

/** They have no autoencoder, and draw as if there were no image. */
const drawFromTextAlone = ['minit2i']

/**
 * Makes a job of a request: finds the models, fills in what the model wants, chooses the seed, unpacks the images to the
 * size they are needed in, and refuses what would only fail later in the engine. The parameters of the job, sent again,
 * with the same images, make the same job.
 * @throws {ApiError} SDR_INVALID_REQUEST, SDR_BODY_TOO_LARGE, SDR_FORBIDDEN, SDR_MODEL_NOT_FOUND, SDR_UNSUPPORTED_MODEL,
 * SDR_UNSUPPORTED_FEATURE, SDR_UNAVAILABLE
 */
export async function prepareJob (type: JobType, request: ImageRequest, uploads: Uploads, setting: Setting): Promise<PreparedJob> {
  requireFeatures(type, request, uploads, setting)
  const { priority = 0 } = request
  if (priority > 0 && !setting.mayHurry) {
    throw apiError('SDR_FORBIDDEN', 'priority: above 0 is for those who may manage all jobs (jobs:all).')
  }
  const prepare = type === 'upscale' ? prepareUpscaling : prepareDrawing
  const { model, parameters, attachments } = await prepare(request, uploads, setting)
  return { job: { type, model: model.id, priority, parameters: { model: model.id, ...parameters }, request }, attachments }
}

function requireFeatures (type: JobType, request: ImageRequest, uploads: Uploads, { engine, limits }: Setting): void {
  requireFeature(type, engine)
  if (type === 'controlnet' && uploads.init_image !== undefined) requireFeature('img2img', engine, 'init_image')
  for (const [name, { feature }] of Object.entries(requestParameters(limits, engine))) {
    const value = request[name]
    if (feature !== undefined && value !== undefined && !isOff(value)) requireFeature(feature, engine, name)
  }
}

interface Prepared extends Pick<PreparedJob, 'attachments'> {
  model: Model
  parameters: Record<string, unknown>
}

async function prepareUpscaling ({ model: wanted, repeats = 1 }: ImageRequest, uploads: Uploads, setting: Setting): Promise<Prepared> {
  const model = chooseModel(wanted, ['upscaler'], setting)
  const { init_image: image } = await openImages(uploads, setting)
  const { width, height } = image!
  const factor = upscaleFactor ** repeats
  const most = setting.limits.maxUpscaledPixels
  if (width * height * factor ** 2 > most) {
    throw badValue('init_image', `an image of at most ${Math.floor(most / factor ** 2)} pixels (--max-upscaled-pixels) with repeats ${repeats}`, `one of ${width} × ${height}`)
  }
  return { model, parameters: { repeats }, attachments: { init_image: await image!.toPng({ width, height, channels: 3 }) } }
}

async function prepareDrawing (request: ImageRequest, uploads: Uploads, setting: Setting): Promise<Prepared> {
  const { catalog, limits } = setting
  const model = chooseModel(request.model, drawingTypes, setting)
  const prompts = readPrompts(request, setting)
  const images = await openImages(uploads, setting)
  const parameters = inUse({
    ...withDefaults(request, model, images, setting),
    ...prompts,
    control_net: images.control_image && chooseControlNet(request.control_net, setting),
    hires: request.hires && resolveHires(request.hires, catalog)
  })
  checkStrength(request, images, model)
  checkWork(parameters, model, limits)
  return { model, parameters, attachments: await unpack(images, parameters) }
}

function chooseModel (wanted: string | undefined, types: readonly ModelType[], { catalog, loadedModel }: Setting): Model {
  if (wanted !== undefined) return aboutField('model', () => catalog.resolve(wanted, { types }))
  const loaded = loadedModel === null ? undefined : catalog.get(loadedModel)
  const model = loaded !== undefined && types.includes(loaded.type) ? loaded : catalog.firstUsable(types[0]!)
  if (model !== undefined) return model
  throw apiError('SDR_MODEL_NOT_FOUND', `There is no model of type ${types[0]}. Put one into a models folder, then POST /api/models/refresh.`)
}

function chooseControlNet (wanted: string | undefined, { catalog }: Setting): string {
  const types = ['controlnet'] as const
  if (wanted !== undefined) return aboutField('control_net', () => catalog.resolve(wanted, { types })).id
  const model = catalog.firstUsable('controlnet')
  if (model !== undefined) return model.id
  throw apiError('SDR_MODEL_NOT_FOUND', 'control_net: There is no ControlNet. Put one into a models folder, then POST /api/models/refresh.')
}

function readPrompts ({ prompt = '', negative_prompt: negative = '', loras = [] }: ImageRequest, setting: Setting) {
  const { text, loras: inPrompt } = readPrompt(prompt, setting.limits)
  checkNegativePrompt(negative)
  const wanted: LoraRequest[] = [...loras.map(({ name, weight = 1 }) => ({ name, weight })), ...inPrompt]
  const resolved = resolveLoras(wanted, setting)
  return {
    prompt: replaceEmbeddings(text, name => embeddingName('prompt', name, setting)),
    negative_prompt: replaceEmbeddings(negative, name => embeddingName('negative_prompt', name, setting)),
    loras: resolved.length > 0 ? resolved : undefined
  }
}

/** Engines call an embedding by the name of its file. */
function embeddingName (field: string, name: string, { catalog, engine }: Setting): string {
  requireFeature('embeddings', engine, field)
  return aboutField(field, () => catalog.resolve(name, { types: ['embedding'] })).name
}

function resolveHires (hires: Hires & { upscaler?: string }, catalog: ModelCatalog): object {
  const { upscaler } = hires
  if (upscaler === undefined || hiresMethods.includes(upscaler)) return hires
  return { ...hires, upscaler: aboutField('hires.upscaler', () => catalog.resolve(upscaler, { types: ['upscaler'] })).id }
}

async function openImages (uploads: Uploads, { limits }: Setting): Promise<Images> {
  const bounds = { maxBytes: limits.maxUploadSize * 1024 * 1024, maxPixels: limits.maxUploadPixels }
  const images: Images = {}
  for (const name of imageNames) {
    if (uploads[name] !== undefined) images[name] = await InputImage.open(name, uploads[name], bounds)
  }
  return images
}

function withDefaults (request: ImageRequest, model: Model, images: Images, { engine, limits }: Setting) {
  const { model: _, priority, ...given } = request
  const { seed = -1, batch_count = 1, custom_sigmas: sigmas } = request
  const defaults = { ...fallback, ...model.defaults }
  return {
    ...given,
    ...chooseSize(request, model, defaults, images.init_image ?? images.control_image, limits),
    steps: sigmas === undefined ? request.steps ?? Math.min(defaults.steps, limits.maxSteps) : sigmas.length - 1,
    cfg_scale: request.cfg_scale ?? defaults.cfg_scale,
    guidance: request.guidance ?? defaults.guidance,
    sampler: request.sampler ?? knownTo(engine.samplers, defaults.sampler),
    scheduler: request.scheduler ?? knownTo(engine.schedulers, defaults.scheduler),
    seed: seed === -1 ? randomInt(maximumSeed - batch_count) : seed,
    batch_count,
    strength: request.strength ?? (images.init_image && defaultStrength)
  }
}

/** A default that this engine does not have is left to the engine. */
function knownTo (names: readonly string[], name: string | undefined): string | undefined {
  return name !== undefined && names.includes(name) ? name : undefined
}

function checkStrength ({ strength }: ImageRequest, { init_image: image }: Images, { id, architecture }: Model): void {
  if (strength !== undefined && image === undefined) throw badValue('strength', 'an init_image', 'none')
  if (image !== undefined && drawFromTextAlone.includes(String(architecture))) {
    throw apiError('SDR_UNSUPPORTED_MODEL', `init_image: ${id} draws from a text alone.`, { details: { field: 'init_image' } })
  }
}

/** In the size of the job. The mask is laid over the init image, so that both are cut alike. */
async function unpack ({ init_image: init, mask, control_image: control }: Images, { width, height }: Size): Promise<Attachments> {
  return {
    ...(init && { init_image: await init.toPng({ width, height, channels: 3 }) }),
    ...(mask && { mask: await mask.toPng({ width, height, channels: 1, over: init }) }),
    ...(control && { control_image: await control.toPng({ width, height, channels: 3 }) })
  }
}

/** Without what is not there, and what is switched off. */
function inUse<Values extends object> (values: Values): Values {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined && !isOff(value))) as Values
}

function isOff (value: unknown): boolean {
  return typeof value === 'object' && value !== null && 'enabled' in value && value.enabled === false
}
