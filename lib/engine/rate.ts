/** Lets so many through in a second; `leftOut` is told at its end how many it did not. */
export class Rate {
  readonly #perSecond: number
  readonly #leftOut: (count: number) => void
  #admitted = 0
  #refused = 0
  #timer: NodeJS.Timeout | undefined

  constructor (perSecond: number, leftOut: (count: number) => void = () => {}) {
    this.#perSecond = perSecond
    this.#leftOut = leftOut
  }

  admits (): boolean {
    this.#timer ??= setTimeout(() => this.#begin(), 1000).unref()
    if (this.#admitted < this.#perSecond) {
      this.#admitted++
      return true
    }
    this.#refused++
    return false
  }

  #begin (): void {
    const refused = this.#refused
    this.#timer = undefined
    this.#admitted = 0
    this.#refused = 0
    if (refused > 0) this.#leftOut(refused)
  }
}
