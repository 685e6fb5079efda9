import { apiError } from '../../errors.ts'
import type { ModelCatalog } from '../models/catalog.ts'
import { type Model, obstacleTo } from '../models/model.ts'
import type { ModelType } from '../models/types.ts'
import { aboutField } from '../http/refusals.ts'
import type { Setting } from './request.ts'

/**
 * The model of this type that is named, else the first that there is.
 * @param field what names it; errors tell.
 * @throws {ApiError} SDR_MODEL_NOT_FOUND, SDR_UNSUPPORTED_MODEL
 */
export function namedOrFirst (
  field: string, wanted: string | undefined, type: ModelType, catalog: ModelCatalog
): Model {
  if (wanted !== undefined) return aboutField(field, () => catalog.resolve(wanted, { types: [type] }))
  return catalog.firstUsable(type) ?? refuseWithout(field, type, catalog)
}

/**
 * The model for a request that names none: the loaded one, else the first in the order of types and ids. What can't do
 * the request is passed over, unless nothing else is there.
 * @throws {ApiError} SDR_MODEL_NOT_FOUND
 */
export function loadedOrFirst (
  types: readonly ModelType[], { catalog, loadedModel }: Setting, canDoIt: (model: Model) => boolean = () => true
): Model {
  const models = [...candidates(types, catalog, loadedModel)]
  return models.find(canDoIt) ?? models[0] ?? refuseWithout('model', types[0]!, catalog)
}

function * candidates (
  types: readonly ModelType[], catalog: ModelCatalog, loadedModel: string | null
): Generator<Model> {
  const all = catalog.all()
  const loaded = all.filter(({ id, type }) => id === loadedModel && types.includes(type))
  for (const model of [...loaded, ...types.flatMap(type => all.filter(model => model.type === type))]) {
    if (obstacleTo(model) === undefined) yield model
  }
}

function refuseWithout (field: string, type: ModelType, catalog: ModelCatalog): never {
  const unusable = catalog.all().some(({ blocked, error }) => (blocked ?? error) !== undefined)
  const advice = unusable ? ' GET /api/models shows why files that are there can\'t be used.' : ''
  throw apiError('SDR_MODEL_NOT_FOUND', `${field}: There is no usable model of type ${type}. ` +
    `Put one into a models folder, then POST /api/models/refresh.${advice}${catalog.skippedHint}`,
  { details: { field } })
}
