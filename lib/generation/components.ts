import { apiError, type ApiError } from '../../errors.ts'
import type { ModelCatalog } from '../models/catalog.ts'
import {
  components, componentNames, compose, featuresOf, objectionTo, type ComponentName, type Components
} from '../models/components.ts'
import type { Model } from '../models/model.ts'
import { drawingTypes } from '../models/types.ts'
import { aboutField, badValue, lackOf } from '../http/refusals.ts'
import type { EngineInfo } from '../engine/engine.ts'

/** A model that is put together for one request. */
export interface ComposedModel {
  model: Model
  /** Ids of what is put beside it or in the place of its parts; the diffusion model is `model` itself. */
  components?: Components<string>
}

/**
 * Finds what a request puts together. `model` (an id or a name) or `components.diffusion` is the part that draws, and
 * decides about sizes and defaults; a checkpoint or a model of several files keeps what is not replaced.
 * @param otherwise the model when neither is given.
 * @throws {ApiError} SDR_INVALID_REQUEST, SDR_MODEL_NOT_FOUND, SDR_UNSUPPORTED_MODEL naming the field.
 */
export function composeModel (
  wanted: string | undefined, parts: Components<string>, catalog: ModelCatalog, otherwise?: () => Model
): ComposedModel {
  const { diffusion, ...beside } = parts
  if (wanted !== undefined && diffusion !== undefined) {
    throw badValue('components.diffusion', 'nothing, because model says it,', diffusion)
  }
  const found = findAll(beside, catalog)
  const main = diffusion !== undefined
    ? findComponent('diffusion', diffusion, catalog)
    : wanted === undefined ? otherwise!() : aboutField('model', () => catalog.resolvePart(wanted, drawingTypes))
  const ids = Object.fromEntries(Object.entries(found).map(([name, { id }]) => [name, id])) as Components<string>
  return {
    model: aboutField('components', () => compose(main, found)),
    ...(Object.keys(ids).length > 0 && { components: ids })
  }
}

/** @throws {ApiError} SDR_UNSUPPORTED_FEATURE when the engine can't load a model that has these parts. */
export function requireParts (model: Model, engine: EngineInfo): void {
  const lack = lackOfParts(model, engine)
  if (lack !== undefined) throw lack
}

/** What `requireParts` throws, if it does. */
export function lackOfParts (model: Model, engine: EngineInfo): ApiError | undefined {
  const field = model.format === 'bundle' ? 'model' : 'components'
  return featuresOf(model).map(feature => lackOf(feature, engine, field)).find(lack => lack !== undefined)
}

function findAll (parts: Components<string>, catalog: ModelCatalog): Components<Model> {
  const given = componentNames.filter(name => parts[name] !== undefined)
  return Object.fromEntries(given.map(name => [name, findComponent(name, parts[name]!, catalog)]))
}

function findComponent (name: ComponentName, idOrName: string, catalog: ModelCatalog): Model {
  return aboutField(`components.${name}`, () => {
    const model = catalog.resolvePart(idOrName, [components[name].type])
    const objection = objectionTo(name, model)
    if (objection !== undefined) throw apiError('SDR_UNSUPPORTED_MODEL', objection)
    return model
  })
}
