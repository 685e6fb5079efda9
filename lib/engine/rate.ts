/** Admits so many per second; `onSkipped` is called with the number of the others at its end. */
export class Rate {
  readonly #perSecond: number
  readonly #onSkipped: (count: number) => void
  #admitted = 0
  #skipped = 0
  #timer: NodeJS.Timeout | undefined

  constructor (perSecond: number, onSkipped: (count: number) => void = () => {}) {
    this.#perSecond = perSecond
    this.#onSkipped = onSkipped
  }

  admits (): boolean {
    this.#timer ??= setTimeout(() => this.#begin(), 1000).unref()
    if (this.#admitted < this.#perSecond) {
      this.#admitted++
      return true
    }
    this.#skipped++
    return false
  }

  #begin (): void {
    const skipped = this.#skipped
    this.#timer = undefined
    this.#admitted = 0
    this.#skipped = 0
    if (skipped > 0) this.#onSkipped(skipped)
  }
}
