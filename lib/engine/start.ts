import { CommandError, exitCodes } from '../../errors.ts'
import type { Options } from '../options/options.ts'
import { deviceNames, findDevice } from './devices.ts'
import type { Device, EngineInfo } from './engine.ts'
import { withEngineUser } from './engine-user.ts'
import type { Logger } from '../util/logger.ts'
import { EngineProcess } from './process.ts'
import { selectEngine } from './select.ts'

interface StartingEngines {
  /** At least one. */
  devices: readonly Device[]
  /** The info of the first engine, once all have started. */
  ready: Promise<EngineInfo>
  stop: () => Promise<void>
}

/**
 * Starts the engine process of each device, and does not wait for it.
 * @throws {CommandError} (usage, engine) when the options name no usable engine; `ready` rejects with one as well.
 */
export async function startEngines (
  options: Options,
  logger: Logger & { child: (bindings: { device: string }) => Logger }
): Promise<StartingEngines> {
  const names = deviceNames(options)
  const selected = await selectEngine(options)
  logger.info({ engine: selected.engine }, `Engine: ${selected.reason}`)
  const command = await withEngineUser(selected, options)
  const devices = names.map(name => ({
    name,
    engine: new EngineProcess(command, {
      cancelGrace: options.cancelGrace * 1000,
      silenceTimeout: options.engineTimeout * 1000,
      logger: names.length === 1 ? logger : logger.child({ device: name })
    })
  }))
  const ready = Promise.all(devices.map(async ({ name, engine }) => findDevice(name, await engine.start()))).then(
    ([info]) => info!,
    error => {
      if (error instanceof CommandError) throw error
      throw new CommandError(exitCodes.engine,
        `The ${selected.engine} engine does not start: ${(error as Error).message}`, { cause: error })
    })
  ready.catch(() => {}) // the application may fail before it awaits this
  return { devices, ready, stop: async () => { await Promise.all(devices.map(async ({ engine }) => engine.stop())) } }
}
