import { apiError } from '../../errors.ts'
import { nearest } from '../util/nearest.ts'
import { type Model, unusableReason, withoutEnding } from './model.ts'
import { type ModelType } from './types.ts'
import { quoted } from '../util/text.ts'

/** Characters; no id is longer, and the search for the nearest id takes time for each. */
const longestName = 512
const candidatesShown = 10

/**
 * Finds a model by its id, by its path below the folder of its type, or by a file name, each with or without its
 * ending, with `\` for `/`, and in any case of letters, when that is unique. Models of `types` come before
 * others of the same name, and usable models before those that aren't, because an old pickle often lies beside its
 * safetensors version.
 * @param options.skipped is appended to the message that there is no such model.
 * @throws API errors: SDR_MODEL_NOT_FOUND with the nearest ids, SDR_INVALID_REQUEST with the ids when several fit.
 */
export function findModel (
  models: ReadonlyMap<string, Model>,
  idOrName: string,
  { types, skipped }: { types: readonly ModelType[], skipped: string }
): Model {
  const exact = models.get(idOrName)
  if (exact !== undefined) return exact
  const wanted = slashed(idOrName)
  const folded = wanted.toLowerCase()
  const named = [...models.values()].filter(model => isCalled(model, folded, text => slashed(text).toLowerCase()))
  const [found, ...others] = [
    (model: Model) => types.includes(model.type),
    (model: Model) => unusableReason(model) === undefined,
    (model: Model) => isCalled(model, wanted, slashed)
  ].reduce(prefer, named)
  if (found === undefined) throw notFound(idOrName, [...models.values()], { types, skipped })
  if (others.length > 0) throw ambiguous(idOrName, [found, ...others])
  return found
}

/** The models that fit, or all if none does. */
function prefer (models: Model[], fits: (model: Model) => boolean): Model[] {
  const preferred = models.filter(fits)
  return preferred.length > 0 ? preferred : models
}

/** One form for what looks the same: file systems and keyboards decompose letters differently. */
function slashed (text: string): string {
  return text.normalize().replaceAll('\\', '/')
}

/** @param fold is applied to the names of the model, and was applied to the wanted one. */
function isCalled ({ id, type, name }: Model, wanted: string, fold: (text: string) => string): boolean {
  const path = fold(id)
  return endsWithName(path, type, wanted) || endsWithName(withoutEnding(path), type, wanted) || fold(name) === wanted
}

/** Whether the wanted name is an id, the path of an id without its type, or the file name at its end. */
function endsWithName (id: string, type: ModelType, wanted: string): boolean {
  const start = id.length - wanted.length
  return id.endsWith(wanted) && [0, type.length + 1, id.lastIndexOf('/') + 1].includes(start)
}

function ambiguous (name: string, models: readonly Model[]): Error {
  const candidates = models.slice(0, candidatesShown).map(({ id }) => id)
  const list = candidates.join(', ') + (models.length > candidates.length ? '…' : '')
  return apiError('SDR_INVALID_REQUEST', `Several models are called ${JSON.stringify(name)}: ${list}. Use an id.`, {
    details: { candidates }
  })
}

/** What people call a model of a type, where that is not its name. */
const nouns: Partial<Record<ModelType, string>> = {
  lora: 'LoRA', vae: 'VAE', controlnet: 'ControlNet', upscaler: 'upscaler', embedding: 'embedding'
}

function notFound (
  wanted: string, all: readonly Model[], { types, skipped }: { types: readonly ModelType[], skipped: string }
): Error {
  const noun = types.length === 1 ? nouns[types[0]!] : undefined
  const models = noun === undefined ? all : all.filter(({ type }) => types.includes(type))
  const close = wanted.length > longestName ? [] : closeTo(wanted, models)
  const hint = close.length === 0 ? 'GET /api/models lists them.' : `Did you mean ${close.join(' or ')}?`
  return apiError('SDR_MODEL_NOT_FOUND',
    `There is no ${noun ?? 'model'} ${quoted(wanted, longestName)}. ${hint}${skipped}`,
    { details: { nearest: close } })
}

function closeTo (wanted: string, models: readonly Model[]): string[] {
  const byName = nearest(wanted, models.map(({ name }) => name))
  const byId = nearest(wanted, models.map(({ id }) => id))
  return models.filter(({ id, name }) => id === byId || name === byName).map(({ id }) => id).slice(0, candidatesShown)
}
