import { EngineError, type ImageParameters, type LoadOptions } from '../../engine.ts'

/** What the library leaves out of its work when it can't use it, and then says so in one line of its log. */
const leftOut: ReadonlyArray<readonly [line: RegExp, reason: (what: string[], before: string) => string]> = [
  [/^load lora tensors from (.+) failed$/, ([lora]) => `The LoRA ${lora} does not fit the model.`],
  [/^Only \(0 \/ \d+\) LoRA tensors have been applied, lora_file_path = (.+)$/,
    ([lora]) => `The LoRA ${lora} does not fit the model.`],
  [/^loading (.+) from '(.+)' failed$/, ([what, file]) => `The ${what} ${file} cannot be read.`],
  [/^Turn off PhotoMaker for this request$/, (_, before) => `PhotoMaker cannot use the pictures: ${before}.`],
  [/^(IP-Adapter .+ failed)$/, ([what]) => `The picture for the IP-Adapter cannot be used: ${what}.`]
]

/**
 * What the library says only in its log, and what has to be known of it: which architecture a model has, and that
 * something was left out. The log of a version that words it differently is passed on without being understood.
 */
export class NativeLog {
  #architecture: string | undefined
  #leftOut: string | undefined
  #before = ''

  /** @returns the line without the place in the library's sources. */
  add (message: string): string {
    const text = message.replace(/^[\w.-]+:\d+\s+- /, '').trim()
    this.#architecture = /^Version: (.+)$/.exec(text)?.[1] ?? this.#architecture
    for (const [line, reason] of leftOut) {
      const [, ...words] = line.exec(text) ?? []
      if (line.test(text)) this.#leftOut = reason(words, this.#before)
    }
    this.#before = text
    return text
  }

  forgetModel (): void {
    this.#architecture = undefined
  }

  /** Before each operation. */
  begin (): void {
    this.#leftOut = undefined
    this.#before = ''
  }

  /** A sentence about what the library could not use and has gone on without: not what was asked for. */
  get leftOut (): string | undefined {
    return this.#leftOut
  }

  /**
   * Refuses weights that end the process at the first step.
   * @throws {EngineError} invalid_parameters
   */
  checkWeightType ({ weight_type: type }: LoadOptions): void {
    if (this.#architecture !== 'MiniT2I' || type === undefined || type === 'f32' || type === 'f16') return
    throw new EngineError('invalid_parameters',
      `Expected f32 or f16 for the weight_type of MiniT2I but received "${type}".`)
  }

  /**
   * Refuses shapes that end the process.
   * @throws {EngineError} invalid_parameters
   */
  checkShape ({ width, height }: ImageParameters): void {
    // Of sizes that no model draws the addon knows more to say.
    if (this.#architecture !== 'MiniT2I' || width === height || width % 8 !== 0 || height % 8 !== 0) return
    throw new EngineError('invalid_parameters',
      `Expected ${width}, because MiniT2I draws squares only, for height but received ${height}.`)
  }
}
