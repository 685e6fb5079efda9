import type { Arguments, Argv } from 'yargs'
import { CommandError, exitCodes } from '../../errors.ts'
import { refuseUnknown } from '../../lib/options/resolve.ts'
import { nearest } from '../../lib/util/nearest.ts'

/** Parts of yargs 18 that its types leave out. */
interface Internals {
  getOptions: () => { key: Record<string, unknown>, alias: Record<string, string[]> }
  getInternalMethods: () => {
    getContext: () => { commands: string[], fullCommands: string[] }
    getCommandInstance: () => { getCommands: () => string[] }
  }
}

const promptHint = 'Put the prompt in quotes: stable-diffusion-rest generate "a red fox"'

/**
 * Refuses a first word that is no command: without a command `serve` runs, which would take the word as its argument.
 * @throws {CommandError} (usage)
 */
export function refuseUnknownCommand ({ _: [word] }: Arguments, known: string[]): void {
  if (word !== undefined && !known.includes(String(word))) throw noCommand(String(word), known)
}

function noCommand (word: string, known: string[], path = ''): CommandError {
  const guess = nearest(word, known)
  return new CommandError(exitCodes.usage, `There is no command ${JSON.stringify(path + word)}; ` +
    (guess === undefined ? `there are ${known.join(', ')}` : `did you mean "${path}${guess}"?`))
}

/**
 * Refuses options that the command does not have. yargs can do so itself, but names no similar one.
 * @throws {CommandError} (usage)
 */
export function refuseUnknownOptions (argv: Arguments, yargs: Argv): void {
  const { key, alias } = (yargs as unknown as Internals).getOptions()
  refuseUnknown(
    Object.keys(argv).filter(name => name !== '_' && name !== '$0'),
    [...Object.keys(key), ...Object.keys(alias), ...Object.values(alias).flat()],
    name => name.length === 1 ? `-${name}` : `--${name}`)
}

/**
 * What yargs refused, in words that say what to type.
 * @param message of yargs, in English.
 */
export function usageError (message: string, yargs: Argv): CommandError {
  const internals = (yargs as unknown as Internals).getInternalMethods()
  const { commands, fullCommands } = internals.getContext()
  const path = commands.join(' ')
  // `user <action>` stands for its actions, so only the last one shows its arguments.
  const usage = ['stable-diffusion-rest', ...commands.slice(0, -1), fullCommands.at(-1)].join(' ')
  const lines: Array<[RegExp, (...parts: string[]) => string]> = [
    [/^Not enough arguments following: (.+)$/, name =>
      `Expected a value after --${name} but received none (a variable that is not set?)`],
    [/^Not enough non-option arguments/, () => path === 'generate' ? promptHint : `Expected ${usage}`],
    [/^Unknown commands?: ([^,]+)/, word => {
      if (path === 'generate') return promptHint
      const actions = internals.getCommandInstance().getCommands()
      if (actions.length === 0) return `${JSON.stringify(word)} is one word too many. Expected ${usage}`
      throw noCommand(word, actions, `${path} `)
    }],
    [/^Missing required arguments?: (.+)$/, names =>
      `Expected ${names.split(', ').map(name => `--${name}`).join(', ')}`],
    [/^Invalid values:\s+Argument: (.+), Given: (.+), Choices: (.+)/, (name, given, choices) =>
      `Expected one of ${choices.replaceAll('"', '')} for ${usage.includes(`<${name}>`) ? name : `--${name}`} ` +
        `but received ${given}`],
    [/^Arguments (\S+) and (\S+) are mutually exclusive/, (one, other) => `Expected --${one} or --${other}, not both`]
  ]
  for (const [pattern, words] of lines) {
    const found = pattern.exec(message)
    if (found !== null) message = words(...found.slice(1))
  }
  return new CommandError(exitCodes.usage, `${message}${/[?.]$/.test(message) ? '' : '.'} Try --help.`)
}
