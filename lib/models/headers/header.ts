import { quoted } from '../../util/text.ts'

export interface TensorInfo {
  /** The file's name for it: `F16`, `BF16`, `Q4_K`… */
  dtype: string
  /** Outermost dimension first, as in PyTorch, whatever the order in the file. */
  shape: number[]
}

/** The part of a file before its weights. Maps, because names come from strangers: `__proto__` is one. */
export interface Header {
  format: 'safetensors' | 'gguf'
  tensors: Map<string, TensorInfo>
  /** Strings and numbers; without arrays and values longer than `limits.metadataValue`. */
  metadata: Map<string, string | number | boolean>
}

/** A file is not a usable model; the message is for the person who put it there. */
export class ModelFileError extends Error {
  /** Whether its format is never loaded (pickle); else it is damaged. */
  readonly blocked: boolean
  constructor (reason: string, { blocked = false, ...options }: ErrorOptions & { blocked?: boolean } = {}) {
    super(reason, options)
    this.name = 'ModelFileError'
    this.blocked = blocked
  }
}

/** The error for a file that ends before `what` does. */
export function cutOff (what: string, end: number, size: number): ModelFileError {
  return new ModelFileError(`The file is cut off: ${what} ends at byte ${end} of ${size}. Download it again.`)
}

/** The error for a header that exceeds one of `limits`. */
export function beyondLimit (maximum: number, what: string): ModelFileError {
  return new ModelFileError(`The header holds more than ${maximum} ${what}, which is a limit of this server.`)
}

/** Number of elements of a shape, exactly. @throws {ModelFileError} when it does not fit 2⁵³. */
export function elementCount (name: string, shape: readonly number[]): number {
  if (shape.includes(0)) return 0
  let count = 1
  for (const length of shape) {
    if (length > Number.MAX_SAFE_INTEGER / count) {
      throw new ModelFileError(`Tensor ${quoted(name)} claims the impossible shape [${shape.join(', ')}].`)
    }
    count *= length
  }
  return count
}
