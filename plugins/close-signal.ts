import fp from 'fastify-plugin'
import type { FastifyReply } from 'fastify'
import { apiError, type ApiError } from '../errors.ts'

declare module 'fastify' {
  interface FastifyReply {
    /** Aborted when the answer is sent or its caller has gone. `request.signal` is not: it says that the body came. */
    closeSignal: AbortSignal
    /** Aborts `closeSignal`, so that what waits for something ends with `reason`. Work that does not wait goes on. */
    endWait: (reason: ApiError) => void
  }
}

/** Stops long work when its caller has gone. */
export default fp(async (app) => {
  const controllers = new WeakMap<FastifyReply, AbortController>()
  app.decorateReply('closeSignal', {
    getter (this: FastifyReply) {
      let controller = controllers.get(this)
      if (controller !== undefined) return controller.signal
      controllers.set(this, controller = new AbortController())
      const abort = () =>
        controller.abort(apiError('SDR_UNAVAILABLE', 'Nothing was done, because the client has gone.'))
      if (this.raw.closed) abort()
      else this.raw.once('close', abort)
      return controller.signal
    }
  })
  app.decorateReply('endWait', function (reason) {
    controllers.get(this)?.abort(reason)
  })
}, { name: 'close-signal' })
