import type { Job } from '../../jobs/job.ts'
import type { outputFormats } from '../../media/output.ts'
import type { OpenAIKind, OpenAIRequest } from './request.ts'

/** How the images of an answer are to be. */
export interface Output {
  format: typeof outputFormats[number]
  /** 1…100, of JPEG and WebP. */
  quality?: number
}

/** An image of an answer; `seed` is ours. */
export interface AnsweredImage {
  b64_json?: string
  url?: string
  seed: number
}

/** Nothing here is counted in tokens. */
const usage = {
  total_tokens: 0, input_tokens: 0, output_tokens: 0, input_tokens_details: { text_tokens: 0, image_tokens: 0 }
}

export function outputOf (
  { output_format: format = 'png', output_compression: compression = 100 }: OpenAIRequest
): Output {
  return format === 'png' ? { format } : { format, quality: Math.max(1, compression) }
}

/** What OpenAI knows; the field has no effect here, so that any other is ignored, not sent back. */
const qualities: readonly unknown[] = ['standard', 'hd', 'low', 'medium', 'high']

/** What every answer and every event says of its images. */
function about ({ images, parameters }: Job, body: OpenAIRequest, { format }: Output) {
  const quality = qualities.includes(body.quality) ? body.quality as string : 'auto'
  const { width, height } = images[0] ?? parameters as { width: number, height: number }
  return { background: 'opaque', output_format: format, quality, size: `${width}x${height}` } as const
}

const seconds = (time: string | number) => Math.floor(new Date(time).getTime() / 1000)

export function imagesAnswer (jobs: Job[], body: OpenAIRequest, output: Output, data: AnsweredImage[]) {
  const [first] = jobs
  return { created: seconds(first!.created_at), ...about(first!, body, output), data, usage }
}

interface StreamEvent {
  type: string
  [field: string]: unknown
}

/** Events of a stream, as the SDK defines them. */
const eventNames: Record<OpenAIKind, string> = {
  generations: 'image_generation', edits: 'image_edit', variations: 'image_edit'
}

export function completedEvent (kind: OpenAIKind, job: Job, body: OpenAIRequest, output: Output, image: AnsweredImage) {
  const created_at = seconds(job.finished_at ?? Date.now())
  return { type: `${eventNames[kind]}.completed`, created_at, ...about(job, body, output), ...image, usage }
}

interface ShownPreview {
  step: number
  index: number
  /** Base64. */
  image: string
}

/** Chooses the previews that a stream shows: spread over the steps, `most` of each image. */
export class PartialImages {
  readonly #shown = new Map<string, number>()
  readonly #kind: OpenAIKind
  readonly #body: OpenAIRequest

  constructor (kind: OpenAIKind, body: OpenAIRequest) {
    this.#kind = kind
    this.#body = body
  }

  /** @returns the event to send; undefined for a preview that comes too soon, or after all */
  eventOf (job: Job, { step, index, image }: ShownPreview): StreamEvent | undefined {
    const { partial_images: most = 0 } = this.#body
    const key = `${job.id} ${index}`
    const shown = this.#shown.get(key) ?? 0
    const steps = Number(job.parameters.steps)
    if (shown >= most || step < Math.floor(steps * (shown + 1) / (most + 1))) return undefined
    this.#shown.set(key, shown + 1)
    return {
      type: `${eventNames[this.#kind]}.partial_image`,
      created_at: seconds(Date.now()),
      ...about(job, this.#body, { format: 'png' }),
      b64_json: image,
      partial_image_index: shown
    }
  }
}
