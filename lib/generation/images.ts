import { InputImage, type Decoder } from '../media/input.ts'
import type { Attachments } from '../jobs/job.ts'
import { imageLists, imageNames, isImage, isImageList, type ImageListName, type ImageName } from './parameters.ts'
import type { ImageRequest, Setting, Uploads } from './request.ts'
import type { Size } from './size.ts'

/** Pixels of an image that a model looks at: stable-diffusion.cpp itself scales most of them to a megapixel or less. */
const mostSeenPixels = 2048 * 2048

/** The images of a request, of which the headers were read. */
export type Images = Partial<Record<ImageName, InputImage> & Record<ImageListName, InputImage[]>>

/** Takes the images out of the body of a request; `files` are those that came beside it. */
export function splitImages (body: object, files: Uploads): { request: ImageRequest, uploads: Uploads } {
  const isUpload = ([name]: [string, unknown]) => isImage(name) || isImageList(name)
  const entries = Object.entries(body)
  return {
    request: Object.fromEntries(entries.filter(entry => !isUpload(entry))),
    uploads: { ...Object.fromEntries(entries.filter(isUpload)), ...files }
  }
}

/** @throws {ApiError} SDR_INVALID_REQUEST, SDR_BODY_TOO_LARGE */
export function openImages (uploads: Uploads, { limits }: Pick<Setting, 'limits'>): Images {
  const bounds = { maxBytes: limits.maxUploadSize * 1024 * 1024, maxPixels: limits.maxUploadPixels }
  const images: Images = {}
  for (const name of imageNames) {
    if (uploads[name] !== undefined) images[name] = InputImage.open(name, uploads[name], bounds)
  }
  for (const name of imageLists) {
    for (const [index, upload] of uploads[name]?.entries() ?? []) {
      (images[name] ??= []).push(InputImage.open(`${name}.${index}`, upload, bounds))
    }
  }
  return images
}

/**
 * The images as an engine takes them: PNG, and in the size of the job where they are drawn over or along. The mask is
 * laid over the init image, so that both are cut alike.
 * @throws {ApiError} SDR_INVALID_REQUEST, SDR_UNAVAILABLE, SDR_RATE_LIMITED
 */
export async function unpackImages (
  { init_image: init, mask, control_image: control, ip_adapter_image: ipAdapter, ...lists }: Images,
  { width, height }: Size,
  decoder: Decoder
): Promise<Attachments> {
  return {
    ...(init && { init_image: await init.toPng({ width, height, channels: 3 }, decoder) }),
    ...(mask && { mask: await mask.toPng({ width, height, channels: 1, over: init }, decoder) }),
    ...(control && { control_image: await control.toPng({ width, height, channels: 3 }, decoder) }),
    ...(ipAdapter && { ip_adapter_image: await whole(ipAdapter, decoder) }),
    ...await unpackLists(lists, decoder)
  }
}

/** `ref_images.0`, `ref_images.1`… */
async function unpackLists (
  lists: Partial<Record<ImageListName, InputImage[]>>, decoder: Decoder
): Promise<Attachments> {
  const attachments: Attachments = {}
  for (const images of Object.values(lists)) {
    for (const image of images) attachments[image.field] = await whole(image, decoder)
  }
  return attachments
}

/** Uncut, and not larger than the models that look at it make use of. */
async function whole (image: InputImage, decoder: Decoder): Promise<Buffer> {
  const scale = Math.min(1, Math.sqrt(mostSeenPixels / (image.width * image.height)))
  const side = (length: number) => Math.max(1, Math.round(length * scale))
  return await image.toPng({ width: side(image.width), height: side(image.height), channels: 3 }, decoder)
}
