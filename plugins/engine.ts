import fp from 'fastify-plugin'
import type { Device, EngineInfo } from '../lib/engine/engine.ts'
import { startEngines } from '../lib/engine/start.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** The devices that draw, each with an engine process; at least one. */
    devices: readonly Device[]
    /** What the engine told of itself at the start of the server; the same for all devices but for their names. */
    engineInfo: EngineInfo
  }
}

export interface EngineOptions {
  /** The engines, when they were started while the code of the application was loaded. */
  engines?: ReturnType<typeof startEngines>
}

/**
 * The engine processes. They are started before the server listens: their samplers are part of the schemas, and an
 * operator wants to know at once when one can't run.
 */
export default fp<EngineOptions>(async (app, { engines = startEngines(app.config, app.log) }) => {
  const { devices, ready, stop } = await engines
  app.addHook('onClose', stop)
  const info = await ready
  app.log.info({
    version: info.version,
    device: info.device,
    capabilities: info.capabilities
  }, `The ${info.engine} engine is ready`)
  app.decorate('devices', devices)
  app.decorate('engineInfo', info)
}, { name: 'engine', dependencies: ['config'] })
