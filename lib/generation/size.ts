import { maximumSeed } from '../engine/engine.ts'
import type { ImageLimits } from '../models/detect/architectures.ts'
import type { Model } from '../models/model.ts'
import { smallestSide, type Limits } from './parameters.ts'
import { badValue } from '../http/refusals.ts'

export interface Size {
  /** Pixels. */
  width: number
  height: number
}

/** For models of which nothing is known: the sides that every one of them can draw. */
const unknownModel: ImageLimits = { min_side: smallestSide, max_side: Infinity, multiple_of: 64, square_only: false }

/**
 * The size of the images of a job. What the request leaves open has the proportions of the image that it begins with
 * and at most as many pixels as the model draws by itself; without such an image it is the model's own size.
 */
export function chooseSize (
  { width, height }: Partial<Size>, { limits: drawn = unknownModel }: Pick<Model, 'limits'>, defaults: Size,
  image: Size | undefined, limits: Limits
): Size {
  if (width !== undefined && height !== undefined) return { width, height }
  const { multiple_of: multiple, square_only: isSquare } = drawn
  const most = { width: Math.min(limits.maxWidth, drawn.max_side), height: Math.min(limits.maxHeight, drawn.max_side) }
  const round = (side: number, longest: number) => {
    const nearest = Math.max(Math.round(side / multiple) * multiple, drawn.min_side)
    return Math.min(nearest, Math.floor(longest / multiple) * multiple)
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

/** What bounds a job: its size, and how long it will take. */
interface Work extends Size {
  seed: number
  steps: number
  batch_count: number
  hires?: Hires
}

export interface Hires {
  scale?: number
  target_width?: number
  target_height?: number
  steps?: number
}

/** @throws {ApiError} SDR_INVALID_REQUEST naming the limit and what came. */
export function checkWork ({ seed, batch_count: images, ...work }: Work, model: Model, limits: Limits): void {
  const { width, height, steps, hires } = work
  if (seed + images - 1 > maximumSeed) {
    throw badValue('seed', `at most ${maximumSeed - images + 1} with batch_count ${images}`, seed)
  }
  checkModelLimits(work, model)
  checkPixels('width × height', work, limits)
  let pixelSteps = width * height * steps
  if (hires !== undefined) {
    const final = hiresSize(work, hires)
    checkPixels('hires', final, limits)
    pixelSteps += final.width * final.height * (hires.steps ?? steps)
  }
  const megapixelSteps = Math.ceil(pixelSteps * images / 1e6)
  if (megapixelSteps <= limits.maxWork) return
  const expected = `at most ${limits.maxWork} megapixel steps (--max-work)`
  throw badValue('width × height × steps × batch_count', expected, megapixelSteps)
}

function hiresSize ({ width, height }: Size, { scale = 2, ...target }: Hires): Size {
  if (target.target_width === undefined && target.target_height === undefined) {
    return { width: width * scale, height: height * scale }
  }
  return { width: target.target_width ?? width, height: target.target_height ?? height }
}

function checkPixels (field: string, { width, height }: Size, { maxPixels }: Limits): void {
  if (width * height <= maxPixels) return
  throw badValue(field, `at most ${maxPixels} pixels (--max-pixels)`, `${width} × ${height} = ${width * height}`)
}

function checkModelLimits ({ width, height }: Size, { id, limits }: Model): void {
  if (limits === undefined) return
  const { min_side: least, max_side: most, multiple_of: multiple, square_only: isSquare } = limits
  for (const [field, value] of Object.entries({ width, height })) {
    if (value >= least && value <= most && value % multiple === 0) continue
    throw badValue(field, `a multiple of ${multiple} from ${least} to ${most}, which is what ${id} draws,`, value)
  }
  if (isSquare && width !== height) throw badValue('height', `${width}, because ${id} draws squares only,`, height)
}
