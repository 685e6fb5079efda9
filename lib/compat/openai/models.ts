import type { EngineInfo } from '../../engine/engine.ts'
import { lackOfParts } from '../../generation/components.ts'
import { imageMismatch } from '../../generation/model.ts'
import type { ModelCatalog } from '../../models/catalog.ts'
import { unusableReason, type Model } from '../../models/model.ts'
import { drawingTypes } from '../../models/types.ts'
import type { ModelAliases } from '../model-aliases.ts'

export interface OpenAIModel {
  id: string
  object: 'model'
  /** Seconds since 1970. */
  created: number
  owned_by: string
  labels: string[]
}

interface Parts {
  catalog: ModelCatalog
  aliases: ModelAliases
  engine: EngineInfo
}

const owner = 'stable-diffusion-rest'

/** Words in the names of models that were trained to edit: their files look like those of the models they come from. */
const editors = /kontext|edit|omnigen/i
/** Every model of these edits. */
const editing = ['flux2']

/** Whether a model draws what the text says of images that it is shown, rather than over one of them. */
export function editsImages (model: Model, engine: EngineInfo): boolean {
  const isEditor = editors.test(model.id) || editors.test(model.name) || editing.includes(String(model.architecture)) ||
    model.summary?.variant === 'pix2pix'
  return isEditor && takesReferences(model, engine)
}

/** Whether a model can be shown images beside the text. */
export function takesReferences (model: Model, { capabilities }: EngineInfo): boolean {
  return capabilities.includes('ref_images') && imageMismatch({ ref_images: [] }, model) === undefined
}

/** The models that draw, then the aliases of such. */
export function listModels ({ catalog, aliases, engine }: Parts): OpenAIModel[] {
  const models = catalog.all().filter(model => draws(model, engine))
  const named = aliases.all.flatMap(({ name, model }) => {
    const found = modelOrNone(model, catalog)
    return found === undefined || !draws(found, engine) ? [] : [describe(name, found, engine)]
  })
  return [...models.map(model => describe(model.id, model, engine)), ...named]
}

/** The model of a name, an id or an alias. @throws {ApiError} SDR_MODEL_NOT_FOUND, SDR_UNSUPPORTED_MODEL */
export function retrieveModel (name: string, { catalog, aliases, engine }: Parts): OpenAIModel {
  return describe(name, catalog.resolve(aliases.resolve(name, catalog)), engine)
}

function draws (model: Model, engine: EngineInfo): boolean {
  return drawingTypes.includes(model.type) && unusableReason(model) === undefined &&
    lackOfParts(model, engine) === undefined
}

function modelOrNone (name: string, catalog: ModelCatalog): Model | undefined {
  try {
    return catalog.resolve(name)
  } catch {
    return undefined // it was warned of at the start
  }
}

function describe (id: string, model: Model, engine: EngineInfo): OpenAIModel {
  const takesImages = imageMismatch({ init_image: '' }, model) === undefined && engine.capabilities.includes('img2img')
  return {
    id,
    object: 'model',
    created: Math.floor(model.modified / 1000),
    owned_by: owner,
    labels: takesImages ? ['image', 'edit'] : ['image']
  }
}
