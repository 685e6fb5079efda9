import fp from 'fastify-plugin'
import type { FastifyReply } from 'fastify'
import { apiError, type ApiError } from '../errors.ts'

declare module 'fastify' {
  interface FastifyReply {
    /** Aborted when the answer is through or its caller has gone. Not `request.signal`: that is when the body came. */
    departure: AbortSignal
    /** Aborts `departure`, so that what waits for something ends with `reason`. Work that does not wait goes on. */
    endWait: (reason: ApiError) => void
  }
}

/** Tells long work when its caller has left. */
export default fp(async (app) => {
  const departures = new WeakMap<FastifyReply, AbortController>()
  app.decorateReply('departure', {
    getter (this: FastifyReply) {
      let departure = departures.get(this)
      if (departure !== undefined) return departure.signal
      departures.set(this, departure = new AbortController())
      const abort = () => departure.abort(apiError('SDR_UNAVAILABLE', 'Nothing was done, because the client has gone.'))
      if (this.raw.closed) abort()
      else this.raw.once('close', abort)
      return departure.signal
    }
  })
  app.decorateReply('endWait', function (reason) {
    departures.get(this)?.abort(reason)
  })
}, { name: 'departure' })
