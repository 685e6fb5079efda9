import type { Progress } from '../../engine.ts'

/**
 * The progress of a generation. The library has one progress callback, for weights that it reads and steps that it
 * draws; the other phases begin and end with a line of its log. If a version words its log differently, only the phases
 * around the sampling are missed.
 */
export class GenerationProgress {
  readonly #batch: number
  readonly #expected: number
  #current: Progress = { phase: 'conditioning', step: 0, steps: 0, index: 0 }
  /** Steps of the current image, which the library reports before it reads weights for them. */
  #steps: number | undefined
  #isSecondPass = false

  /**
   * @param batch number of images.
   * @param steps expected steps of each image.
   */
  constructor (batch: number, steps: number) {
    this.#batch = batch
    this.#expected = steps
  }

  get current (): Progress {
    return this.#current
  }

  /** @returns whether something changed. */
  log (message: string): boolean {
    const image = /generating image: (\d+)\/\d+/.exec(message)
    if (image) return this.#enter('sampling', Number(image[1]) - 1)
    // The second pass of a hires fix draws all images again. It counts as part of the decoding, because progress never
    // goes back.
    if (/hires fix: upscaling to/.test(message)) {
      this.#isSecondPass = true
      return this.#enter('decoding', 0)
    }
    const redrawn = /hires sampling (\d+)\/\d+ completed/.exec(message)
    if (redrawn) return this.#enter('decoding', Number(redrawn[1]))
    if (/decoding \d+(\/\d+)? latents/.test(message)) {
      this.#isSecondPass = false
      return this.#enter('decoding', 0)
    }
    const decoded = /latent (\d+) decoded/.exec(message)
    return decoded !== null && this.#enter('decoding', Number(decoded[1]))
  }

  /** @returns whether something changed. */
  step (step: number, steps: number): boolean {
    const { phase, index } = this.#current
    if (phase === 'decoding' && !this.#isSecondPass) return false
    if (step === 0 && (phase === 'conditioning' ? steps === this.#expected : this.#steps === undefined)) {
      if (phase === 'conditioning') this.#enter('sampling', 0)
      this.#steps = steps
    } else if (steps !== this.#steps || step === this.#current.step) {
      return false // weights are being read
    }
    const next = step < this.#current.step ? index + 1 : index
    this.#current = { ...this.#current, step, steps, index: Math.min(next, this.#batch - 1) }
    return true
  }

  #enter (phase: Progress['phase'], index: number): boolean {
    this.#steps = undefined
    this.#current = { phase, step: 0, steps: 0, index: Math.min(index, this.#batch - 1) }
    return true
  }
}
