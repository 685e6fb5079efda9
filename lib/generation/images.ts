import { apiError, type ApiError } from '../../errors.ts'
import { badValue } from '../http/request-errors.ts'
import { InputImage } from '../media/input.ts'
import type { ModelCatalog } from '../models/catalog.ts'
import type { Model } from '../models/model.ts'
import { imageMismatch, namedOrFirst } from './model.ts'
import type { ImageRequest, RequestAttachments, Setting } from './request.ts'
import { imageLists, imageNames, type ImageListName, type ImageName, type Limits } from './request-schema.ts'

/** The images of a request, with their headers read. */
export type Images = Partial<Record<ImageName, InputImage> & Record<ImageListName, InputImage[]>>

/** Ids of the models beside the main one that look at the images. */
interface ImageModels {
  control_net?: string
  ip_adapter?: string
  photo_maker?: string
}

/** PhotoMaker puts the person in place of this word and the one before it. */
const trigger = /(?:^|[^\p{L}\p{N}_])img(?:$|[^\p{L}\p{N}_])/u

/**
 * Opens the images of a request and finds the models that look at them.
 * @throws {ApiError} SDR_INVALID_REQUEST, SDR_BODY_TOO_LARGE, SDR_MODEL_NOT_FOUND, SDR_UNSUPPORTED_MODEL
 */
export function resolveImages (
  request: ImageRequest, attachments: RequestAttachments, model: Model, { catalog, limits }: Setting
): { images: Images, imageModels: ImageModels } {
  const images = openImages(attachments, limits)
  if (request.strength !== undefined && images.init_image === undefined) {
    throw badValue('strength', 'an init_image', 'none')
  }
  refuseMismatch(request, attachments, model)
  const imageModels = {
    control_net: images.control_image && chooseControlNet(request, model, catalog),
    ip_adapter: chooseIpAdapter(request, images, model, catalog)?.id,
    photo_maker: choosePhotoMaker(request, images, catalog)?.id
  }
  return { images, imageModels }
}

/** @throws {ApiError} SDR_INVALID_REQUEST, SDR_BODY_TOO_LARGE */
export function openImages (attachments: RequestAttachments, limits: Limits): Images {
  const bounds = { maxBytes: limits.maxUploadSize * 1024 * 1024, maxPixels: limits.maxUploadPixels }
  const images: Images = {}
  for (const name of imageNames) {
    if (attachments[name] !== undefined) images[name] = InputImage.open(name, attachments[name], bounds)
  }
  for (const name of imageLists) {
    for (const [index, image] of attachments[name]?.entries() ?? []) {
      (images[name] ??= []).push(InputImage.open(`${name}.${index}`, image, bounds))
    }
  }
  return images
}

function refuseMismatch (request: ImageRequest, attachments: RequestAttachments, model: Model): void {
  const { field, reason } = imageMismatch(attachments, model) ?? {}
  if (field === undefined) return
  const isNamed = request.model !== undefined || request.components?.diffusion !== undefined
  const advice = isNamed
    ? ''
    : ' No other model here can do it either: put one that can into a models folder, then POST /api/models/refresh.'
  throw unsupported(field, `${reason}${advice}`)
}

function chooseControlNet (
  { control_net: idOrName }: ImageRequest, { components }: Model, catalog: ModelCatalog
): string | undefined {
  if (idOrName === undefined && components?.control_net !== undefined) return undefined
  return namedOrFirst('control_net', idOrName, 'controlnet', catalog).id
}

function chooseIpAdapter (
  { ip_adapter, ip_adapter_strength }: ImageRequest, { ip_adapter_image: image }: Images, model: Model,
  catalog: ModelCatalog
): Model | undefined {
  if (image === undefined) return refuseWithout('ip_adapter_image', { ip_adapter, ip_adapter_strength })
  const adapter = namedOrFirst('ip_adapter', ip_adapter, 'ip_adapter', catalog)
  if (adapter.architecture !== null && model.architecture !== null && adapter.architecture !== model.architecture) {
    throw unsupported('ip_adapter',
      `${adapter.id} is made for ${adapter.architecture}, and ${model.id} is ${model.architecture}.`)
  }
  if (model.components?.clip_vision === undefined) namedOrFirst('ip_adapter_image', undefined, 'clip_vision', catalog)
  return adapter
}

function choosePhotoMaker (
  { photo_maker, photo_maker_style_strength, prompt = '' }: ImageRequest, { photo_maker_images: images }: Images,
  catalog: ModelCatalog
): Model | undefined {
  if (images === undefined) return refuseWithout('photo_maker_images', { photo_maker, photo_maker_style_strength })
  if (!trigger.test(prompt)) {
    throw badValue('prompt', "a word for the person followed by img, for example 'a man img in the snow',", prompt)
  }
  const maker = namedOrFirst('photo_maker', photo_maker, 'photo_maker', catalog)
  // The library tells the versions apart in the same way.
  if (maker.path.includes('v2')) {
    throw unsupported('photo_maker',
      `${maker.id} is of version 2 (or lies in a folder with v2 in its name), which needs ` +
      'more of the faces than their pictures. Use version 1.')
  }
  return maker
}

function refuseWithout (image: string, given: Record<string, unknown>): undefined {
  for (const [name, value] of Object.entries(given)) {
    if (value !== undefined) throw badValue(name, `${image} beside it`, 'none')
  }
}

function unsupported (field: string, message: string): ApiError {
  return apiError('SDR_UNSUPPORTED_MODEL', `${field}: ${message}`, { details: { field } })
}
