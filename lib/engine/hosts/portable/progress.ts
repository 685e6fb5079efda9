import type { Progress } from '../../engine.ts'

/**
 * Tells what a generation is at from the addon's counters, which are all alike: one run from step 0 for the tiles of
 * the image to begin with (when tiling is on), then one for each image, then one for the tiles of each (as before).
 */
export class PortableProgress {
  readonly #batch: number
  /** Which run of the counter this is; that of the first image is 0. */
  #run: number

  constructor (batch: number, isEncodedInTiles: boolean) {
    this.#batch = batch
    this.#run = isEncodedInTiles ? -2 : -1
  }

  /** The first thing to tell. */
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
    // What follows may take longer than all the steps, and says nothing while it lasts.
    return run === last && step === steps ? [sampled, { phase: 'decoding', step: 0, steps: 0, index: 0 }] : [sampled]
  }
}
