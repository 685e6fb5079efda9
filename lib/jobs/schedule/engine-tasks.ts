import { apiError } from '../../../errors.ts'

/** How long a caller waits for its turn. */
export interface WaitOptions {
  /** Milliseconds, a minute when absent. */
  timeout?: number
  /** Aborted when the caller waits no more; its reason is the error. */
  signal?: AbortSignal
}

interface Task {
  work: () => Promise<void>
  resolve: () => void
  reject: (reason: unknown) => void
  /** Ends its timeout: from here on it is not withdrawn. */
  keep: () => void
}

const mostTasks = 10

/** Work to be done on an engine between two jobs. If a caller's wait times out, its work is guaranteed never to run. */
export class EngineTasks {
  readonly #tasks: Task[] = []

  get isEmpty (): boolean {
    return this.#tasks.length === 0
  }

  /**
   * Waits for the turn of `work`, and then for its end, however long that takes.
   * @param obstacle what it waits for, in words.
   * @throws {ApiError} SDR_UNAVAILABLE when too many wait, or its turn did not come in time.
   */
  async add (
    work: () => Promise<void>, { timeout = 60_000, signal }: WaitOptions, obstacle: () => string
  ): Promise<void> {
    if (this.#tasks.length >= mostTasks) throw apiError('SDR_UNAVAILABLE', undefined, { retryAfter: 10 })
    signal?.throwIfAborted()
    await new Promise<void>((resolve, reject) => {
      const withdraw = (reason: Error) => {
        task.keep()
        this.#remove(task)
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
      const task = { work, resolve, reject, keep }
      this.#tasks.push(task)
    })
  }

  /** Runs the first one. @param prepare comes before; until it is done the task may be withdrawn. */
  async runFirst (prepare: () => Promise<void>): Promise<void> {
    const task = this.#tasks[0]
    if (task === undefined) return
    try {
      await prepare()
      if (!this.#tasks.includes(task)) return
      task.keep()
      await task.work()
      task.resolve()
    } catch (error) {
      task.keep()
      task.reject(error)
    } finally {
      this.#remove(task)
    }
  }

  /** Rejects all of them undone. */
  rejectAll (reason: Error): void {
    for (const { keep, reject } of this.#tasks.splice(0)) {
      keep()
      reject(reason)
    }
  }

  #remove (task: Task): void {
    const index = this.#tasks.indexOf(task)
    if (index >= 0) this.#tasks.splice(index, 1)
  }
}
