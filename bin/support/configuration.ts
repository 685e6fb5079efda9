import { readFileSync, statSync } from 'node:fs'
import { CommandError, exitCodes } from '../../errors.ts'
import { optionNames, optionTable } from '../../lib/options/options.ts'
import { camelCase, inHome, traceOptions, type TracedOptions } from '../../lib/options/resolve.ts'
import { systemReason } from '../../lib/util/text.ts'
import { yaml } from '../../lib/util/yaml.ts'

/** Bytes of a configuration file; a real one has hundreds. */
const maximumSize = 1024 * 1024

/**
 * Reads the configuration file, if one is named on the command line or by SDREST_CONFIG, and merges all sources.
 * @throws {CommandError} (usage)
 */
export function loadOptions (commandLine: Record<string, unknown>, configFile?: string): TracedOptions {
  // As any other variable, an empty one counts as none.
  const name = configFile ?? (process.env.SDREST_CONFIG === '' ? undefined : process.env.SDREST_CONFIG)
  return traceOptions({
    commandLine,
    environment: process.env,
    file: name === undefined ? undefined : { name, values: readConfigFile(name) }
  })
}

function readConfigFile (name: string): unknown {
  const file = inHome(name)
  try {
    if (file === undefined) throw new Error('the home folder of another user is not looked up')
    if (statSync(file).size > maximumSize) throw new Error(`it is larger than ${maximumSize} bytes`)
    // JSON is YAML, so one parser reads both.
    return yaml().parse(readFileSync(file, 'utf8'), { maxAliasCount: 0 })
  } catch (error) {
    // What the parser says ends with line and column; a picture of the place follows, and could show a secret.
    const [problem = ''] = systemReason(error).split('\n')
    throw new CommandError(exitCodes.usage,
      `The configuration file ${name} cannot be read: ${problem.replace(/:$/, '')}`)
  }
}

/**
 * The options in force as a configuration file, each with where its value came from. What has no value and what must
 * not be shown is a comment, so the file can be used as it is.
 */
export function describeOptions ({ options, origins }: TracedOptions): string {
  const values = options as Readonly<Record<string, unknown>>
  return optionNames.map(name => {
    const value = values[camelCase(name)]
    const origin = origins.get(name) ?? 'default'
    if (value === undefined) return `# ${name}:\n`
    if ('secret' in optionTable[name]) return `# ${name}: (not shown) # ${origin}\n`
    const text = yaml().stringify({ [name]: value }, { lineWidth: 0, collectionStyle: 'flow' })
    return `${text.replace(/^\{ (.*) \}\n$/s, '$1')} # ${origin}\n`
  }).join('')
}
