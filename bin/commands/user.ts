import { createInterface } from 'node:readline/promises'
import { Writable } from 'node:stream'
import { text } from 'node:stream/consumers'
import type { Argv, CommandModule } from 'yargs'
import { CommandError, exitCodes } from '../../errors.ts'
import { openAuthDatabase } from '../../lib/auth-database.ts'
import { dataFolders } from '../../lib/folders.ts'
import { PasswordHasher } from '../../lib/passwords.ts'
import { accountRoles, type AccountRole } from '../../lib/principals.ts'
import { UserStore, type User } from '../../lib/users.ts'
import { accountOptions, optionsOf, withOptions } from '../command-options.ts'

interface Arguments {
  name: string
  role: AccountRole
  'password-stdin': boolean
}

const own = ['name', 'role', 'password-stdin', 'admin']

const roleOption = { choices: accountRoles, describe: 'What the account may do' } as const
const passwordOption = { type: 'boolean', default: false, describe: 'Read the password from standard input instead of asking' } as const

/** `user add|list|passwd|role|disable|enable|remove`: accounts, also while the server runs. */
export const user: CommandModule = {
  command: 'user <action>',
  describe: 'Manage local accounts',
  builder: yargs => withOptions(yargs, [...accountOptions])
    .command(action('add <name>', 'Make an account', withPassword(yargs => yargs.option('role', { ...roleOption, default: 'user' })),
      async (users, argv) => {
        const password = await readPassword(argv['password-stdin'], `Password for ${argv.name}: `)
        const { username, role } = await users.create({ username: argv.name, password, role: argv.role })
        say(`Made ${role} ${username}.`)
      }))
    .command(action('list', 'List the accounts', yargs => yargs, async users => {
      for (const one of users.list()) say(line(one))
    }))
    .command(action('passwd <name>', 'Set a new password; ends the sessions of the account', withPassword(yargs => yargs), async (users, argv) => {
      const { id } = find(users, argv.name)
      await users.setPassword(id, await readPassword(argv['password-stdin'], `New password for ${argv.name}: `))
      say(`Changed the password of ${argv.name}.`)
    }))
    .command(action('role <name> <role>', 'Make an account admin or user', yargs => yargs.positional('role', roleOption), async (users, argv) => {
      say(line(users.setRole(find(users, argv.name).id, argv.role)))
    }))
    .command(action('disable <name>', 'Lock an account out at once', yargs => yargs, async (users, argv) => {
      say(line(users.setDisabled(find(users, argv.name).id, true)))
    }))
    .command(action('enable <name>', 'Let a disabled account in again', yargs => yargs, async (users, argv) => {
      say(line(users.setDisabled(find(users, argv.name).id, false)))
    }))
    .command(action('remove <name>', 'Remove an account with its sessions and keys', yargs => yargs, async (users, argv) => {
      users.remove(find(users, argv.name).id)
      say(`Removed ${argv.name}.`)
    })),
  handler: () => {}
}

function action (
  command: string, describe: string, builder: (yargs: Argv) => Argv, work: (users: UserStore, argv: Arguments) => Promise<void>
): CommandModule {
  return {
    command,
    describe,
    builder: yargs => withOptions(builder(yargs), [...accountOptions]),
    handler: async argv => {
      const database = openAuthDatabase(dataFolders(optionsOf(argv, own)).auth)
      try {
        await work(new UserStore(database, new PasswordHasher()), argv as unknown as Arguments)
      } catch (error) {
        // A refusal is the answer to what was asked, not a defect.
        throw 'statusCode' in (error as object) ? new CommandError(exitCodes.failure, (error as Error).message) : error
      } finally {
        database.close()
      }
    }
  }
}

function withPassword (builder: (yargs: Argv) => Argv): (yargs: Argv) => Argv {
  return yargs => builder(yargs).option('password-stdin', passwordOption)
}

function find (users: UserStore, name: string): User {
  const found = users.find(name) ?? users.find(name, 'unix') ?? users.find(name, 'pam')
  if (found === undefined) throw new CommandError(exitCodes.failure, `There is no user ${name}; "user list" shows all.`)
  return found
}

function line ({ username, role, source, disabled, last_login_at: lastLogin }: User): string {
  return `${username}\t${role}\t${source}${disabled ? '\tdisabled' : ''}\t${lastLogin === null ? 'never logged in' : `last login ${lastLogin}`}`
}

async function readPassword (fromStdin: boolean, prompt: string): Promise<string> {
  if (fromStdin) return (await text(process.stdin)).replace(/\r?\n$/, '')
  if (!process.stdin.isTTY) {
    throw new CommandError(exitCodes.usage, 'There is no terminal to ask for the password; pipe it in with --password-stdin')
  }
  process.stderr.write(prompt)
  // readline echoes what is typed into its output, so it gets one that drops everything.
  const silent = new Writable({ write: (_chunk, _encoding, done) => done() })
  const terminal = createInterface({ input: process.stdin, output: silent, terminal: true })
  try {
    return await terminal.question('')
  } finally {
    terminal.close()
    process.stderr.write('\n')
  }
}

function say (message: string): void {
  process.stdout.write(`${message}\n`)
}
