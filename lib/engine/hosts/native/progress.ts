import type { Progress } from '../../engine.ts'

/**
 * Tells what the library is at. It has one progress callback, for the weights that it reads as for the steps that it
 * draws, and none for the rest; but it logs where one part of its work ends and the next begins. Of a version that
 * words its log differently the counters are understood, and only the phases around the sampling are missed.
 */
export class GenerationProgress {
  readonly #batch: number
  readonly #expected: number
  #current: Progress = { phase: 'conditioning', step: 0, steps: 0, index: 0 }
  /** Steps of the image that is being drawn, which the library says before it reads weights for them. */
  #steps: number | undefined
  #isSecondPass = false

  /**
   * @param batch how many images are drawn.
   * @param steps how many steps each takes, as far as it is known.
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
    // The second pass of a highres fix draws all images again. It is told as a part of the decoding, with its steps,
    // because progress never goes back.
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
      return false // weights that are read in between
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
