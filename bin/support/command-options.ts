import type { Argv, Options as YargsOption, PositionalOptions } from 'yargs'
import { CommandError, exitCodes } from '../../errors.ts'
import { loadOptions } from './configuration.ts'
import { optionNames, optionTable, type OptionName, type Options } from '../../lib/options/options.ts'
import { inHome, type TracedOptions } from '../../lib/options/resolve.ts'

/** What a first reader of `--help` needs; `--help all` shows the rest, too. */
const first: readonly OptionName[] = [
  'models-dir', 'host', 'port', 'auth', 'public-paths', 'engine', 'device', 'data-dir'
]

/**
 * Values are checked by lib/options/options.ts, the same for every source. To yargs they have no type: it would show
 * every one as a string.
 */
function toYargs (name: OptionName, hidden: boolean): YargsOption {
  const definition = optionTable[name]
  const { kind, group, describe } = definition
  return {
    group: `${group}:`,
    hidden,
    describe: 'choices' in definition ? `${describe} (${definition.choices.join(', ')})` : describe,
    ...(kind === 'boolean' ? { type: 'boolean' } : { requiresArg: true }),
    ...('default' in definition && !Array.isArray(definition.default) && kind !== 'boolean'
      ? { defaultDescription: String(definition.default) }
      : {})
  }
}

/** What a command takes beside options of the server. */
export interface OwnArguments {
  /** Its usage; a name in angle brackets is a positional argument. */
  command?: string
  own?: Readonly<Record<string, YargsOption>>
}

/** Adds the arguments of a command, `names` of the option table, and `--config`. */
export function withOptions<T> (
  yargs: Argv<T>, names: readonly OptionName[] = optionNames, { command = '', own = {} }: OwnArguments = {}
): Argv<T> {
  for (const [name, definition] of Object.entries(own)) {
    if (command.includes(`<${name}>`)) yargs.positional(name, definition as PositionalOptions)
    else yargs.option(name, { requiresArg: definition.type === 'string', ...definition })
  }
  for (const name of names) yargs.option(name, toYargs(name, names === optionNames && !first.includes(name)))
  return yargs.option('config', {
    group: 'Output:',
    requiresArg: true,
    describe: 'Configuration file (YAML or JSON) with the same names'
  })
}

/** What the commands that touch accounts need to find them. */
export const accountOptions = ['data-dir', 'auth-data-dir'] as const satisfies OptionName[]

/** The options of the server on a parsed command line; what else is there is the command's own. */
export function optionsOf (argv: Record<string, unknown>): Options {
  return tracedOptionsOf(argv).options
}

/** As `optionsOf`, with where each value came from. */
export function tracedOptionsOf (argv: Record<string, unknown>): TracedOptions {
  return loadOptions(
    Object.fromEntries(Object.entries(argv).filter(([name]) => name in optionTable)),
    argv.config as string | undefined)
}

/**
 * The file that an argument of a command names, with `~` as in the options of the server.
 * @throws {CommandError} (usage) for `~user`
 */
export function fileArgument (name: string, given: string): string {
  const file = inHome(given)
  if (file !== undefined) return file
  throw new CommandError(exitCodes.usage,
    'Expected a path without the home folder of another user (./~name for a file of that name) ' +
    `for --${name} but received ${JSON.stringify(given)}`)
}
