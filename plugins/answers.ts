import fp from 'fastify-plugin'
import type { FastifyReply } from 'fastify'
import { callerOf } from '../lib/http/rate-limits.ts'
import { Gate } from '../lib/util/gate.ts'

/** Bytes of an answer that is not worth counting. */
const smallAnswer = 64 * 1024
/** Bytes that a stream keeps in memory: a piece that is read, and one that is on its way. */
const streamed = 128 * 1024
/** Bytes of answers that their clients have not taken yet, of all callers and of one. */
const [mostUnread, mostUnreadForOne] = [512 * 1024 * 1024, 64 * 1024 * 1024]

/**
 * What clients ask for and do not read stays in the memory of the server until they do, or their connections end. A
 * caller that reads never notices the bound.
 */
export default fp(async (app) => {
  const unread = new Gate({
    running: mostUnread, runningForOne: mostUnreadForOne, waiting: 0, what: 'answers that are not read yet'
  })

  app.addHook('onSend', (request, reply, payload, done) => {
    const bytes = sizeOf(payload)
    // What is refused before it is known who asks has a short answer.
    if (bytes <= smallAnswer || request.principal === undefined) return done(null, payload)
    unread.enter(callerOf(request), Math.min(bytes, mostUnreadForOne)).then(leave => {
      reply.raw.once('finish', leave).once('close', leave)
      if (reply.raw.destroyed) leave()
      done(null, payload)
    }, (error: Error) => {
      forget(reply, payload)
      done(error)
    })
  })
}, { name: 'answers' })

function sizeOf (payload: unknown): number {
  if (typeof payload === 'string' || Buffer.isBuffer(payload)) return Buffer.byteLength(payload)
  return payload == null ? 0 : streamed
}

/** Nothing of an answer that is not sent may be kept under its name. */
function forget (reply: FastifyReply, payload: unknown): void {
  reply.header('cache-control', 'no-store')
    .removeHeader('etag')
    .removeHeader('content-disposition')
    .removeHeader('location')
  if (typeof payload === 'object' && payload !== null && 'destroy' in payload) {
    (payload as { destroy: () => void }).destroy()
  }
}
