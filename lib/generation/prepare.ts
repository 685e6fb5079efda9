import { randomInt } from 'node:crypto'
import { apiError } from '../../errors.ts'
import type { EngineInfo } from '../engine/engine.ts'
import type { NewJob } from '../jobs/job.ts'
import type { ImageDefaults } from '../models/architectures.ts'
import type { ModelCatalog } from '../models/catalog.ts'
import type { Model } from '../models/model.ts'
import { maximumSeed } from './parameters.ts'

/** A text-to-image request after its schema was checked. */
export interface Txt2ImgRequest {
  prompt: string
  negative_prompt?: string
  model?: string
  width?: number
  height?: number
  steps?: number
  cfg_scale?: number
  guidance?: number
  seed?: number
  sampler?: string
  scheduler?: string
  eta?: number
  batch_count?: number
  clip_skip?: number
}

export interface Setting {
  catalog: ModelCatalog
  engine: EngineInfo
  /** Id of the model in the engine's memory: what a request without a model means. */
  loadedModel: string | null
}

/** For models of which nothing is known. */
const fallback: ImageDefaults = { width: 512, height: 512, steps: 20, cfg_scale: 7, sampler: 'euler_a' }

/**
 * Makes a job of a request: finds the model, fills in what the model wants, chooses the seed, and refuses what would only
 * fail later in the engine.
 * @throws {ApiError} SDR_MODEL_NOT_FOUND, SDR_UNSUPPORTED_MODEL, SDR_INVALID_REQUEST
 */
export function prepareTxt2Img (request: Txt2ImgRequest, setting: Setting): Pick<NewJob, 'type' | 'model' | 'parameters' | 'request'> {
  const model = chooseModel(request.model, setting)
  const parameters = withDefaults(request, model, setting.engine)
  checkSize(parameters, model)
  return { type: 'txt2img', model: model.id, parameters, request }
}

function chooseModel (wanted: string | undefined, { catalog, loadedModel }: Setting): Model {
  if (wanted !== undefined) return catalog.resolve(wanted)
  const model = (loadedModel === null ? undefined : catalog.get(loadedModel)) ?? catalog.firstUsable('checkpoint')
  if (model !== undefined) return model
  throw apiError('SDR_MODEL_NOT_FOUND', 'There is no model to draw with. Put a checkpoint into a models folder, then POST /api/models/refresh.')
}

function withDefaults (request: Txt2ImgRequest, model: Model, engine: EngineInfo) {
  const defaults = { ...fallback, ...model.defaults }
  const { negative_prompt = '', seed = -1, batch_count = 1, model: _, ...given } = request
  return definedOnly({
    ...given,
    negative_prompt,
    width: request.width ?? sideLike(request.height, model) ?? defaults.width,
    height: request.height ?? sideLike(request.width, model) ?? defaults.height,
    steps: request.steps ?? defaults.steps,
    cfg_scale: request.cfg_scale ?? defaults.cfg_scale,
    guidance: request.guidance ?? defaults.guidance,
    sampler: request.sampler ?? knownTo(engine.samplers, defaults.sampler),
    scheduler: request.scheduler ?? knownTo(engine.schedulers, defaults.scheduler),
    seed: seed === -1 ? randomInt(maximumSeed - batch_count) : seed,
    batch_count
  })
}

/** A model that draws squares only takes the side that was given for both. */
function sideLike (other: number | undefined, { limits }: Model): number | undefined {
  return limits?.square_only === true ? other : undefined
}

/** A default that this engine does not have is left to the engine. */
function knownTo (names: readonly string[], name: string | undefined): string | undefined {
  return name !== undefined && names.includes(name) ? name : undefined
}

function checkSize ({ width, height, seed, batch_count }: { width: number, height: number, seed: number, batch_count: number }, model: Model): void {
  if (seed + batch_count - 1 > maximumSeed) {
    throw refuse('seed', `at most ${maximumSeed - batch_count + 1} with batch_count ${batch_count}`, seed)
  }
  const { limits } = model
  if (limits === undefined) return
  for (const [field, value] of Object.entries({ width, height })) {
    if (value < limits.min_side || value > limits.max_side || value % limits.multiple_of !== 0) {
      throw refuse(field, `a multiple of ${limits.multiple_of} from ${limits.min_side} to ${limits.max_side}, which is what ${model.id} draws,`, value)
    }
  }
  if (limits.square_only && width !== height) {
    throw refuse('height', `${width}, because ${model.id} draws squares only,`, height)
  }
}

function refuse (field: string, expected: string, received: unknown) {
  return apiError('SDR_INVALID_REQUEST', `Expected ${expected} for ${field} but received ${String(received)}`, {
    details: [{ field, expected, received: String(received) }]
  })
}

function definedOnly<Values extends object> (values: Values): Values {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as Values
}
