import { apiError, unexpected } from '../../../errors.ts'
import type { EngineInfo } from '../../engine/engine.ts'
import { hiresMethods, bodySchema, type Limits, type Parameter } from '../../generation/request-schema.ts'
import type { Drawing, ImageRequest, RequestAttachments } from '../../generation/request.ts'
import { samplerTitles, schedulerTitles } from '../../generation/run/generation-text.ts'
import { badValue } from '../../http/request-errors.ts'
import { Validator } from '../../http/type.ts'
import { explain, type SchemaError } from '../../http/validation.ts'
import type { ImageType } from '../../jobs/job.ts'
import type { ModelCatalog } from '../../models/catalog.ts'
import { plainSampler } from '../../util/sampler-name.ts'
import { batchesOf } from '../batches.ts'
import type { ModelAliases } from '../model-aliases.ts'

type Fields = Record<string, unknown>

interface Parts {
  catalog: ModelCatalog
  aliases: ModelAliases
  engine: EngineInfo
  limits: Limits
  parameters: Record<string, Parameter>
  /** The model that the account has chosen by POST options. */
  chosenModel: string | undefined
}

/** Images of one request: batch_size × n_iter. */
const mostImages = 100
/** Milliseconds from one preview to the next at least. */
const previewInterval = 1000

/**
 * The drawings that a request for txt2img or img2img asks for. Fields that are not known have no effect, and null,
 * empty texts, 0 and −1 mean what they mean to A1111: that it is not said.
 * @throws {ApiError} SDR_INVALID_REQUEST, SDR_MODEL_NOT_FOUND, SDR_UNSUPPORTED_FEATURE
 */
export function drawingsOf (kind: 'txt2img' | 'img2img', body: Fields, parts: Parts): Drawing[] {
  const settings = objectOf(body.override_settings)
  const control = controlOf(body)
  const attachments = attachmentsOf(kind, body)
  const type: ImageType = control !== undefined ? 'controlnet' : attachments.mask !== undefined ? 'inpaint' : kind
  const seed = numberOf(body.seed)
  const request: ImageRequest = withoutGaps({
    prompt: String(body.prompt ?? ''),
    negative_prompt: textOf(body.negative_prompt),
    width: positive(body.width),
    height: positive(body.height),
    steps: positive(body.steps),
    cfg_scale: numberOf(body.cfg_scale),
    seed: seed === undefined || seed < 0 ? undefined : seed,
    ...samplerOf(textOf(body.sampler_name) ?? textOf(body.sampler_index), textOf(body.scheduler), parts.engine),
    clip_skip: clipSkipOf(body.clip_skip) ?? clipSkipOf(settings.CLIP_stop_at_last_layers),
    strength: kind === 'img2img' ? numberOf(body.denoising_strength) : undefined,
    model: modelOf([body.model, settings.sd_model_checkpoint, parts.chosenModel], parts),
    loras: lorasOf(body.lora),
    hires: kind === 'txt2img' && body.enable_hr === true ? hiresOf(body) : undefined,
    previews: parts.engine.capabilities.includes('previews')
      ? { mode: 'proj', interval: previewInterval }
      : undefined,
    ...control?.request
  })
  const images = (positive(body.batch_size) ?? 1) * (positive(body.n_iter) ?? 1)
  if (images > mostImages) throw badValue('batch_size', `at most ${mostImages} images with n_iter`, images)
  const sent = { ...attachments, ...control?.attachments }
  return batchesOf(images, parts.limits.maxBatch, request.seed).map(batch => {
    const whole = { ...request, ...batch }
    check(type, { ...whole, ...sent }, parts)
    return { type, request: whole, attachments: { ...sent }, roundsSize: true, holesCount: true }
  })
}

/** Validators of the bodies of our own requests, which bound what is drawn. */
const validators = new WeakMap<Record<string, Parameter>, Map<ImageType, Validator<ReturnType<typeof bodySchema>>>>()

function check (type: ImageType, whole: object, { parameters }: Parts): void {
  const known = validators.get(parameters) ?? new Map<ImageType, Validator<ReturnType<typeof bodySchema>>>()
  validators.set(parameters, known)
  const validator = known.get(type) ?? new Validator(bodySchema(type, parameters))
  known.set(type, validator)
  if (validator.check(whole)) return
  const [error] = validator.errors
  throw unexpected(explain({ data: undefined, ...error } as SchemaError, 'the request'))
}

/**
 * The name of a model, by what clients say first. An empty one is none.
 * @throws {ApiError} SDR_MODEL_NOT_FOUND
 */
export function modelOf (
  names: readonly unknown[], { catalog, aliases }: Pick<Parts, 'catalog' | 'aliases'>
): string | undefined {
  const said = names.map(textOf).find(name => name !== undefined)
  if (said === undefined) return undefined
  // A title ends with the hash: `name.safetensors [6ce0161689]`
  return aliases.resolve(said.slice(0, 512).replace(/ \[[\da-f]{1,64}\]$/, ''), catalog)
}

/**
 * A sampler by any of its names; one that ends with a schedule's, as they were written before there were schedules, is
 * both.
 * @throws {ApiError} SDR_MODEL_NOT_FOUND, whose status is that of A1111 for an unknown sampler
 */
function samplerOf (
  sampler: string | undefined, scheduler: string | undefined, { samplers, schedulers }: EngineInfo
): { sampler?: string, scheduler?: string } {
  const find = (name: string, values: readonly string[], titles: Readonly<Record<string, string>>) =>
    values.find(value => [value, titles[value] ?? value].some(known => plainSampler(known) === plainSampler(name)))
  const isSaid = scheduler !== undefined && !['automatic', 'use same scheduler'].includes(scheduler.toLowerCase())
  const schedule = isSaid ? find(scheduler, schedulers, schedulerTitles) : undefined
  if (isSaid && schedule === undefined) {
    throw badValue('scheduler', `automatic or one of ${schedulers.join(', ')}`, scheduler)
  }
  if (sampler === undefined || sampler.toLowerCase() === 'automatic') return withoutGaps({ scheduler: schedule })
  const found = find(sampler, samplers, samplerTitles)
  if (found !== undefined) return withoutGaps({ sampler: found, scheduler: schedule })
  for (const suffix of schedulers) {
    if (!/[\s_]/.test(sampler.at(-suffix.length - 1) ?? '') || !sampler.toLowerCase().endsWith(suffix)) continue
    const known = find(sampler.slice(0, -suffix.length - 1), samplers, samplerTitles)
    if (known !== undefined) return { sampler: known, scheduler: schedule ?? suffix }
  }
  throw apiError('SDR_MODEL_NOT_FOUND', `Sampler not found: this engine has ${samplers.join(', ')}.`)
}

function attachmentsOf (kind: 'txt2img' | 'img2img', body: Fields): RequestAttachments {
  if (kind === 'txt2img') return {}
  const images = Array.isArray(body.init_images) ? body.init_images.map(textOf) : []
  const [first] = images
  if (first === undefined) {
    throw badValue('init_images', 'a list with an image in base64', body.init_images ?? 'nothing')
  }
  if (images.length > 1) throw badValue('init_images', 'one image', images.length)
  const mask = textOf(body.mask)
  if (mask === undefined) return { init_image: first }
  if (body.inpainting_mask_invert === 1 || body.inpainting_mask_invert === true) {
    throw badValue('inpainting_mask_invert', '0: send the mask with what is drawn anew in white', 1)
  }
  return { init_image: first, mask }
}

/** The one enabled unit of ControlNet. */
function controlOf (body: Fields): { request: ImageRequest, attachments: RequestAttachments } | undefined {
  const { args } = objectOf(objectOf(body.alwayson_scripts).controlnet)
  const units = (Array.isArray(args) ? args : []).map(objectOf)
    .filter(unit => unit.enabled !== false && textOf(unit.image) !== undefined)
  if (units.length === 0) return undefined
  if (units.length > 1) throw badValue('alwayson_scripts.controlnet', 'one enabled unit', units.length)
  const [unit] = units as [Fields]
  const model = textOf(unit.model)
  return {
    request: withoutGaps({
      control_net: model?.toLowerCase() === 'none' ? undefined : model?.replace(/ \[[\da-f]{1,64}\]$/, ''),
      control_strength: numberOf(unit.weight)
    }),
    attachments: { control_image: textOf(unit.image)! }
  }
}

function hiresOf (body: Fields): ImageRequest['hires'] {
  const upscaler = textOf(body.hr_upscaler)
  const steps = numberOf(body.hr_second_pass_steps)
  return withoutGaps({
    scale: positive(body.hr_scale),
    target_width: positive(body.hr_resize_x),
    target_height: positive(body.hr_resize_y),
    // A fraction, as an old client sends it, is none.
    steps: steps === undefined || steps < 1 ? undefined : Math.floor(steps),
    denoising_strength: numberOf(body.denoising_strength),
    upscaler: upscaler === undefined || upscaler === 'None' ? hiresMethods[0] : upscaler
  })
}

function lorasOf (loras: unknown): ImageRequest['loras'] {
  if (!Array.isArray(loras) || loras.length === 0) return undefined
  return loras.map(objectOf).map(({ path, name, multiplier }) =>
    withoutGaps({ name: textOf(path) ?? textOf(name) ?? '', weight: numberOf(multiplier) }))
}

/** 1 is none: stable-diffusion.cpp draws white images with it. */
function clipSkipOf (value: unknown): number | undefined {
  const skip = numberOf(value)
  return skip !== undefined && skip > 1 ? skip : undefined
}

export function textOf (value: unknown): string | undefined {
  return typeof value === 'string' && value !== '' ? value : undefined
}

export function numberOf (value: unknown): number | undefined {
  return typeof value === 'number' && Number.isFinite(value) ? value : undefined
}

function positive (value: unknown): number | undefined {
  const number = numberOf(value)
  return number !== undefined && number > 0 ? number : undefined
}

export function objectOf (value: unknown): Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? value as Fields : {}
}

function withoutGaps<Values extends object> (values: Values): Values {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as Values
}
