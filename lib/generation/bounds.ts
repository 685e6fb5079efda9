import { maximumSeed } from '../engine/engine.ts'
import { badValue } from '../http/request-errors.ts'
import type { Model } from '../models/model.ts'
import type { Limits } from './request-schema.ts'
import type { Size } from './size.ts'

/** The parameters of a job that decide how much memory and time it takes. */
interface Bounded extends Size {
  seed?: number
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

/** @throws {ApiError} SDR_INVALID_REQUEST naming the limit and the value received. */
export function checkBounds ({ seed = -1, batch_count: images, ...work }: Bounded, model: Model, limits: Limits): void {
  const { width, height, steps, hires } = work
  if (seed > maximumSeed - images + 1) {
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
