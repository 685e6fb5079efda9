import fp from 'fastify-plugin'
import { deviceNames, findDevice } from '../lib/engine/devices.ts'
import type { Device, EngineInfo } from '../lib/engine/engine.ts'
import { EngineProcess } from '../lib/engine/process.ts'
import { selectEngine } from '../lib/engine/select.ts'
import { CommandError, exitCodes } from '../errors.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** The devices that draw, each with an engine process; at least one. */
    devices: readonly Device[]
    /** What the engine told of itself at the start of the server; the same for all devices but for their names. */
    engineInfo: EngineInfo
  }
}

/**
 * The engine processes. They are started before the server listens: their samplers are part of the schemas, and an
 * operator wants to know at once when one can't run.
 */
export default fp(async (app) => {
  const { engine: wanted, cancelGrace, engineTimeout } = app.config
  const names = deviceNames(app.config)
  const selected = await selectEngine({ engine: wanted })
  app.log.info({ engine: selected.engine }, `Engine: ${selected.reason}`)
  const devices: Device[] = names.map(name => ({
    name,
    engine: new EngineProcess(selected, {
      cancelGrace: cancelGrace * 1000,
      silenceTimeout: engineTimeout * 1000,
      logger: names.length === 1 ? app.log : app.log.child({ device: name })
    })
  }))
  app.addHook('onClose', async () => { await Promise.all(devices.map(async ({ engine }) => engine.stop())) })
  try {
    const [info] = await Promise.all(devices.map(async ({ name, engine }) => findDevice(name, await engine.start()))) as [EngineInfo]
    app.log.info({ version: info.version, device: info.device, capabilities: info.capabilities }, `The ${info.engine} engine is ready`)
    app.decorate('devices', devices)
    app.decorate('engineInfo', info)
  } catch (error) {
    if (error instanceof CommandError) throw error
    throw new CommandError(exitCodes.engine, `The ${selected.engine} engine does not start: ${(error as Error).message}`, { cause: error })
  }
}, { name: 'engine', dependencies: ['config'] })
