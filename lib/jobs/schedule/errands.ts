import { apiError } from '../../../errors.ts'

/** How long a caller waits for its turn. */
export interface Patience {
  /** Milliseconds, a minute when absent. */
  timeout?: number
  /** Aborted when the caller waits no more; its reason is the error. */
  signal?: AbortSignal
}

/** Something else than a job that is to be done on the engine. */
interface Errand {
  work: () => Promise<void>
  resolve: () => void
  reject: (reason: unknown) => void
  /** From now on it is not withdrawn any more. */
  keep: () => void
}

const mostErrands = 10

/** Work to be done on an engine between two jobs. If a caller's wait times out, its work is guaranteed never to run. */
export class Errands {
  readonly #errands: Errand[] = []

  get isEmpty (): boolean {
    return this.#errands.length === 0
  }

  /**
   * Waits for the turn of `work`, and then for its end, however long that takes.
   * @param obstacle what it waits for, in words.
   * @throws {ApiError} SDR_UNAVAILABLE when too many wait, or its turn did not come in time.
   */
  async add (work: () => Promise<void>, { timeout = 60_000, signal }: Patience, obstacle: () => string): Promise<void> {
    if (this.#errands.length >= mostErrands) throw apiError('SDR_UNAVAILABLE', undefined, { retryAfter: 10 })
    signal?.throwIfAborted()
    await new Promise<void>((resolve, reject) => {
      const withdraw = (reason: Error) => {
        errand.keep()
        this.#remove(errand)
        reject(reason)
      }
      const timer = setTimeout(() => withdraw(apiError('SDR_UNAVAILABLE',
        `Nothing was done, because within ${timeout / 1000} s its turn did not come: ${obstacle()}. Try again later.`,
        { retryAfter: 30 })), timeout)
      const abort = () => withdraw(signal!.reason as Error)
      signal?.addEventListener('abort', abort)
      const keep = () => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', abort)
      }
      const errand = { work, resolve, reject, keep }
      this.#errands.push(errand)
    })
  }

  /** Does the first one. @param prepare what comes before: it may be withdrawn until then. */
  async runFirst (prepare: () => Promise<void>): Promise<void> {
    const errand = this.#errands[0]
    if (errand === undefined) return
    try {
      await prepare()
      if (!this.#errands.includes(errand)) return
      errand.keep()
      await errand.work()
      errand.resolve()
    } catch (error) {
      errand.keep()
      errand.reject(error)
    } finally {
      this.#remove(errand)
    }
  }

  /** Ends all of them undone. */
  refuse (reason: Error): void {
    for (const { keep, reject } of this.#errands.splice(0)) {
      keep()
      reject(reason)
    }
  }

  #remove (errand: Errand): void {
    const index = this.#errands.indexOf(errand)
    if (index >= 0) this.#errands.splice(index, 1)
  }
}
