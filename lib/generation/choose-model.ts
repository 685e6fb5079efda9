import { apiError } from '../../errors.ts'
import type { ModelCatalog } from '../models/catalog.ts'
import type { Model } from '../models/model.ts'
import type { ModelType } from '../models/types.ts'
import { aboutField } from './refusals.ts'

/**
 * The model of this type that is named, else the first that there is.
 * @param field what names it; errors tell.
 * @throws {ApiError} SDR_MODEL_NOT_FOUND, SDR_UNSUPPORTED_MODEL
 */
export function namedOrFirst (
  field: string, wanted: string | undefined, type: ModelType, catalog: ModelCatalog
): Model {
  if (wanted !== undefined) return aboutField(field, () => catalog.resolve(wanted, { types: [type] }))
  const model = catalog.firstUsable(type)
  if (model !== undefined) return model
  const message = `There is no model of type ${type}. Put one into a models folder, then POST /api/models/refresh.`
  throw apiError('SDR_MODEL_NOT_FOUND', `${field}: ${message}`, { details: { field } })
}
