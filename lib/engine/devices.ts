import { CommandError, exitCodes } from '../../errors.ts'
import type { Options } from '../options/options.ts'
import { isProcessor, type EngineInfo } from './engine.ts'

/** One engine process each. */
const mostDevices = 16

/**
 * The names of the devices that draw.
 * @throws {CommandError} (usage) when --device and --devices are given, a device twice, or too many.
 */
export function deviceNames ({ device, devices }: Pick<Options, 'device' | 'devices'>): readonly string[] {
  if (devices.length === 0) return [device]
  if (device !== 'auto') throw new CommandError(exitCodes.usage, 'Expected --device or --devices but received both')
  const names = devices.map(name => name.toLowerCase())
  const twice = names.find((name, index) => names.indexOf(name) < index)
  if (twice !== undefined) {
    throw new CommandError(exitCodes.usage, `Expected different names for --devices but received ${twice} twice`)
  }
  if (names.length > mostDevices) {
    throw new CommandError(exitCodes.usage,
      `Expected at most ${mostDevices} names for --devices but received ${names.length}`)
  }
  return devices
}

/**
 * Checks that an engine has the device, and returns `info`.
 * @throws {CommandError} (usage) when it lists its devices without this one.
 */
export function findDevice (name: string, info: EngineInfo): EngineInfo {
  if (info.devices === undefined) return info
  const names = info.devices.map(({ name }) => name).filter(name => name.toLowerCase() !== 'cpu')
  const hasGraphics = names.some(name => !isProcessor(name))
  const known = ['auto', 'cpu', ...hasGraphics ? ['gpu'] : [], ...names]
  if (known.some(device => device.toLowerCase() === name.toLowerCase())) return info
  const advice = info.engine === 'native'
    ? 'its driver, and a stable-diffusion.cpp that is built for it'
    : 'its driver and the Vulkan loader (Debian, Ubuntu: apt install libvulkan1 mesa-vulkan-drivers)'
  throw new CommandError(exitCodes.usage,
    `The ${info.engine} engine has no device ${JSON.stringify(name)}; expected one of ${known.join(', ')}` +
    (hasGraphics ? '' : `. A graphics card needs ${advice}; docs/engines.md says more`))
}
