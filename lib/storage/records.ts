import type { Database } from './database.ts'

/** What is written beside the work of the server. No request fails, or waits, because a record can't be written. */
export type RecordKind = 'audit' | 'last_use'

/** Called when records can't be written. @param lost how many of them are given up; the others are kept for later */
export type OnRecordError = (kind: RecordKind, error: unknown, lost: number) => void

/** Milliseconds without a try after a write that failed. */
const pause = 1000

/** Writes records of last use. One that can't be written is given up: the next use writes it again. */
export class LastUse {
  readonly #onRecordError: OnRecordError
  #pausedUntil = -Infinity

  constructor (onRecordError: OnRecordError = () => {}) {
    this.#onRecordError = onRecordError
  }

  write (statement: ReturnType<Database['prepare']>, id: string): void {
    if (performance.now() < this.#pausedUntil) return
    try {
      statement.run(Date.now(), id)
    } catch (error) {
      this.#pausedUntil = performance.now() + pause
      this.#onRecordError('last_use', error, 1)
    }
  }
}
