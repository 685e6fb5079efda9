import type { EngineInfo } from '../engine/engine.ts'
import { imageTypes, type ImageType } from '../jobs/job.ts'
import { fieldBytes } from './form.ts'
import { imageLists, imageNames, mostListedImages, type Limits, type Parameter } from './request-schema.ts'

/** Bytes of everything but the images: much more than the longest prompt, so that a refusal can name the field. */
const textBytes = 8 * 1024 * 1024
/** Bytes of a text in JSON that may be too long, so that a refusal can say how long it may be. */
const shortText = 1024 * 1024
/** Bytes of a character in JSON, when both of its halves are escaped. */
const longestEscape = 12
/** Files of the largest size that the images of one request may have together. */
const mostFiles = 4
/** Bodies of the largest size that may be here at once, from all callers and from one. */
const [mostUploads, mostUploadsForOne] = [4, 2]
/** Parts of a multipart form that are no images. */
const mostFields = 100

export interface BodyLimits {
  /** Bytes of the longest text in JSON, and fields that may have any length because they are images. */
  json: { text: number, longFields: string[] }
  /** Bytes of a body in JSON with this many images. */
  withImages: (images: number) => number
  /** Bytes of a body in JSON for a type of job. */
  ofType: (type: ImageType) => number
  /** Bytes of a form, and of the files in it. */
  form: number
  formFiles: number
  /** What a form may have, in the words of its parser. */
  formParts: Record<'fileSize' | 'files' | 'fields' | 'fieldSize' | 'fieldNameSize' | 'parts', number>
  /** Bytes of large bodies that may be here at once. */
  room: { bytes: number, bytesForOne: number }
}

/** How much a request for images may send. */
export function bodyLimits (limits: Limits, engine: EngineInfo, parameters: Record<string, Parameter>): BodyLimits {
  const maxFileBytes = limits.maxUploadSize * 1024 * 1024
  const mostParts = mostFields + imageNames.length + imageLists.length * mostListedImages
  const imageCountOf = (type: ImageType) => {
    const isUsable = ({ types, feature }: Parameter) =>
      types.includes(type) && (feature === undefined || engine.capabilities.includes(feature))
    return imageNames.filter(name => isUsable(parameters[name]!)).length +
      imageLists.filter(name => isUsable(parameters[name]!)).length * mostListedImages
  }
  const withImages = (images: number) => textBytes + Math.min(images, mostFiles) * Math.ceil(maxFileBytes * 1.5)
  const ofType = (type: ImageType) => withImages(imageCountOf(type))
  const formFiles = mostFiles * maxFileBytes
  const form = textBytes + formFiles
  const largestBody = Math.max(form, ...imageTypes.map(ofType))
  return {
    json: {
      text: Math.max(shortText, limits.maxPromptLength * longestEscape),
      longFields: [...imageNames, ...imageLists]
    },
    withImages,
    ofType,
    form,
    formFiles,
    formParts: {
      fileSize: maxFileBytes,
      files: mostParts, // fields in JSON are among them
      fields: mostFields,
      fieldSize: fieldBytes,
      fieldNameSize: 100,
      parts: mostParts
    },
    room: { bytes: mostUploads * largestBody, bytesForOne: mostUploadsForOne * largestBody }
  }
}
