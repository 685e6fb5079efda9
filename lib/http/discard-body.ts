import type { IncomingMessage } from 'node:http'

/** Bytes of a body that is read only to be dropped: more than any that is taken. */
export const mostDiscarded = 128 * 1024 * 1024
/** Milliseconds for all of it, and for a pause of the client. */
const [longest, longestPause] = [60_000, 5000]

/** Whether the client is still sending the body of its request. */
export function isBodyUnderWay ({ headers, complete }: IncomingMessage): boolean {
  return complete === false &&
    (headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0)
}

/**
 * Ends a request whose body does not come: what reads the body answers with the error. A refusal that is under way has
 * bounds of its own.
 * @returns whether there was a body to wait for
 */
export function failBody (request: IncomingMessage, error: Error): boolean {
  return isBodyUnderWay(request) && request.listenerCount('error') > 0 && request.emit('error', error)
}

/**
 * Reads the rest of a body and drops it. Many clients read the answer only when they have sent everything, and a
 * connection that is closed before takes the answer with it.
 * @returns whether the whole body came: fulfilled when it did, when the client has gone, or at the bounds.
 */
export async function discardBody (request: IncomingMessage): Promise<boolean> {
  return await new Promise(resolve => {
    let bytes = 0
    const end = () => {
      clearTimeout(whole)
      clearTimeout(pause)
      request.off('data', count).off('end', end).off('close', end)
      request.pause()
      resolve(request.complete)
    }
    const whole = setTimeout(end, longest).unref()
    const pause = setTimeout(end, longestPause).unref()
    const count = (chunk: Buffer) => {
      pause.refresh()
      if ((bytes += chunk.length) > mostDiscarded) end()
    }
    request.unpipe()
    request.on('data', count).on('end', end).on('close', end)
    request.resume()
  })
}
