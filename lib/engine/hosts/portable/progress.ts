import type { Progress } from '../../engine.ts'

/**
 * The progress of a generation, from the addon's counter. It runs from step 0 for the tiles of the initial image (with
 * tiling), then for each image, then for the tiles of each (with tiling).
 */
export class PortableProgress {
  readonly #batch: number
  /** Number of the counter's run; that of the first image is 0. */
  #run: number

  constructor (batch: number, isEncodedInTiles: boolean) {
    this.#batch = batch
    this.#run = isEncodedInTiles ? -2 : -1
  }

  get beginning (): Progress {
    return { phase: 'conditioning', step: 0, steps: 0, index: 0 }
  }

  next (step: number, steps: number): Progress[] {
    if (step === 0) this.#run++
    const run = this.#run
    if (run < 0) return [{ phase: 'conditioning', step, steps, index: 0 }]
    const last = this.#batch - 1
    if (run > last) return [{ phase: 'decoding', step, steps, index: Math.min(run - this.#batch, last) }]
    const sampled: Progress = { phase: 'sampling', step, steps, index: run }
    // The decoding may take longer than all steps, without progress of its own.
    return run === last && step === steps ? [sampled, { phase: 'decoding', step: 0, steps: 0, index: 0 }] : [sampled]
  }
}
