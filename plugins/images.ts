import fp from 'fastify-plugin'
import { callerOf } from '../lib/http/rate-limits.ts'
import { requireSharp } from '../lib/media/binaries.ts'
import { ImageProcesses } from '../lib/media/image-processes.ts'
import type { Decoder } from '../lib/media/input.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** What decodes images for the caller of a request. */
    decoderFor: (request: FastifyRequest) => Decoder
  }
}

/** The processes that decode images. None is started before the first image. */
export default fp(async (app) => {
  requireSharp()
  const processes = new ImageProcesses(reason => app.log.warn(reason))
  app.decorate('decoderFor', request => ({ processes, caller: callerOf(request) }))
  app.addHook('onClose', async () => processes.close())
}, { name: 'images' })
