import { apiError } from '../../errors.ts'
import { badValue, requireFeature } from '../http/request-errors.ts'
import type { Attachments, ImageType, NewJob } from '../jobs/job.ts'
import { unpackImages } from './attachments.ts'
import { checkBounds } from './bounds.ts'
import { openImages, resolveImages } from './images.ts'
import { chooseModel, chooseUpscaler } from './model.ts'
import { fillIn, isOff } from './parameters.ts'
import { resolvePrompts } from './prompts.ts'
import type { ImageRequest, RequestAttachments, Setting } from './request.ts'
import { chooseSize } from './size.ts'

interface PreparedJob {
  job: Pick<NewJob, 'type' | 'model' | 'priority' | 'parameters' | 'request' | 'webhookUrl'>
  attachments: Attachments
}

/** Pixels of the result for each pixel of the image, in either direction: what nearly every upscaler makes. */
const upscaleFactor = 4

/**
 * Makes a job of a request: finds the models, fills in the defaults of the model, unpacks the images to the size they
 * are needed in, and refuses what would only fail later in the engine. The parameters of the job, sent again with the
 * same images, make the same job once the queue has chosen a seed.
 * @throws {ApiError} SDR_INVALID_REQUEST, SDR_BODY_TOO_LARGE, SDR_FORBIDDEN, SDR_MODEL_NOT_FOUND,
 * SDR_UNSUPPORTED_MODEL, SDR_UNSUPPORTED_FEATURE, SDR_UNAVAILABLE, SDR_RATE_LIMITED
 */
export async function prepareJob (
  type: ImageType, request: ImageRequest, attachments: RequestAttachments, setting: Setting
): Promise<PreparedJob> {
  requireFeatures(type, { ...request, ...attachments }, setting)
  const { priority = 0, webhook_url: webhookUrl } = request
  if (priority > 0 && !setting.mayRaisePriority) {
    throw apiError('SDR_FORBIDDEN', 'priority: above 0 is for those who may manage all jobs (jobs:all).')
  }
  const prepare = type === 'upscale' ? prepareUpscaling : prepareDrawing
  const { model, parameters, attachments: unpacked } = await prepare(request, attachments, setting)
  return {
    job: { type, model, priority, parameters: { model, ...parameters }, request, webhookUrl }, attachments: unpacked
  }
}

function requireFeatures (type: ImageType, given: Record<string, unknown>, { engine, parameters }: Setting): void {
  requireFeature(type, engine)
  if (type === 'controlnet' && given.init_image !== undefined) requireFeature('img2img', engine, 'init_image')
  for (const [name, { feature }] of Object.entries(parameters)) {
    const isUsed = given[name] !== undefined && !isOff(given[name])
    if (feature !== undefined && isUsed) requireFeature(feature, engine, name)
  }
}

interface Prepared {
  /** Id. */
  model: string
  parameters: Record<string, unknown>
  attachments: Attachments
}

async function prepareUpscaling (
  request: ImageRequest, attachments: RequestAttachments, setting: Setting
): Promise<Prepared> {
  const { limits, decoder } = setting
  const { repeats = 1 } = request
  const model = chooseUpscaler(request, setting)
  const images = openImages(attachments, limits)
  const { width, height } = images.init_image!
  const most = Math.floor(limits.maxUpscaledPixels / upscaleFactor ** (2 * repeats))
  if (width * height > most) {
    const expected = `an image of at most ${most} pixels with repeats ${repeats} (--max-upscaled-pixels)`
    throw badValue('init_image', expected, `one of ${width} × ${height}`)
  }
  return {
    model: model.id, parameters: { repeats }, attachments: await unpackImages(images, { width, height }, decoder)
  }
}

async function prepareDrawing (
  request: ImageRequest, attachments: RequestAttachments, setting: Setting
): Promise<Prepared> {
  const { limits, decoder } = setting
  const { model, components, defaults } = chooseModel(request, attachments, setting)
  const prompts = resolvePrompts(request, model, setting)
  const { images, imageModels } = resolveImages(request, attachments, model, setting)
  const shape = images.init_image ?? images.control_image ??
    (setting.roundsSize === true ? images.ref_images?.[0] : undefined)
  const size = chooseSize(request, model, defaults, shape, limits, setting.roundsSize)
  const filled = { ...request, components, ...prompts, ...imageModels, ...size }
  const parameters = fillIn(filled, defaults, images, setting)
  checkBounds(parameters, model, limits)
  return { model: model.id, parameters, attachments: await unpackImages(images, size, decoder, setting) }
}
