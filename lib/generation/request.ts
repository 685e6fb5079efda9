import type { EngineInfo } from '../engine/engine.ts'
import type { ImageType } from '../jobs/job.ts'
import type { Decoder } from '../media/input.ts'
import type { ModelCatalog } from '../models/catalog.ts'
import type { Components } from '../models/components.ts'
import type { Hires } from './bounds.ts'
import {
  isImage, isImageList, type ImageListName, type ImageName, type Limits, type Parameter
} from './request-schema.ts'

/** A request that its schema allows, without its images; the type of the job decides which fields it may have. */
export interface ImageRequest {
  prompt?: string
  negative_prompt?: string
  model?: string
  components?: Components<string>
  width?: number
  height?: number
  steps?: number
  cfg_scale?: number
  guidance?: number
  seed?: number
  sampler?: string
  scheduler?: string
  batch_count?: number
  priority?: number
  webhook_url?: string
  strength?: number
  loras?: Array<{ name: string, weight?: number }>
  hires?: HiresRequest
  custom_sigmas?: number[]
  control_net?: string
  ip_adapter?: string
  ip_adapter_strength?: number
  photo_maker?: string
  photo_maker_style_strength?: number
  repeats?: number
  [parameter: string]: unknown
}

export interface HiresRequest extends Hires {
  /** A method, or the id or name of an upscaler. */
  upscaler?: string
}

/** An image as it came: base64, a data URL, or the bytes of a file. */
type Attachment = string | Uint8Array
export type RequestAttachments = Partial<Record<ImageName, Attachment> & Record<ImageListName, Attachment[]>>

/** What a request is checked against. */
export interface Setting {
  catalog: ModelCatalog
  engine: EngineInfo
  limits: Limits
  /** From `requestParameters(limits, engine)`. */
  parameters: Record<string, Parameter>
  /** Id of the model in the engine's memory, the default of `model`. */
  loadedModel: string | null
  decoder: Decoder
  /** Whether a size that the model does not draw becomes the nearest one that it does, instead of an error. */
  roundsSize?: boolean
  /** Whether what is transparent in a mask is drawn anew, whatever colours are beside it. */
  holesCount?: boolean
  /** Whether the caller may give a job a priority above 0. */
  mayRaisePriority: boolean
}

/** What is to be drawn, and how leniently that is said. */
export interface Drawing extends Pick<Setting, 'roundsSize' | 'holesCount'> {
  type: ImageType
  request: ImageRequest
  attachments: RequestAttachments
}

/** Takes the images out of the body of a request; `files` came beside it. */
export function splitAttachments (
  body: object, files: RequestAttachments
): { request: ImageRequest, attachments: RequestAttachments } {
  const isAttachment = ([name]: [string, unknown]) => isImage(name) || isImageList(name)
  const entries = Object.entries(body)
  return {
    request: Object.fromEntries(entries.filter(entry => !isAttachment(entry))),
    attachments: { ...Object.fromEntries(entries.filter(isAttachment)), ...files }
  }
}
