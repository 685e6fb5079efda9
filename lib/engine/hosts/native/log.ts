import { EngineError, type ImageParameters, type LoadOptions } from '../../engine.ts'
import { LoraReport } from '../lora-report.ts'

/** Inputs that the library skips when it can't use them, by the line that it then logs. */
const skips: ReadonlyArray<readonly [line: RegExp, reason: (what: string[], before: string) => string]> = [
  [/^load lora tensors from (.+) failed$/, ([lora]) => `The LoRA ${lora} does not fit the model.`],
  [/^loading (.+) from '(.+)' failed$/, ([what, file]) => `The ${what} ${file} cannot be read.`],
  [/^Turn off PhotoMaker for this request$/, (_, before) => `PhotoMaker cannot use the pictures: ${before}.`],
  [/^(IP-Adapter .+ failed)$/, ([what]) => `The picture for the IP-Adapter cannot be used: ${what}.`]
]

/**
 * What only the log of the library says: the architecture of a model, and inputs that were skipped. Unknown wordings of
 * other versions are only passed on.
 */
export class NativeLog {
  #architecture: string | undefined
  #skipped: string | undefined
  #before = ''
  readonly loras = new LoraReport()

  /** @returns the line without its place in the sources. */
  add (message: string): string {
    const text = message.replace(/^[\w.-]+:\d+\s+- /, '').trim()
    this.#architecture = /^Version: (.+)$/.exec(text)?.[1] ?? this.#architecture
    this.loras.add(text)
    for (const [line, reason] of skips) {
      const [, ...words] = line.exec(text) ?? []
      if (line.test(text)) this.#skipped = reason(words, this.#before)
    }
    this.#before = text
    return text
  }

  forgetModel (): void {
    this.#architecture = undefined
  }

  /** Before each operation. */
  begin (): void {
    this.#skipped = undefined
    this.#before = ''
    this.loras.begin()
  }

  /** A sentence about the input that the library skipped; the result is then not what was requested. */
  get skipped (): string | undefined {
    return this.#skipped
  }

  /**
   * Checks for weights that end the process at the first step.
   * @throws {EngineError} invalid_parameters
   */
  checkWeightType ({ weight_type: type }: LoadOptions): void {
    if (this.#architecture !== 'MiniT2I' || type === undefined || type === 'f32' || type === 'f16') return
    throw new EngineError('invalid_parameters',
      `Expected f32 or f16 for the weight_type of MiniT2I but received "${type}".`)
  }

  /**
   * Checks for shapes that end the process.
   * @throws {EngineError} invalid_parameters
   */
  checkShape ({ width, height }: ImageParameters): void {
    // The addon has a better message for sizes that no model draws.
    if (this.#architecture !== 'MiniT2I' || width === height || width % 8 !== 0 || height % 8 !== 0) return
    throw new EngineError('invalid_parameters',
      `Expected ${width}, because MiniT2I draws squares only, for height but received ${height}.`)
  }
}
