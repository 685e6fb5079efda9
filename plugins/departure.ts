import fp from 'fastify-plugin'
import type { FastifyReply } from 'fastify'

declare module 'fastify' {
  interface FastifyReply {
    /** Aborted when the answer is through, or its caller has gone before. Not `request.signal`: that is when the body has come. */
    departure: AbortSignal
  }
}

/** Tells work that takes long when nobody waits for it any more. */
export default fp(async (app) => {
  app.decorateReply('departure', {
    getter (this: FastifyReply) {
      const departure = new AbortController()
      if (this.raw.closed) departure.abort()
      else this.raw.once('close', () => departure.abort())
      return departure.signal
    }
  })
}, { name: 'departure' })
