const applied = /^(?:Only )?\((\d+) \/ (\d+)\) LoRA tensors have been applied, lora_file_path = (.+)$/
const skipped = /^\((\d+) \/ (\d+)\) incompatible LoRA tensors have been skipped, lora_file_path = (.+)$/

interface Count { applied: number, of: number }

/**
 * How much of each LoRA the library applied, by its log: a summary for each part of the model, behind a line for each
 * tensor that it left out.
 */
export class LoraReport {
  readonly #counts = new Map<string, Count>()

  /** Before each operation. */
  begin (): void {
    this.#counts.clear()
  }

  /** @param text a line without its place in the sources. */
  add (text: string): void {
    const summary = applied.exec(text)
    if (summary !== null) this.#count(summary[3]!, Number(summary[1]), Number(summary[2]))
    const incompatible = skipped.exec(text)
    if (incompatible !== null) this.#count(incompatible[3]!, 0, Number(incompatible[1]))
  }

  #count (path: string, applied: number, of: number): void {
    const count = this.#counts.get(path) ?? { applied: 0, of: 0 }
    this.#counts.set(path, { applied: count.applied + applied, of: count.of + of })
  }

  /** A sentence about the first LoRA that had no effect; undefined when all had one. */
  get failure (): string | undefined {
    for (const [path, { applied, of }] of this.#counts) {
      if (applied === 0) return `The LoRA ${path} does not fit the model: 0 / ${of} of its tensors were applied.`
    }
  }

  /** Sentences about LoRAs that had an effect only in part. */
  get notices (): string[] {
    const partly = [...this.#counts].filter(([, { applied, of }]) => applied > 0 && applied < of)
    return partly.map(([path, { applied, of }]) =>
      `The LoRA ${path} fits the model only in part: ${applied} of its ${of} tensors were applied.`)
  }
}
