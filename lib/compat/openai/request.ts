import { apiError } from '../../../errors.ts'
import type { EngineInfo } from '../../engine/engine.ts'
import { chooseModel } from '../../generation/model.ts'
import type { Drawing, ImageRequest, RequestAttachments } from '../../generation/request.ts'
import {
  isImage, isImageList, mostListedImages, type Limits, type Parameter
} from '../../generation/request-schema.ts'
import { badValue } from '../../http/request-errors.ts'
import { Type, type TSchema } from '../../http/type.ts'
import type { ImageType } from '../../jobs/job.ts'
import { outputFormats } from '../../media/output.ts'
import type { ModelCatalog } from '../../models/catalog.ts'
import type { Model } from '../../models/model.ts'
import { batchesOf } from '../batches.ts'
import type { ModelAliases } from '../model-aliases.ts'
import { editsImages, takesReferences } from './models.ts'

/** What is asked for: images from a text, from images, or like an image. */
export type OpenAIKind = 'generations' | 'edits' | 'variations'

/** A body that its schema allows, without its images. */
export interface OpenAIRequest extends ImageRequest {
  n?: number
  size?: string
  /** Anything: it has no effect, and no schema. */
  quality?: unknown
  output_format?: typeof outputFormats[number]
  output_compression?: number
  response_format?: 'url' | 'b64_json'
  stream?: boolean
  partial_images?: number
}

/** Bytes of files, by their field. */
export interface SentImages {
  image?: Buffer[]
  mask?: Buffer
}

interface Parts {
  catalog: ModelCatalog
  aliases: ModelAliases
  engine: EngineInfo
  limits: Limits
  parameters: Record<string, Parameter>
  /** Id of the model in the engine's memory. */
  loadedModel: string | null
}

/** Images of one request, as OpenAI bounds them. */
export const mostImages = 10

/** Milliseconds from one preview to the next at least. */
const previewInterval = 500

/** The types of jobs that a kind of request can become. */
const typesOf: Record<OpenAIKind, readonly ImageType[]> = {
  generations: ['txt2img'], edits: ['img2img', 'inpaint'], variations: ['img2img']
}

/** Every field that has an effect, by name: those of OpenAI, then our own. */
export function openaiFields (kind: OpenAIKind, parameters: Record<string, Parameter>): Record<string, TSchema> {
  const { prompt, model } = parameters
  const isNeeded = kind !== 'variations'
  const own = Object.entries(parameters).filter(([name, { types }]) =>
    !isImage(name) && !isImageList(name) && name !== 'batch_count' && types.some(type => typesOf[kind].includes(type)))
  return {
    ...Object.fromEntries(own.map(([name, { schema }]) => [name, Type.Optional(schema)])),
    ...(isNeeded && { prompt: prompt!.schema }),
    model: Type.Optional(model!.schema),
    n: Type.Optional(Type.Integer({ minimum: 1, maximum: mostImages, description: 'How many images; 1 when absent' })),
    size: Type.Optional(Type.String({
      maxLength: 32,
      description: 'WIDTHxHEIGHT in pixels, brought to what the model draws; auto or absent is its own size',
      examples: ['1024x1024']
    })),
    background: Type.Optional(Type.Unsafe<string>({
      type: 'string', enum: ['auto', 'opaque', 'transparent'], description: 'transparent is refused: no model draws it'
    })),
    output_format: Type.Optional(Type.Unsafe<typeof outputFormats[number]>({
      type: 'string', enum: [...outputFormats], description: 'png when absent'
    })),
    output_compression: Type.Optional(Type.Integer({
      minimum: 0, maximum: 100, description: 'Quality of jpeg and webp; 100 when absent'
    })),
    response_format: Type.Optional(Type.Unsafe<'url' | 'b64_json'>({
      type: 'string',
      enum: ['b64_json', 'url'],
      description: 'b64_json when absent; url is a link that needs no credentials for --signed-url-minutes'
    })),
    stream: Type.Optional(Type.Boolean({ description: 'Answer with server-sent events' })),
    partial_images: Type.Optional(Type.Integer({
      minimum: 0, maximum: 3, description: 'Unfinished images to show in a stream, from an engine that has previews'
    }))
  }
}

/** The fields that a body says: null and empty texts mean that a client left them open. */
export function saidFields (body: object): Record<string, unknown> {
  return Object.fromEntries(Object.entries(body).filter(([name, value]) =>
    value !== null && (value !== '' || name === 'prompt')))
}

/**
 * Refuses what is one of our parameters, or an image, and has no effect here: to ignore it would give another image
 * than the caller wants. Other fields are ignored.
 * @throws {ApiError} SDR_INVALID_REQUEST
 */
export function refuseForeign (
  body: object, fields: Record<string, TSchema>, parameters: Record<string, Parameter>
): void {
  for (const name of Object.keys(body)) {
    const hasMeaning = Object.hasOwn(parameters, name) || name === 'image'
    if (Object.hasOwn(fields, name) || !hasMeaning) continue
    const where = name === 'batch_count'
      ? 'n instead'
      : name === 'image' || isImage(name) || isImageList(name) ? 'image and mask of /images/edits instead' : 'nothing'
    const message = `Expected ${where} for ${name} (it has no effect here) but received a value`
    throw apiError('SDR_INVALID_REQUEST', message, { details: [{ field: name, isCallersName: true }] })
  }
}

/**
 * The drawings that a request asks for: several where it wants more images than one job may make.
 * @throws {ApiError} SDR_INVALID_REQUEST, SDR_MODEL_NOT_FOUND, SDR_UNSUPPORTED_MODEL, SDR_UNSUPPORTED_FEATURE
 */
export function drawingsOf (
  kind: OpenAIKind, body: OpenAIRequest, images: SentImages, parts: Parts
): Drawing[] {
  const {
    n = 1, size, background, quality, output_format, output_compression, response_format, stream, partial_images,
    ...rest
  } = body
  if (background === 'transparent') {
    throw badValue('background', 'opaque or auto, because no model here draws transparency,', background)
  }
  const request: ImageRequest = {
    ...onlyParameters(rest, parts.parameters),
    ...(kind === 'variations' && { prompt: rest.prompt ?? '' }),
    ...sizeOf(size, rest),
    ...(rest.model !== undefined && { model: parts.aliases.resolve(rest.model, parts.catalog) }),
    ...(stream === true && (partial_images ?? 0) > 0 && rest.previews === undefined &&
      parts.engine.capabilities.includes('previews') && { previews: { mode: 'proj', interval: previewInterval } })
  }
  const drawing = kind === 'generations'
    ? { type: 'txt2img' as const, request, attachments: {} }
    : redrawing(kind, request, images, parts)
  return batchesOf(n, parts.limits.maxBatch, drawing.request.seed).map(batch => ({
    ...drawing, request: { ...drawing.request, ...batch }, roundsSize: true, holesCount: true
  }))
}

/** Without what has no effect: `user`, `style`, `moderation` and whatever else clients send. */
function onlyParameters (body: ImageRequest, parameters: Record<string, Parameter>): ImageRequest {
  return Object.fromEntries(Object.entries(body).filter(([name]) => Object.hasOwn(parameters, name)))
}

function sizeOf (size: string | undefined, { width, height }: ImageRequest): { width?: number, height?: number } {
  if (size === undefined || size === 'auto') return {}
  const [, first = '0', second = '0'] = /^(\d{1,5})\s?[x×]\s?(\d{1,5})$/i.exec(size) ?? []
  const wanted = { width: Number(first), height: Number(second) }
  if (wanted.width === 0 || wanted.height === 0) {
    throw badValue('size', 'auto or WIDTHxHEIGHT, for example 1024x1024,', size)
  }
  if (width !== undefined || height !== undefined) {
    throw badValue(width === undefined ? 'height' : 'width', 'nothing, because size says it,', width ?? height)
  }
  return wanted
}

function redrawing (
  kind: OpenAIKind, request: ImageRequest, { image: images = [], mask }: SentImages, parts: Parts
): Drawing {
  const [first, ...more] = images
  if (first === undefined) throw badValue('image', 'a file with an image', 'nothing')
  if (images.length > mostListedImages) throw badValue('image', `at most ${mostListedImages} images`, images.length)
  const model = modelOf(request, { init_image: first }, parts)
  const showsMore: RequestAttachments = more.length > 0 ? { ref_images: more } : {}
  if (more.length > 0 && !takesReferences(model, parts.engine)) {
    throw badValue('image', `one image, because ${model.id} takes no others beside it,`, images.length)
  }
  const chosen = { ...request, ...(request.components === undefined && { model: model.id }) }
  if (mask !== undefined) {
    return { type: 'inpaint', request: chosen, attachments: { init_image: first, mask, ...showsMore } }
  }
  if (kind === 'edits' && request.strength === undefined && editsImages(model, parts.engine)) {
    return { type: 'txt2img', request: chosen, attachments: { ref_images: images } }
  }
  return { type: 'img2img', request: chosen, attachments: { init_image: first, ...showsMore } }
}

function modelOf (request: ImageRequest, attachments: RequestAttachments, parts: Parts): Model {
  return chooseModel(request, attachments, parts).model
}
