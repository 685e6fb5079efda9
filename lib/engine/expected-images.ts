import { readPngHeader } from '../media/png.ts'
import type { EngineImage, ImageParameters, OperationName } from './engine.ts'
import { invalid } from './host-message.ts'

interface Size { width: number, height: number }

/** Pixels by which a side may exceed the request: some models draw in multiples of 64. */
const mostRounding = 127
/** The most that `--max-pixels` and `--max-upscaled-pixels` allow. */
const mostPixels = 8192 * 8192
/** Bytes of an incompressible PNG file: four for each pixel, and its structure. */
const mostBytes = ({ width, height }: Size): number => Math.ceil(width * height * 4.1) + 65_536

/** The number and size of the images that an operation may make. An engine that makes others can't be trusted. */
export class ExpectedImages {
  readonly #count: number
  readonly #fits: (size: Size) => boolean
  readonly #size: string
  readonly #received = new Set<number>()

  constructor (operation: OperationName, parameters: object, attachments: Record<string, Uint8Array>) {
    this.#count = countOf(operation, parameters)
    const { fits, words } = sizeOf(operation, parameters, attachments)
    this.#fits = fits
    this.#size = words
  }

  /** @throws {ProtocolError} for an image, or the progress of one, that was not requested. */
  checkIndex (index: number, field: string): void {
    if (index < Math.max(this.#count, 1)) return
    throw invalid(`${field}.index`, `one of ${this.#count} images`, index)
  }

  /** @throws {ProtocolError} for too many images, a repeated one, another size, or too many bytes. */
  add (image: EngineImage): void {
    if (this.#count === 0) throw invalid('image', 'no image of this operation', image.index)
    this.checkIndex(image.index, 'image')
    if (this.#received.has(image.index)) throw invalid('image.index', 'one that did not come yet', image.index)
    const { width, height, png } = image
    if (width * height > mostPixels || !this.#fits(image)) {
      throw invalid('image', this.#size, `${width} × ${height} pixels`)
    }
    if (png.byteLength > mostBytes(image)) {
      throw invalid('image', `at most ${mostBytes(image)} bytes`, png.byteLength)
    }
    this.#received.add(image.index)
  }
}

function countOf (operation: OperationName, parameters: object): number {
  if (operation === 'generate') return (parameters as ImageParameters).batch_count ?? 1
  return operation === 'upscale' || operation === 'canny' ? 1 : 0
}

function sizeOf (
  operation: OperationName, parameters: object, attachments: Record<string, Uint8Array>
): { fits: (size: Size) => boolean, words: string } {
  if (operation === 'generate') {
    const { width, height, hires } = parameters as ImageParameters
    const rounding = hires === undefined ? mostRounding : Infinity // a second pass draws them larger
    return {
      fits: size => isFrom(size.width, width, rounding) && isFrom(size.height, height, rounding),
      words: `${width} × ${height} pixels or a little more`
    }
  }
  const source = sourceOf(attachments)
  if (source === undefined) return { fits: () => true, words: `at most ${mostPixels} pixels` }
  const { width, height } = source
  return {
    fits: size => size.width * height === size.height * width && size.width % width === 0,
    words: `a multiple of ${width} × ${height} pixels`
  }
}

function isFrom (side: number, asked: number, more: number): boolean {
  return side >= asked && side <= asked + more
}

/** Size of the attached image; undefined when it can't be read. */
function sourceOf (attachments: Record<string, Uint8Array>): Size | undefined {
  const [first] = Object.values(attachments)
  try {
    return first && readPngHeader(first)
  } catch {
    return undefined // the engine will say so
  }
}
