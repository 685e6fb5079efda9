import type { ApiError } from '../../errors.ts'
import type { EngineInfo } from '../engine/engine.ts'
import { aboutField, badValue, featureError } from '../http/request-errors.ts'
import type { ModelCatalog } from '../models/catalog.ts'
import {
  components, componentNames, compose, featuresOf, requireFit, type ComponentName, type Components
} from '../models/components.ts'
import type { Model } from '../models/model.ts'
import { drawingTypes } from '../models/types.ts'

export interface ComposedModel {
  model: Model
  /** Ids of what is put beside the model or in the place of its parts; the diffusion model is `model` itself. */
  components?: Components<string>
}

/**
 * Finds the model of a request. `model` (an id or a name) or `components.diffusion` is the part that draws, and decides
 * about sizes and defaults; a checkpoint or a model of several files keeps what the other components don't replace.
 * @param otherwise the model when neither is given.
 * @throws {ApiError} SDR_INVALID_REQUEST, SDR_MODEL_NOT_FOUND, SDR_UNSUPPORTED_MODEL naming the field.
 */
export function composeModel (
  { model: idOrName, components = {} }: { model?: string, components?: Components<string> }, catalog: ModelCatalog,
  otherwise?: () => Model
): ComposedModel {
  if (Object.keys(components).length === 0) {
    if (idOrName === undefined) return { model: otherwise!() }
    return { model: aboutField('model', () => catalog.resolve(idOrName)) }
  }
  const { diffusion } = components
  if (idOrName !== undefined && diffusion !== undefined) {
    throw badValue('components.diffusion', 'nothing, because model says it,', diffusion)
  }
  const names = componentNames.filter(name => name !== 'diffusion' && components[name] !== undefined)
  const found = Object.fromEntries(names.map(name =>
    [name, findComponent(name, components[name]!, catalog)])) as Components<Model>
  const main = diffusion !== undefined
    ? findComponent('diffusion', diffusion, catalog)
    : idOrName === undefined
      ? otherwise!()
      : aboutField('model', () => catalog.resolveComponent(idOrName, drawingTypes))
  for (const [name, part] of Object.entries(found) as Array<[ComponentName, Model]>) {
    aboutField(`components.${name}`, () => requireFit(name, part, main))
  }
  const ids = Object.fromEntries(Object.entries(found).map(([name, { id }]) => [name, id]))
  return {
    model: aboutField('components', () => compose(main, found)),
    ...(Object.keys(ids).length > 0 && { components: ids })
  }
}

/** The error of an engine that can't load a model that has these parts. */
export function lackOfParts (model: Model, engine: EngineInfo): ApiError | undefined {
  const field = model.format === 'bundle' ? 'model' : 'components'
  return featuresOf(model).map(feature => featureError(feature, engine, field)).find(lack => lack !== undefined)
}

function findComponent (name: ComponentName, idOrName: string, catalog: ModelCatalog): Model {
  return aboutField(`components.${name}`, () => catalog.resolveComponent(idOrName, [components[name].type]))
}
