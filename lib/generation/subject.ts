import { apiError, type ApiError } from '../../errors.ts'
import type { Model } from '../models/model.ts'
import { namedOrFirst } from './choose-model.ts'
import type { Images } from './images.ts'
import { badValue } from './refusals.ts'
import type { ImageRequest, Setting } from './request.ts'

/** Architectures that take no reference images, but for those variants of them that edit. */
const withoutReferences = ['sd1', 'sd2', 'sdxl', 'sdxs', 'sd3', 'minit2i']
const editing = 'pix2pix'

/** Architectures that an IP-Adapter, or PhotoMaker, was made for. */
const withIpAdapter = ['sd1', 'sdxl']
const withPhotoMaker = ['sdxl']

/** The word that PhotoMaker puts the person in place of, with the word before it. */
const trigger = /(?:^|[^\p{L}\p{N}_])img(?:$|[^\p{L}\p{N}_])/u

interface Subject {
  /** Ids. */
  ip_adapter?: string
  photo_maker?: string
}

/**
 * The models that take in the pictures of a subject. What would draw without the pictures, as the library does in
 * silence, is refused.
 * @throws {ApiError} SDR_INVALID_REQUEST, SDR_MODEL_NOT_FOUND, SDR_UNSUPPORTED_MODEL
 */
export function resolveSubject (request: ImageRequest, images: Images, model: Model, setting: Setting): Subject {
  checkReferences(images, model)
  return {
    ip_adapter: chooseIpAdapter(request, images, model, setting)?.id,
    photo_maker: choosePhotoMaker(request, images, model, setting)?.id
  }
}

function checkReferences ({ ref_images: references }: Images, { id, architecture, summary }: Model): void {
  if (references === undefined || summary?.variant === editing) return
  if (withoutReferences.includes(String(architecture))) {
    throw unsupported('ref_images', `${id} takes no reference images; models that edit images do, like FLUX.1 Kontext.`)
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
  checkArchitecture('ip_adapter_image', model, withIpAdapter)
  const adapter = namedOrFirst('ip_adapter', wanted, 'ip_adapter', catalog)
  if (adapter.architecture !== null && model.architecture !== null && adapter.architecture !== model.architecture) {
    throw unsupported('ip_adapter', `${adapter.id} is made for ${adapter.architecture}, and ${model.id} is ${model.architecture}.`)
  }
  if (model.parts?.clip_vision === undefined) namedOrFirst('ip_adapter_image', undefined, 'clip_vision', catalog)
  return adapter
}

function choosePhotoMaker (
  { photo_maker: wanted, photo_maker_style_strength: strength, prompt = '' }: ImageRequest,
  { photo_maker_images: images }: Images, model: Model, { catalog }: Setting
): Model | undefined {
  if (images === undefined) {
    refuseWithout('photo_maker_images', { photo_maker: wanted, photo_maker_style_strength: strength })
    return undefined
  }
  checkArchitecture('photo_maker_images', model, withPhotoMaker)
  if (!trigger.test(prompt)) {
    throw badValue('prompt', "a word for the person followed by img, for example 'a man img in the snow',", prompt)
  }
  const maker = namedOrFirst('photo_maker', wanted, 'photo_maker', catalog)
  // This is how the library tells the versions apart.
  if (maker.path.includes('v2')) {
    throw unsupported('photo_maker', `${maker.id} is of version 2 (or lies in a folder with v2 in its name), which needs ` +
      'more of the faces than their pictures. Use version 1.')
  }
  return maker
}

function refuseWithout (image: string, given: Record<string, unknown>): void {
  for (const [name, value] of Object.entries(given)) {
    if (value !== undefined) throw badValue(name, `${image} beside it`, 'none')
  }
}

function checkArchitecture (field: string, { id, architecture }: Model, known: readonly string[]): void {
  if (architecture === null || known.includes(architecture)) return
  throw unsupported(field, `${id} is ${architecture}; this takes ${known.join(' or ')}.`)
}

function unsupported (field: string, message: string): ApiError {
  return apiError('SDR_UNSUPPORTED_MODEL', `${field}: ${message}`, { details: { field } })
}
