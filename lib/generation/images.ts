import { InputImage } from '../images/input.ts'
import type { Attachments } from '../jobs/job.ts'
import { imageNames, type ImageName } from './parameters.ts'
import type { Setting, Uploads } from './request.ts'
import type { Size } from './size.ts'

/** The images of a request, of which the headers were read. */
export type Images = Partial<Record<ImageName, InputImage>>

/** @throws {ApiError} SDR_INVALID_REQUEST, SDR_BODY_TOO_LARGE, SDR_UNAVAILABLE */
export async function openImages (uploads: Uploads, { limits }: Pick<Setting, 'limits'>): Promise<Images> {
  const bounds = { maxBytes: limits.maxUploadSize * 1024 * 1024, maxPixels: limits.maxUploadPixels }
  const images: Images = {}
  for (const name of imageNames) {
    if (uploads[name] !== undefined) images[name] = await InputImage.open(name, uploads[name], bounds)
  }
  return images
}

/**
 * The images as an engine takes them: PNG in the size of the job. The mask is laid over the init image, so that both
 * are cut alike.
 * @throws {ApiError} SDR_INVALID_REQUEST, SDR_UNAVAILABLE
 */
export async function unpackImages (
  { init_image: init, mask, control_image: control }: Images, { width, height }: Size
): Promise<Attachments> {
  return {
    ...(init && { init_image: await init.toPng({ width, height, channels: 3 }) }),
    ...(mask && { mask: await mask.toPng({ width, height, channels: 1, over: init }) }),
    ...(control && { control_image: await control.toPng({ width, height, channels: 3 }) })
  }
}
