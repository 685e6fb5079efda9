#!/usr/bin/env node
import yargs from 'yargs'
import { hideBin } from 'yargs/helpers'
import { CommandError, exitCodes } from '../errors.ts'
import { version } from '../lib/version.ts'
import { audit } from './commands/audit.ts'
import { demo } from './commands/demo.ts'
import { doctor } from './commands/doctor.ts'
import { generate } from './commands/generate.ts'
import { key } from './commands/key.ts'
import { models } from './commands/models.ts'
import { openapi } from './commands/openapi.ts'
import { serve } from './commands/serve.ts'
import { user } from './commands/user.ts'

const parser = yargs(hideBin(process.argv))
  .scriptName('stable-diffusion-rest')
  .parserConfiguration({
    'camel-case-expansion': false,
    'dot-notation': false,
    'parse-numbers': false,
    'parse-positional-numbers': false,
    'boolean-negation': true
  })
  .command(serve)
  .command(demo)
  .command(generate)
  .command(doctor)
  .command(user)
  .command(key)
  .command(audit)
  .command(models)
  .command(openapi)
  .epilogue('Every option can also be given as SDREST_<NAME> in the environment or as <name> in a --config file.')
  .version(version)
  .help()
  .wrap(process.stdout.isTTY ? process.stdout.columns : 120)
  .strictCommands()
  .recommendCommands()
  .fail((message, error) => {
    throw error ?? new CommandError(exitCodes.usage, `${message}${message.endsWith('?') ? '' : '.'} Try --help.`)
  })

try {
  await parser.parseAsync()
} catch (error) {
  if (error instanceof CommandError) {
    process.stderr.write(`stable-diffusion-rest: ${error.message}\n`)
    process.exitCode = error.exitCode
  } else {
    process.stderr.write(`stable-diffusion-rest: a defect of this program: ${(error as Error).stack}\n`)
    process.exitCode = exitCodes.internal
  }
}
