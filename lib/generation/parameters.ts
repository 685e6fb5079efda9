import { aboutField } from '../http/request-errors.ts'
import type { ImageDefaults } from '../models/detect/architectures.ts'
import type { Images } from './images.ts'
import type { HiresRequest, ImageRequest, Setting } from './request.ts'
import { defaultStrength, hiresMethods } from './request-schema.ts'

/**
 * The parameters of a job: what the request says, else what its model likes, else what the engine does. The queue
 * chooses the seed.
 * @throws {ApiError} SDR_INVALID_REQUEST, SDR_MODEL_NOT_FOUND, SDR_UNSUPPORTED_MODEL
 */
export function fillIn<Request extends ImageRequest> (
  request: Request, defaults: ImageDefaults, images: Images, setting: Setting
) {
  const { engine, limits } = setting
  const { model: _, priority, webhook_url, ...given } = request
  return inUse({
    ...given,
    steps: request.custom_sigmas === undefined
      ? request.steps ?? Math.min(defaults.steps, limits.maxSteps)
      : request.custom_sigmas.length - 1,
    cfg_scale: request.cfg_scale ?? defaults.cfg_scale,
    guidance: request.guidance ?? defaults.guidance,
    sampler: request.sampler ?? knownTo(engine.samplers, defaults.sampler),
    scheduler: request.scheduler ?? knownTo(engine.schedulers, defaults.scheduler),
    batch_count: request.batch_count ?? 1,
    strength: request.strength ?? (images.init_image && defaultStrength),
    hires: request.hires && resolveHires(request.hires, setting)
  })
}

/** Undefined for a default that this engine does not have: the engine chooses. */
function knownTo (names: readonly string[], name: string | undefined): string | undefined {
  return name !== undefined && names.includes(name) ? name : undefined
}

function resolveHires (hires: HiresRequest, { catalog }: Setting): HiresRequest {
  const { upscaler } = hires
  if (upscaler === undefined || hiresMethods.includes(upscaler)) return hires
  const { id } = aboutField('hires.upscaler', () => catalog.resolve(upscaler, { types: ['upscaler'] }))
  return { ...hires, upscaler: id }
}

/** Without undefined values and groups that are switched off. */
function inUse<Values extends object> (values: Values): Values {
  const used = Object.entries(values).filter(([, value]) => value !== undefined && !isOff(value))
  return Object.fromEntries(used) as Values
}

export function isOff (value: unknown): boolean {
  return typeof value === 'object' && value !== null && 'enabled' in value && value.enabled === false
}
