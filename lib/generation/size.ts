import type { ImageLimits } from '../models/detect/architectures.ts'
import type { Model } from '../models/model.ts'
import { smallestSide, type Limits } from './request-schema.ts'

export interface Size {
  /** Pixels. */
  width: number
  height: number
}

/** For models that say nothing of their own: the sides that every model can draw. */
const unknownModel: ImageLimits = { min_side: smallestSide, max_side: Infinity, multiple_of: 64, square_only: false }

/**
 * The size of the images of a job. What the request leaves open has the proportions of the image that it begins with
 * and at most as many pixels as the model draws by itself; without such an image it is the model's own size. With
 * `roundsSize` a whole size is brought to the nearest one that the model and the limits allow, with its proportions.
 */
export function chooseSize (
  { width, height }: Partial<Size>, { limits: drawn = unknownModel }: Pick<Model, 'limits'>, defaults: Size,
  image: Size | undefined, limits: Limits, roundsSize = false
): Size {
  const isWhole = width !== undefined && height !== undefined
  if (isWhole && !roundsSize) return { width, height }
  const { multiple_of: multiple, square_only: isSquare } = drawn
  const most = { width: Math.min(limits.maxWidth, drawn.max_side), height: Math.min(limits.maxHeight, drawn.max_side) }
  const round = (side: number, longest: number) => {
    const nearest = Math.max(Math.round(side / multiple) * multiple, drawn.min_side)
    return Math.min(nearest, Math.floor(longest / multiple) * multiple)
  }
  if (isWhole) {
    const shorter = Math.min(width, height)
    const wanted = isSquare ? { width: shorter, height: shorter } : { width, height }
    const nearest = { width: round(wanted.width, most.width), height: round(wanted.height, most.height) }
    const scale = Math.min(Math.sqrt(limits.maxPixels / (wanted.width * wanted.height)),
      most.width / wanted.width, most.height / wanted.height)
    if (scale >= 1 && nearest.width * nearest.height <= limits.maxPixels) return nearest
    const below = (side: number) =>
      Math.max(Math.floor(side * Math.min(1, scale) / multiple) * multiple, drawn.min_side)
    return { width: below(wanted.width), height: below(wanted.height) }
  }
  if (isSquare) {
    const side = width ?? height ?? round(defaults.width, Math.min(most.width, most.height))
    return { width: side, height: side }
  }
  const shape = image ?? defaults
  if (width !== undefined) return { width, height: round(width * shape.height / shape.width, most.height) }
  if (height !== undefined) return { width: round(height * shape.width / shape.height, most.width), height }
  const scale = Math.min(
    1, Math.sqrt(Math.min(defaults.width * defaults.height, limits.maxPixels) / (shape.width * shape.height)),
    most.width / shape.width, most.height / shape.height)
  return { width: round(shape.width * scale, most.width), height: round(shape.height * scale, most.height) }
}
