import type { Logger } from './logger.ts'

/** Milliseconds between two lines about the same error. */
const interval = 60_000

/**
 * Logs an error that may come at any rate: the first at once, then at most one line a minute, with the number of them.
 * @param now milliseconds of a clock that is never set back
 */
export function rarely (log: (details: { err: unknown, times: number }) => void, now = () => performance.now()) {
  let times = 0
  let quietUntil = -Infinity
  return function report (err: unknown, count = 1): void {
    times += count
    if (now() < quietUntil) return
    quietUntil = now() + interval
    log({ err, times })
    times = 0
  }
}

/**
 * A callback for a timer or an event. An exception that leaves such a callback ends the process, so this one logs it;
 * the next round tries again.
 */
export function guarded (
  logger: Pick<Logger, 'error'>, message: string, work: () => void | Promise<void>
): () => Promise<void> {
  const report = rarely(details => logger.error(details, message))
  return async () => {
    try {
      await work()
    } catch (error) {
      report(error)
    }
  }
}
