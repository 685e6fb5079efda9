import { readFileSync, statSync } from 'node:fs'
import { parse as parseYaml } from 'yaml'
import { CommandError, exitCodes } from '../errors.ts'
import { resolveOptions, type Options } from './options.ts'

/** Bytes of a configuration file; a real one has hundreds. */
const maximumSize = 1024 * 1024

/**
 * Reads the configuration file, if one is named on the command line or by SDREST_CONFIG, and merges all sources.
 * @throws {CommandError} (usage)
 */
export function loadOptions (commandLine: Record<string, unknown>, configFile = process.env.SDREST_CONFIG): Options {
  return resolveOptions({
    commandLine,
    environment: process.env,
    file: configFile === undefined ? undefined : { name: configFile, values: readConfigFile(configFile) }
  })
}

function readConfigFile (file: string): unknown {
  try {
    if (statSync(file).size > maximumSize) throw new Error(`it is larger than ${maximumSize} bytes`)
    // JSON is YAML, so one parser reads both.
    return parseYaml(readFileSync(file, 'utf8'), { maxAliasCount: 0 })
  } catch (error) {
    throw new CommandError(exitCodes.usage, `The configuration file ${file} cannot be read: ${(error as Error).message}`)
  }
}
