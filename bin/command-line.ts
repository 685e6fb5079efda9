import yargs, { type Arguments, type Argv, type CommandModule, type MiddlewareFunction } from 'yargs'
import { hideBin } from 'yargs/helpers'
import { CommandError, exitCodes } from '../errors.ts'
import { version } from '../lib/util/version.ts'
import { visible } from '../lib/util/text.ts'
import { refuseUnknownCommand, refuseUnknownOptions, usageError } from './support/usage-errors.ts'

/** The file of a command, loaded when its help or its work is asked for: no command waits for the code of another. */
type Load = () => Promise<CommandModule<object, any>>

const commands: ReadonlyArray<[command: string | string[], describe: string, load: Load]> = [
  [
    ['serve', '$0'],
    'Start the server (this is what happens without a command)',
    async () => (await import('./commands/serve.ts')).serve
  ],
  [
    'demo',
    'Make a tiny model, serve it, log in and draw, as a user would',
    async () => (await import('./commands/demo.ts')).demo
  ],
  ['generate <prompt>', 'Draw on a running server', async () => (await import('./commands/generate.ts')).generate],
  [
    'doctor',
    'Check whether the server could run with these options',
    async () => (await import('./commands/doctor.ts')).doctor
  ],
  [
    'health',
    'Ask the running server of these options whether it is up; exit code 0 or 1',
    async () => (await import('./commands/health.ts')).health
  ],
  ['user', 'Manage local accounts', async () => (await import('./commands/user.ts')).user],
  ['key', 'Manage API keys', async () => (await import('./commands/key.ts')).key],
  [
    'audit',
    'Show logins, refusals, and changes of accounts and keys',
    async () => (await import('./commands/audit.ts')).audit
  ],
  ['models', 'List, fetch and look after models', async () => (await import('./commands/models.ts')).models],
  [
    'openapi',
    'Print the OpenAPI document without starting a server',
    async () => (await import('./commands/openapi.ts')).openapi
  ]
]

/** Runs the command that the arguments name and sets the exit code of the process. */
export async function runCommandLine (): Promise<void> {
  const words = hideBin(process.argv)
  const asksForAll = words.findIndex((word, index) => word === '--help' && words[index + 1] === 'all')
  if (asksForAll >= 0) words[asksForAll + 1] = '--show-hidden'
  const parser = yargs(words)
    .scriptName('stable-diffusion-rest')
    .parserConfiguration({
      'camel-case-expansion': false,
      'dot-notation': false,
      'parse-numbers': false,
      'parse-positional-numbers': false,
      'boolean-negation': true
    })
    .epilogue('Every option can also be given as SDREST_<NAME> in the environment or as <name> in a --config file.')
    .version(version)
    .help()
    .describe('help', 'Show help; --help all shows every option')
    .showHidden('show-hidden')
    .hide('show-hidden')
    .completion('completion', 'Print a script that completes commands and options in bash or zsh')
    .wrap(process.stdout.isTTY ? process.stdout.columns : 120)
    .detectLocale(false)
    .strictCommands()
    .middleware(((argv: Arguments, yargs: Argv) => {
      refuseUnknownCommand(argv, commands.map(([names]) => [names].flat()[0]!.split(' ', 1)[0]!))
      refuseUnknownOptions(argv, yargs)
    }) as unknown as MiddlewareFunction)
    .fail((message, error) => {
      throw (error as unknown) instanceof Error ? error : usageError(message, parser)
    })
  for (const [command, describe, load] of commands) {
    const builder = async () => (await load()).builder as (yargs: Argv) => Argv
    parser.command(
      command, describe,
      words.includes('--get-yargs-completions') ? await builder() : async (yargs: Argv) => (await builder())(yargs),
      async argv => await (await load()).handler(argv))
  }
  try {
    await parser.parseAsync()
  } catch (thrown) {
    const error = (thrown as Error).name === 'YError' ? usageError((thrown as Error).message, parser) : thrown
    if (error instanceof CommandError) {
      process.stderr.write(`stable-diffusion-rest: ${visible(error.message)}\n`)
      process.exitCode = error.exitCode
    } else {
      process.stderr.write('stable-diffusion-rest: a defect of this program: ' +
        `${visible((error as Error).stack ?? '')}\n`)
      process.exitCode = exitCodes.internal
    }
  }
}
