import fp from 'fastify-plugin'
import type { Engine, EngineInfo } from '../lib/engine/engine.ts'
import { EngineProcess } from '../lib/engine/process.ts'
import { selectEngine } from '../lib/engine/select.ts'
import { CommandError, exitCodes } from '../errors.ts'

declare module 'fastify' {
  interface FastifyInstance {
    engine: Engine
    /** What the engine told of itself at the start of the server. */
    engineInfo: EngineInfo
  }
}

/**
 * The engine process. It is started before the server listens: its samplers are part of the schemas, and an operator
 * wants to know at once when it can't run.
 */
export default fp(async (app) => {
  const { engine: wanted, cancelGrace, engineTimeout } = app.config
  const selected = await selectEngine({ engine: wanted })
  app.log.info({ engine: selected.engine }, `Engine: ${selected.reason}`)
  const engine = new EngineProcess(selected, {
    cancelGrace: cancelGrace * 1000,
    silenceTimeout: engineTimeout * 1000,
    logger: app.log
  })
  app.addHook('onClose', async () => engine.stop())
  let info: EngineInfo
  try {
    info = await engine.start()
  } catch (error) {
    throw new CommandError(exitCodes.engine, `The ${selected.engine} engine does not start: ${(error as Error).message}`, { cause: error })
  }
  app.log.info({ version: info.version, device: info.device, capabilities: info.capabilities }, `The ${info.engine} engine is ready`)
  app.decorate('engine', engine)
  app.decorate('engineInfo', info)
}, { name: 'engine', dependencies: ['config'] })
