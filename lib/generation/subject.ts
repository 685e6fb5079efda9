import { apiError, type ApiError } from '../../errors.ts'
import type { Model } from '../models/model.ts'
import { namedOrFirst } from './choose-model.ts'
import type { Images } from './images.ts'
import { badValue } from '../http/refusals.ts'
import type { ImageRequest, Setting } from './request.ts'

/** The word that PhotoMaker puts the person in place of, with the word before it. */
const trigger = /(?:^|[^\p{L}\p{N}_])img(?:$|[^\p{L}\p{N}_])/u

interface Subject {
  /** Ids. */
  ip_adapter?: string
  photo_maker?: string
}

/**
 * The models that take in the pictures of a subject.
 * @throws {ApiError} SDR_INVALID_REQUEST, SDR_MODEL_NOT_FOUND, SDR_UNSUPPORTED_MODEL
 */
export function resolveSubject (request: ImageRequest, images: Images, model: Model, setting: Setting): Subject {
  return {
    ip_adapter: chooseIpAdapter(request, images, model, setting)?.id,
    photo_maker: choosePhotoMaker(request, images, setting)?.id
  }
}

function chooseIpAdapter (
  { ip_adapter: wanted, ip_adapter_strength: strength }: ImageRequest, { ip_adapter_image: image }: Images,
  model: Model, { catalog }: Setting
): Model | undefined {
  if (image === undefined) {
    refuseWithout('ip_adapter_image', { ip_adapter: wanted, ip_adapter_strength: strength })
    return undefined
  }
  const adapter = namedOrFirst('ip_adapter', wanted, 'ip_adapter', catalog)
  if (adapter.architecture !== null && model.architecture !== null && adapter.architecture !== model.architecture) {
    throw unsupported('ip_adapter',
      `${adapter.id} is made for ${adapter.architecture}, and ${model.id} is ${model.architecture}.`)
  }
  if (model.parts?.clip_vision === undefined) namedOrFirst('ip_adapter_image', undefined, 'clip_vision', catalog)
  return adapter
}

function choosePhotoMaker (
  { photo_maker: wanted, photo_maker_style_strength: strength, prompt = '' }: ImageRequest,
  { photo_maker_images: images }: Images, { catalog }: Setting
): Model | undefined {
  if (images === undefined) {
    refuseWithout('photo_maker_images', { photo_maker: wanted, photo_maker_style_strength: strength })
    return undefined
  }
  if (!trigger.test(prompt)) {
    throw badValue('prompt', "a word for the person followed by img, for example 'a man img in the snow',", prompt)
  }
  const maker = namedOrFirst('photo_maker', wanted, 'photo_maker', catalog)
  // This is how the library tells the versions apart.
  if (maker.path.includes('v2')) {
    throw unsupported('photo_maker',
      `${maker.id} is of version 2 (or lies in a folder with v2 in its name), which needs ` +
      'more of the faces than their pictures. Use version 1.')
  }
  return maker
}

function refuseWithout (image: string, given: Record<string, unknown>): void {
  for (const [name, value] of Object.entries(given)) {
    if (value !== undefined) throw badValue(name, `${image} beside it`, 'none')
  }
}

function unsupported (field: string, message: string): ApiError {
  return apiError('SDR_UNSUPPORTED_MODEL', `${field}: ${message}`, { details: { field } })
}
