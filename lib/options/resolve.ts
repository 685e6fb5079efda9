import { homedir } from 'node:os'
import { isIP } from 'node:net'
import { delimiter, join } from 'node:path'
import { CommandError, exitCodes } from '../../errors.ts'
import { nearest } from '../util/nearest.ts'
import { quoted } from '../util/text.ts'
import {
  environmentName, optionNames, optionTable, type Definition, type OptionName, type Options
} from './options.ts'

interface OptionSources {
  /** From yargs, by option name. */
  commandLine?: Record<string, unknown>
  environment?: Record<string, string | undefined>
  /** The content of the configuration file, and its name for messages. */
  file?: { name: string, values: unknown }
}

export interface TracedOptions {
  options: Options
  origins: Map<OptionName, string>
}

/** Variables that belong to this program but are no options of the server. */
const environmentNotOptions = ['SDREST_CONFIG', 'SDREST_TOKEN', 'SDREST_SERVER']

/**
 * Merges the sources (command line, then environment, then file, then defaults) into one frozen object.
 * @throws {CommandError} (usage) naming the option, where it came from, what was expected and what was received.
 */
export function resolveOptions (sources: OptionSources): Options {
  return traceOptions(sources).options
}

/**
 * As `resolveOptions`.
 * @returns also where each value came from, in words (`--port`, `SDREST_PORT`, `port in server.yaml`); undefined is the
 *   default
 */
export function traceOptions ({ commandLine = {}, environment = {}, file }: OptionSources): TracedOptions {
  refuseUnknown(Object.keys(commandLine), optionNames, name => `--${name}`)
  refuseUnknown(
    Object.keys(environment).filter(name =>
      name.startsWith('SDREST_') && !environmentNotOptions.includes(name) && !name.startsWith('SDREST_TEST_')),
    optionNames.map(environmentName), name => `the environment variable ${name}`)
  const fileValues = checkFile(file)

  const origins: TracedOptions['origins'] = new Map()
  const options = Object.freeze(Object.fromEntries(optionNames.map(name => {
    const variable = environmentName(name)
    const definition: Definition = optionTable[name]
    const isList = definition.kind === 'list' || definition.kind === 'paths'
    const [value, source] =
      commandLine[name] !== undefined
        ? [commandLine[name], `--${name}`]
        : environment[variable] !== undefined && (isList || environment[variable] !== '')
          ? [environment[variable], variable]
          : fileValues[name] !== undefined
            ? [fileValues[name], `${name} in ${file?.name}`]
            : [undefined, '']
    if (value === undefined) return [camelCase(name), definition.default]
    origins.set(name, source)
    return [camelCase(name), Object.freeze(parse(definition, value, source))]
  }))) as Options
  return { options, origins }
}

export function camelCase (name: string): string {
  return name.replace(/-(.)/g, (_, letter: string) => letter.toUpperCase())
}

/**
 * @param inText gives a name as it is written where it was given, for example with `--`
 * @throws {CommandError} (usage) for the first of `given` that is not among `known`
 */
export function refuseUnknown (
  given: readonly string[], known: readonly string[], inText: (name: string) => string
): void {
  for (const name of given) {
    if (known.includes(name)) continue
    const guess = nearest(name, known)
    throw usage(`There is no option ${inText(name)}${guess === undefined ? '' : `; did you mean ${inText(guess)}?`}`)
  }
}

function checkFile (file: OptionSources['file']): Record<string, unknown> {
  if (file === undefined || file.values === null) return {}
  if (typeof file.values !== 'object' || Array.isArray(file.values)) {
    throw usage(`Expected an object with options in ${file.name} but received ${quoted(file.values, 120)}`)
  }
  refuseUnknown(Object.keys(file.values!), optionNames, name => `${name} in ${file.name}`)
  return file.values as Record<string, unknown>
}

function parse (definition: Definition, given: unknown, source: string): string | number | boolean | string[] {
  // Of a repeated option the last one counts, as with most programs, so that a script's options can be overruled.
  const isList = definition.kind === 'list' || definition.kind === 'paths'
  const value: unknown = Array.isArray(given) && !isList && source.startsWith('--') ? given.at(-1) : given
  const refuse = (expected: string): never => {
    throw usage(`Expected ${expected} for ${source} ` +
      `but received ${definition.secret === true ? 'something else' : quoted(value, 120)}`)
  }
  switch (definition.kind) {
    case 'boolean':
      if (value === true || value === 'true' || value === '1') return true
      if (value === false || value === 'false' || value === '0') return false
      return refuse('true or false')
    case 'integer': {
      const { minimum = 0, maximum = Number.MAX_SAFE_INTEGER } = definition
      const number = typeof value === 'string' && /^-?\d{1,15}$/.test(value) ? Number(value) : value
      if (!Number.isInteger(number) || (number as number) < minimum || (number as number) > maximum) {
        return refuse(`a whole number from ${minimum} to ${maximum}`)
      }
      return number as number
    }
    case 'string':
    case 'path':
    case 'host':
      if (value === '') return refuse('a value')
      return oneString(definition, value, refuse)
    case 'list':
    case 'paths': {
      const separator = definition.kind === 'paths' ? delimiter : ','
      const parts = (Array.isArray(value) ? value : [value]).flatMap(part =>
        // A folder may have a comma or a colon in its name, so folders are split in the environment only.
        typeof part === 'string' && (definition.kind === 'list' || source.startsWith('SDREST_'))
          ? part.split(separator)
          : [part])
      if (parts.length > 1000) return refuse('at most 1000 entries')
      return parts.map(part => oneString(definition, typeof part === 'string' ? part.trim() : part, refuse))
        .filter(part => part !== '')
    }
  }
}

function oneString (definition: Definition, value: unknown, refuse: (expected: string) => never): string {
  const { choices, maxLength = 4096 } = definition
  if (typeof value !== 'string' || value.length > maxLength || value.includes('\0')) {
    return refuse(`a text of at most ${maxLength} characters`)
  }
  if (choices !== undefined && value !== '' && !choices.includes(value)) return refuse(`one of ${choices.join(', ')}`)
  switch (definition.kind) {
    case 'path':
    case 'paths':
      return inHome(value) ?? refuse('a path without the home folder of another user (./~name for a file of that name)')
    case 'host':
      return hostIn(value) ?? refuse(`an address or a host name, without scheme and port (${likelyHost(value)})`)
    default: return value
  }
}

/** A path whose `~` no shell has seen: in a variable, after a `=` or in a file. @returns undefined for `~user`. */
export function inHome (path: string): string | undefined {
  if (!path.startsWith('~')) return path
  return path === '~' || path.startsWith('~/') ? join(homedir(), path.slice(1)) : undefined
}

/** An address or a name without scheme and port; an IPv6 address may have its brackets. */
export function hostIn (text: string): string | undefined {
  const address = text.replace(/^\[(.*)\]$/, '$1')
  if (isIP(address) === 6 || isIP(text) === 4) return address
  return /^[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?$/i.test(text) && !/^[\d.]+$/.test(text) ? text : undefined
}

/** The options that were probably meant by an address with more than a host. */
function likelyHost (text: string): string {
  const url = `http://${text.replace(/^[a-z]+:\/\//i, '')}`
  const { hostname, port } = URL.canParse(url) ? new URL(url) : { hostname: '', port: '' }
  const host = hostname === '' ? undefined : hostIn(hostname)
  return `for example --host ${host ?? '127.0.0.1'}${port === '' ? '' : ` --port ${port}`}`
}

function usage (message: string): CommandError {
  return new CommandError(exitCodes.usage, message)
}
