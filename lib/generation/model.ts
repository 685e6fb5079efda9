import { apiError } from '../../errors.ts'
import { aboutField } from '../http/request-errors.ts'
import type { ModelCatalog } from '../models/catalog.ts'
import type { ImageDefaults } from '../models/detect/architectures.ts'
import { type Model, unusableReason } from '../models/model.ts'
import { drawingTypes, type ModelType } from '../models/types.ts'
import { composeModel, lackOfParts, type ComposedModel } from './components.ts'
import type { ImageRequest, RequestAttachments, Setting } from './request.ts'

/** What a model is chosen by. */
type ModelSetting = Pick<Setting, 'catalog' | 'engine' | 'loadedModel'>

/** For models that say nothing of their own. */
const fallback: ImageDefaults = { width: 512, height: 512, steps: 20, cfg_scale: 7, sampler: 'euler_a' }

/**
 * The model that draws a request, with what the request puts in the place of its parts.
 * @throws {ApiError} SDR_INVALID_REQUEST, SDR_MODEL_NOT_FOUND, SDR_UNSUPPORTED_MODEL, SDR_UNSUPPORTED_FEATURE
 */
export function chooseModel (
  request: ImageRequest, attachments: RequestAttachments, setting: ModelSetting
): ComposedModel & { defaults: ImageDefaults } {
  const { catalog, engine } = setting
  const chosen = composeModel(request, catalog, () => loadedOrFirst(drawingTypes, setting, model =>
    imageMismatch(attachments, model) === undefined && lackOfParts(model, engine) === undefined))
  const { model } = chosen
  const lack = lackOfParts(model, engine)
  if (lack !== undefined) throw lack
  return { ...chosen, defaults: { ...fallback, ...model.defaults } }
}

/**
 * The upscaler of a request.
 * @throws {ApiError} SDR_INVALID_REQUEST, SDR_MODEL_NOT_FOUND, SDR_UNSUPPORTED_MODEL
 */
export function chooseUpscaler ({ model }: ImageRequest, setting: Setting): Model {
  if (model === undefined) return loadedOrFirst(['upscaler'], setting)
  return namedOrFirst('model', model, 'upscaler', setting.catalog)
}

/**
 * The model of this type that is named, else the first one.
 * @param field the field that names it, for errors.
 * @throws {ApiError} SDR_INVALID_REQUEST, SDR_MODEL_NOT_FOUND, SDR_UNSUPPORTED_MODEL
 */
export function namedOrFirst (
  field: string, idOrName: string | undefined, type: ModelType, catalog: ModelCatalog
): Model {
  if (idOrName !== undefined) return aboutField(field, () => catalog.resolve(idOrName, { types: [type] }))
  return catalog.firstUsable(type) ?? throwMissing(field, type, catalog)
}

/**
 * The loaded model, else the first in the order of types and ids. Models that can't do the request are passed over,
 * unless there are no others.
 */
function loadedOrFirst (
  types: readonly ModelType[], { catalog, loadedModel }: ModelSetting, canDoIt: (model: Model) => boolean = () => true
): Model {
  const all = catalog.all()
  const loaded = all.filter(({ id, type }) => id === loadedModel && types.includes(type))
  const models = [...loaded, ...types.flatMap(type => all.filter(model => model.type === type))]
    .filter(model => unusableReason(model) === undefined)
  return models.find(canDoIt) ?? models[0] ?? throwMissing('model', types[0]!, catalog)
}

function throwMissing (field: string, type: ModelType, catalog: ModelCatalog): never {
  const unusable = catalog.all().some(({ blocked, error }) => (blocked ?? error) !== undefined)
  const advice = unusable ? ' GET /api/models shows why files that are there can\'t be used.' : ''
  throw apiError('SDR_MODEL_NOT_FOUND', `${field}: There is no usable model of type ${type}. ` +
    `Put one into a models folder, then POST /api/models/refresh.${advice}${catalog.skippedHint}`,
  { details: { field } })
}

/** They have no autoencoder, and draw as if there were no image. */
const drawFromTextAlone = ['minit2i']

/** Architectures that take no reference images, except for their variants that edit. */
const withoutReferences = ['sd1', 'sd2', 'sdxl', 'sdxs', 'sd3', 'minit2i']
const editing = 'pix2pix'

/** Architectures that an IP-Adapter, or PhotoMaker, was made for. */
const withIpAdapter = ['sd1', 'sdxl']
const withPhotoMaker = ['sdxl']

/** Why a model can't draw with these images: the library would silently draw without them. */
export function imageMismatch (
  attachments: RequestAttachments, model: Model
): { field: string, reason: string } | undefined {
  for (const [field, mismatchOf] of Object.entries(mismatches)) {
    const reason = attachments[field as keyof RequestAttachments] === undefined ? undefined : mismatchOf(model)
    if (reason !== undefined) return { field, reason }
  }
}

/** Each returns a sentence, or undefined for a model that takes such images. */
const mismatches: Partial<Record<keyof RequestAttachments, (model: Model) => string | undefined>> = {
  init_image: textAlone,
  control_image: textAlone,
  ref_images: ({ id, architecture, summary }) => {
    if (summary?.variant === editing || !withoutReferences.includes(String(architecture))) return undefined
    return `${id} takes no reference images; models that edit images do, like FLUX.1 Kontext.`
  },
  ip_adapter_image: model => otherThan(withIpAdapter, model),
  photo_maker_images: model => otherThan(withPhotoMaker, model)
}

function textAlone ({ id, architecture }: Model): string | undefined {
  return drawFromTextAlone.includes(String(architecture)) ? `${id} draws from a text alone.` : undefined
}

function otherThan (known: readonly string[], { id, architecture }: Model): string | undefined {
  if (architecture === null || known.includes(architecture)) return undefined
  return `${id} is ${architecture}; this takes ${known.join(' or ')}.`
}
