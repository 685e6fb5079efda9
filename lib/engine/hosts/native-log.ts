import { EngineError, type ImageParameters, type LoadOptions } from '../engine.ts'

/**
 * What the library says only in its log, and what has to be known of it: which architecture a model has, and that a LoRA
 * was left out. A version that words its log differently is not understood, and then behaves as it does for everybody.
 */
export class NativeLog {
  #architecture: string | undefined
  #leftOutLora: string | undefined

  /** @returns the line without the place in the library's sources. */
  add (message: string): string {
    const text = message.replace(/^[\w.-]+:\d+\s+- /, '').trim()
    this.#architecture = /^Version: (.+)$/.exec(text)?.[1] ?? this.#architecture
    const lora = /^load lora tensors from (.+) failed$/.exec(text) ??
      /^Only \(0 \/ \d+\) LoRA tensors have been applied, lora_file_path = (.+)$/.exec(text)
    if (lora !== null) this.#leftOutLora = lora[1]
    return text
  }

  forgetModel (): void {
    this.#architecture = undefined
  }

  /** Before each drawing. */
  forgetLora (): void {
    this.#leftOutLora = undefined
  }

  /** The path of a LoRA that does not fit the model: the library draws without it. */
  get leftOutLora (): string | undefined {
    return this.#leftOutLora
  }

  /**
   * Refuses weights that end the process at the first step.
   * @throws {EngineError} invalid_parameters
   */
  checkWeightType ({ weight_type: type }: LoadOptions): void {
    if (this.#architecture !== 'MiniT2I' || type === undefined || type === 'f32' || type === 'f16') return
    throw new EngineError('invalid_parameters', `Expected f32 or f16 for the weight_type of MiniT2I but received "${type}".`)
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
