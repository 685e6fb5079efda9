import { randomInt } from 'node:crypto'
import { apiError } from '../../errors.ts'
import { maximumSeed } from '../engine/engine.ts'
import type { Attachments, ImageType, NewJob } from '../jobs/job.ts'
import type { ImageDefaults } from '../models/detect/architectures.ts'
import type { ModelCatalog } from '../models/catalog.ts'
import type { Model } from '../models/model.ts'
import { drawingTypes } from '../models/types.ts'
import { loadedOrFirst, namedOrFirst } from './choose-model.ts'
import { composeModel, lackOfParts, requireParts, type ComposedModel } from './components.ts'
import { openImages, unpackImages, type Images } from './images.ts'
import { objectionToImages, type GivenImages } from './model-images.ts'
import { defaultStrength, hiresMethods } from './parameters.ts'
import { resolvePrompts } from './prompts.ts'
import { aboutField, badValue, requireFeature } from '../http/refusals.ts'
import { resolveSubject } from './subject.ts'
import type { HiresRequest, ImageRequest, Setting, Uploads } from './request.ts'
import { checkWork, chooseSize } from './size.ts'

interface PreparedJob {
  job: Pick<NewJob, 'type' | 'model' | 'priority' | 'parameters' | 'request' | 'webhookUrl'>
  attachments: Attachments
}

/** For models of which nothing is known. */
const fallback: ImageDefaults = { width: 512, height: 512, steps: 20, cfg_scale: 7, sampler: 'euler_a' }

/** Pixels of the result for each pixel of the image, in either direction: what nearly every upscaler makes. */
const upscaleFactor = 4

/**
 * Makes a job of a request: finds the models, fills in what the model wants, chooses the seed, unpacks the images to
 * the size they are needed in, and refuses what would only fail later in the engine. The parameters of the job, sent
 * again with the same images, make the same job.
 * @throws {ApiError} SDR_INVALID_REQUEST, SDR_BODY_TOO_LARGE, SDR_FORBIDDEN, SDR_MODEL_NOT_FOUND,
 * SDR_UNSUPPORTED_MODEL, SDR_UNSUPPORTED_FEATURE, SDR_UNAVAILABLE, SDR_RATE_LIMITED
 */
export async function prepareJob (
  type: ImageType, request: ImageRequest, uploads: Uploads, setting: Setting
): Promise<PreparedJob> {
  requireFeatures(type, request, uploads, setting)
  const { priority = 0, webhook_url: webhookUrl } = request
  if (priority > 0 && !setting.mayHurry) {
    throw apiError('SDR_FORBIDDEN', 'priority: above 0 is for those who may manage all jobs (jobs:all).')
  }
  const prepare = type === 'upscale' ? prepareUpscaling : prepareDrawing
  const { model, parameters, attachments } = await prepare(request, uploads, setting)
  return { job: { type, model, priority, parameters: { model, ...parameters }, request, webhookUrl }, attachments }
}

function requireFeatures (
  type: ImageType, request: ImageRequest, uploads: Uploads, { engine, parameters }: Setting
): void {
  requireFeature(type, engine)
  if (type === 'controlnet' && uploads.init_image !== undefined) requireFeature('img2img', engine, 'init_image')
  for (const [name, { feature }] of Object.entries(parameters)) {
    const given = request[name] ?? uploads[name as keyof Uploads]
    const isAsked = given !== undefined && !isOff(given)
    if (feature !== undefined && isAsked) requireFeature(feature, engine, name)
  }
}

interface Prepared {
  /** Id. */
  model: string
  parameters: Record<string, unknown>
  attachments: Attachments
}

async function prepareUpscaling (
  { model: wanted, repeats = 1 }: ImageRequest, uploads: Uploads, setting: Setting
): Promise<Prepared> {
  const model = wanted === undefined
    ? loadedOrFirst(['upscaler'], setting)
    : namedOrFirst('model', wanted, 'upscaler', setting.catalog)
  const image = openImages(uploads, setting).init_image!
  const { width, height } = image
  const most = Math.floor(setting.limits.maxUpscaledPixels / upscaleFactor ** (2 * repeats))
  if (width * height > most) {
    const expected = `an image of at most ${most} pixels with repeats ${repeats} (--max-upscaled-pixels)`
    throw badValue('init_image', expected, `one of ${width} × ${height}`)
  }
  const attachments = { init_image: await image.toPng({ width, height, channels: 3 }, setting.decoder) }
  return { model: model.id, parameters: { repeats }, attachments }
}

async function prepareDrawing (request: ImageRequest, uploads: Uploads, setting: Setting): Promise<Prepared> {
  const { catalog, limits } = setting
  const { model, components } = chooseDrawingModel(request, uploads, setting)
  requireParts(model, setting.engine)
  const prompts = resolvePrompts(request, setting)
  const images = openImages(uploads, setting)
  checkImages(request, images, model)
  const parameters = inUse({
    ...withDefaults(request, model, images, setting),
    ...prompts,
    components,
    control_net: images.control_image && chooseControlNet(request.control_net, model, setting),
    hires: request.hires && resolveHires(request.hires, catalog),
    ...resolveSubject(request, images, model, setting)
  })
  checkWork(parameters, model, limits)
  return { model: model.id, parameters, attachments: await unpackImages(images, parameters, setting.decoder) }
}

function chooseDrawingModel (
  { model: wanted, components = {} }: ImageRequest, images: GivenImages, setting: Setting
): ComposedModel {
  const { catalog, engine } = setting
  const choose = () => loadedOrFirst(drawingTypes, setting, model =>
    objectionToImages(images, model) === undefined && lackOfParts(model, engine) === undefined)
  if (Object.keys(components).length > 0) return composeModel(wanted, components, catalog, choose)
  return {
    model: wanted === undefined
      ? choose()
      : aboutField('model', () => catalog.resolve(wanted, { types: drawingTypes }))
  }
}

function chooseControlNet (wanted: string | undefined, { parts }: Model, { catalog }: Setting): string | undefined {
  if (wanted === undefined && parts?.control_net !== undefined) return undefined
  return namedOrFirst('control_net', wanted, 'controlnet', catalog).id
}

function resolveHires (hires: HiresRequest, catalog: ModelCatalog): HiresRequest {
  const { upscaler } = hires
  if (upscaler === undefined || hiresMethods.includes(upscaler)) return hires
  const { id } = aboutField('hires.upscaler', () => catalog.resolve(upscaler, { types: ['upscaler'] }))
  return { ...hires, upscaler: id }
}

function checkImages ({ strength, model: wanted, components }: ImageRequest, images: Images, model: Model): void {
  if (strength !== undefined && images.init_image === undefined) throw badValue('strength', 'an init_image', 'none')
  const objection = objectionToImages(images, model)
  if (objection === undefined) return
  const { field, reason } = objection
  const isNamed = wanted !== undefined || components?.diffusion !== undefined
  const advice = isNamed
    ? ''
    : ' No other model here can do it either: put one that can into a models folder, then POST /api/models/refresh.'
  throw apiError('SDR_UNSUPPORTED_MODEL', `${field}: ${reason}${advice}`, { details: { field } })
}

function withDefaults (request: ImageRequest, model: Model, images: Images, { engine, limits }: Setting) {
  const { model: _, priority, webhook_url: webhookUrl, ...given } = request
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

/** Without what is not there, and what is switched off. */
function inUse<Values extends object> (values: Values): Values {
  const used = Object.entries(values).filter(([, value]) => value !== undefined && !isOff(value))
  return Object.fromEntries(used) as Values
}

function isOff (value: unknown): boolean {
  return typeof value === 'object' && value !== null && 'enabled' in value && value.enabled === false
}
