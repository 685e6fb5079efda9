import type { ApiError } from '../../errors.ts'
import type { Maybe } from '../util/maybe.ts'

export interface OpenAnswer {
  raw: { closed: boolean, headersSent: boolean, destroy: () => unknown }
  /** Ends what the request waits for. */
  endWait: (reason: ApiError) => void
}

/** Answers that take longer than a turn of the event loop: streams of events, requests with ?wait=, slow bodies. */
export class OpenAnswers<Reply extends OpenAnswer> {
  readonly #hasEnded: (reply: Reply) => Maybe<boolean>
  readonly #reason: () => ApiError
  #latest: Reply[] = []
  readonly #open = new Set<Reply>()

  /** @param hasEnded whether the caller may not have the answer any more. @param reason why its wait ends then. */
  constructor (hasEnded: (reply: Reply) => Maybe<boolean>, reason: () => ApiError) {
    this.#hasEnded = hasEnded
    this.#reason = reason
  }

  /** Most are answered within the turn: those cost nothing but their place in a list. */
  watch (reply: Reply): void {
    if (this.#latest.push(reply) > 1) return
    setImmediate(() => {
      for (const reply of this.#latest) if (!reply.raw.closed) this.#open.add(reply)
      this.#latest = []
    })
  }

  /**
   * Ends the answers whose callers lost the right to them: a stream is cut; a request that is not answered yet ends its
   * wait, if it has one, and is decided by its route.
   */
  async review (): Promise<void> {
    for (const reply of this.#open) {
      if (reply.raw.closed) this.#open.delete(reply)
      else if (await this.#hasEnded(reply)) {
        if (reply.raw.headersSent) reply.raw.destroy()
        else reply.endWait(this.#reason())
      }
    }
  }
}
