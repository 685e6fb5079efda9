import type { EngineInfo } from '../engine/engine.ts'
import type { Decoder } from '../media/input.ts'
import type { ModelCatalog } from '../models/catalog.ts'
import type { Components } from '../models/components.ts'
import type { ImageListName, ImageName, Limits, Parameter } from './parameters.ts'
import type { Hires } from './size.ts'

/** A request after its schema was checked; which fields there are, the type of the job decides. */
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

/** Images as they came: a text that holds one, or the bytes of a file. */
type Upload = string | Uint8Array
export type Uploads = Partial<Record<ImageName, Upload> & Record<ImageListName, Upload[]>>

/** What a request is judged by. */
export interface Setting {
  catalog: ModelCatalog
  engine: EngineInfo
  limits: Limits
  /** What `requestParameters` makes of `limits` and `engine`. */
  parameters: Record<string, Parameter>
  /** Id of the model in the engine's memory: what a request without a model means. */
  loadedModel: string | null
  /** Who decodes the images. */
  decoder: Decoder
  /** Whether the caller may put a job before those of others. */
  mayHurry: boolean
}
