import type { Attachments } from '../jobs/job.ts'
import type { Decoder, InputImage } from '../media/input.ts'
import type { Images } from './images.ts'
import type { Size } from './size.ts'

/** Pixels of an image that a model looks at: stable-diffusion.cpp itself scales most of them to a megapixel or less. */
const mostSeenPixels = 2048 * 2048

/**
 * The images as an engine takes them: PNG, and in the size of the job where they are drawn over or along. The mask is
 * laid over the init image, so both are cut alike. Images of a list become `ref_images.0`, `ref_images.1`…
 * @throws {ApiError} SDR_INVALID_REQUEST, SDR_UNAVAILABLE, SDR_RATE_LIMITED
 */
export async function unpackImages (
  { init_image: init, mask, control_image: control, ip_adapter_image: ipAdapter, ...lists }: Images,
  { width, height }: Size,
  decoder: Decoder,
  { holesCount }: { holesCount?: boolean } = {}
): Promise<Attachments> {
  const attachments: Attachments = {
    ...(init && { init_image: await init.toPng({ width, height, channels: 3 }, decoder) }),
    ...(mask && { mask: await mask.toPng({ width, height, channels: 1, over: init, holesCount }, decoder) }),
    ...(control && { control_image: await control.toPng({ width, height, channels: 3 }, decoder) }),
    ...(ipAdapter && { ip_adapter_image: await whole(ipAdapter, decoder) })
  }
  for (const image of Object.values(lists).flat()) attachments[image.field] = await whole(image, decoder)
  return attachments
}

/** Uncut, and no larger than the models that look at it make use of. */
async function whole (image: InputImage, decoder: Decoder): Promise<Buffer> {
  const scale = Math.min(1, Math.sqrt(mostSeenPixels / (image.width * image.height)))
  const side = (length: number) => Math.max(1, Math.round(length * scale))
  return await image.toPng({ width: side(image.width), height: side(image.height), channels: 3 }, decoder)
}
