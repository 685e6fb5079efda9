import { apiError } from '../../errors.ts'
import { sharpVersion } from './binaries.ts'
import { cleanImage } from './container.ts'
import { addJpegText, addWebpText } from './exif.ts'
import { ImageError } from './image-process.ts'
import type { Decoder } from './input.ts'
import { addText, readText } from './png.ts'

/** Images for clients: as stored, or in another format or size. */

export const outputFormats = ['png', 'jpeg', 'webp'] as const
type OutputFormat = typeof outputFormats[number]

/** Pixels. */
export const thumbnailWidth = { minimum: 16, maximum: 2048 } as const

interface Wanted {
  format?: OutputFormat
  /** 1…100, of JPEG and WebP. */
  quality?: number
  /** Pixels; images are never enlarged. */
  width?: number
}

interface Variant {
  format: OutputFormat
  quality?: number
  width?: number
}

const defaultQuality = 90
/** Pixels of an image to convert: more than any engine draws. */
const mostPixels = 16_384 ** 2

/**
 * The requested format, else the one that `accept` prefers, PNG if it prefers several or none: generated clients ask
 * for JSON, because the errors of the route are (RFC 9110, 12.5.1 leaves that to the server).
 * @param image the image as stored.
 * @throws {ApiError} SDR_INVALID_REQUEST
 */
export function chooseVariant (
  { format: wanted, quality, width }: Wanted, accept: string | undefined, image: { width: number }
): Variant {
  const format = wanted ?? preferredFormat(accept)
  if (format === 'png' && quality !== undefined) {
    throw apiError('SDR_INVALID_REQUEST', 'Expected no quality for a PNG image; ask for format=jpeg or format=webp.', {
      details: [{ field: 'quality', expected: 'nothing', received: String(quality) }]
    })
  }
  return {
    format,
    ...(format !== 'png' && { quality: quality ?? defaultQuality }),
    ...(width !== undefined && width < image.width && { width })
  }
}

export function mediaType (format: OutputFormat): string {
  return `image/${format}`
}

/** Whether a variant is the stored file. */
export function isOriginal ({ format, width }: Variant): boolean {
  return format === 'png' && width === undefined
}

/** A strong entity tag: an image never changes, and its variants change only with the version of sharp. */
export function entityTag (name: string, variant: Variant): string {
  const { format, quality, width } = variant
  const how = isOriginal(variant) ? [] : [format, quality ?? '', width ?? '', sharpVersion()]
  return `"${[name, ...how].join('-')}"`
}

/** Whether an If-None-Match header names the tag. */
export function matches (ifNoneMatch: string | undefined, tag: string): boolean {
  if (ifNoneMatch === undefined) return false
  return ifNoneMatch.trim() === '*' || ifNoneMatch.split(',').some(one => one.trim().replace(/^W\//, '') === tag)
}

/**
 * @param read reads the image as it is kept, with its generation data, which every variant carries.
 * @throws {ApiError} SDR_UNAVAILABLE when too many wait, or the image cannot be converted; SDR_RATE_LIMITED.
 */
export async function convertImage (
  read: () => Promise<Buffer>, { format, quality, width }: Variant, { processes, caller }: Decoder
): Promise<Buffer> {
  let text = ''
  const image = await processes.conversions.run(caller, async () => {
    // From an engine, which a model may have taken over.
    const bytes = await read()
    text = readText(bytes, 'parameters') ?? ''
    const kept = cleanImage(bytes)
    if (kept.width * kept.height > mostPixels) throw new RangeError(`it has ${kept.width} × ${kept.height} pixels`)
    return await processes.make(kept, { format, quality, ...(width !== undefined && { resize: { width } }) })
  }).catch((error: Error) => {
    if (!(error instanceof RangeError || error instanceof ImageError)) throw error
    throw apiError('SDR_UNAVAILABLE', `The image cannot be converted: ${error.message}.`, { cause: error })
  })
  switch (format) {
    case 'png': return addText(image.bytes, 'parameters', text)
    case 'jpeg': return addJpegText(image.bytes, text)
    case 'webp': return addWebpText(image.bytes, text, image)
  }
}

interface Range { type: string, weight: number }

/** The format that an Accept header prefers. */
function preferredFormat (accept = ''): OutputFormat {
  const ranges = (accept.trim() === '' ? '*/*' : accept).split(',').map(readRange)
  const weightOf = (format: OutputFormat) => {
    const fitting = [mediaType(format), 'image/*', '*/*'].map(type => ranges.find(range => range.type === type))
    return fitting.find(range => range !== undefined)?.weight ?? 0
  }
  const best = Math.max(...outputFormats.map(weightOf))
  return outputFormats.find(format => best > 0 && weightOf(format) === best) ?? 'png'
}

function readRange (range: string): Range {
  const [type = '', ...parameters] = range.split(';').map(part => part.trim().toLowerCase())
  const weight = parameters.find(parameter => parameter.startsWith('q='))?.slice(2)
  return { type, weight: weight === undefined ? 1 : Number(weight) || 0 }
}
