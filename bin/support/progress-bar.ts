import type { WriteStream } from 'node:tty'

const width = 24

/** A one-line progress bar; where there is no terminal, a line at each change of the label instead. */
export class ProgressBar {
  readonly #stream: WriteStream = process.stderr
  #label = ''

  /** @param done 0…1 */
  update (label: string, done: number): void {
    if (this.#stream.isTTY) {
      const filled = Math.round(Math.min(1, Math.max(0, done)) * width)
      this.#stream.write(`\r\x1b[K  ${'█'.repeat(filled)}${'░'.repeat(width - filled)}  ${label}`)
    } else if (firstWord(label) !== this.#label) {
      this.#label = firstWord(label)
      this.#stream.write(`  ${this.#label}\n`)
    }
  }

  /** Removes the line, so that what comes next stands alone. */
  clear (): void {
    if (this.#stream.isTTY) this.#stream.write('\r\x1b[K')
  }
}

function firstWord (label: string): string {
  return /^\w+/.exec(label)?.[0] ?? ''
}
