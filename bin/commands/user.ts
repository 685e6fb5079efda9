import { createInterface } from 'node:readline/promises'
import { Writable } from 'node:stream'
import { text } from 'node:stream/consumers'
import type { CommandModule } from 'yargs'
import { CommandError, exitCodes } from '../../errors.ts'
import { accountRoles, type AccountRole } from '../../lib/options/permissions.ts'
import type { Account } from '../../lib/accounts/store/store.ts'
import { visibleRow } from '../../lib/util/text.ts'
import { accountCommand, findAccount } from '../support/account-command.ts'
import { say } from '../support/say.ts'

interface Arguments {
  name: string
  role: AccountRole
  'password-stdin': boolean
}

const role = { choices: accountRoles, describe: 'What the account may do' } as const
const password = {
  'password-stdin': {
    type: 'boolean', default: false, describe: 'Read the password from standard input instead of asking'
  }
} as const

/** `user add|list|passwd|role|disable|enable|remove`: accounts, also while the server runs. */
export const user: CommandModule = {
  builder: yargs => yargs
    .command(accountCommand<Arguments>({
      command: 'add <name>',
      describe: 'Make an account',
      own: { ...password, role: { ...role, default: 'user' } },
      work: async ({ accounts, audit }, argv) => {
        const password = await readPassword(argv, `Password for ${argv.name}: `)
        const { username, role } = await accounts.create({ username: argv.name, password, role: argv.role })
        await audit({ event: 'user.create', subject: username, reason: `role ${role}` })
        say(`Made ${role} ${username}.`)
      }
    }))
    .command(accountCommand({
      command: 'list',
      describe: 'List the accounts',
      work: async ({ store }) => (await store.accounts.all()).forEach(one => say(line(one)))
    }))
    .command(accountCommand<Arguments>({
      command: 'passwd <name>',
      describe: 'Set a new password; ends the sessions of the account',
      own: password,
      work: async ({ store, accounts, audit }, argv) => {
        const { id, username } = await findAccount(store, argv.name)
        await accounts.update(id, { password: await readPassword(argv, `New password for ${username}: `) })
        await audit({ event: 'user.password', subject: username })
        say(`Changed the password of ${username}.`)
      }
    }))
    .command(accountCommand<Arguments>({
      command: 'role <name> <role>',
      describe: 'Make an account admin or user',
      own: { role },
      work: async ({ store, accounts, audit }, argv) => {
        const changed = await accounts.update((await findAccount(store, argv.name)).id, { role: argv.role })
        await audit({ event: 'user.update', subject: changed.username, reason: `role ${changed.role}` })
        say(line(changed))
      }
    }))
    .command(switchCommand('disable', 'Lock an account out at once', true))
    .command(switchCommand('enable', 'Let a disabled account in again', false))
    .command(accountCommand<Arguments>({
      command: 'remove <name>',
      describe: 'Remove an account with its sessions and keys',
      work: async ({ store, audit }, argv) => {
        const { id, username } = await findAccount(store, argv.name)
        await store.accounts.remove(id)
        await audit({ event: 'user.remove', subject: username })
        say(`Removed ${username}.`)
      }
    }))
    .demandCommand(1, 'Say what to do: user add, list, passwd, role, disable, enable or remove'),
  handler: () => {}
}

function switchCommand (verb: string, describe: string, disabled: boolean): CommandModule {
  return accountCommand<Arguments>({
    command: `${verb} <name>`,
    describe,
    work: async ({ store, accounts, audit }, argv) => {
      const changed = await accounts.update((await findAccount(store, argv.name)).id, { disabled })
      await audit({ event: 'user.update', subject: changed.username, reason: verb })
      say(line(changed))
    }
  })
}

function line ({ username, role, source, disabled, last_login_at: lastLogin }: Account): string {
  return visibleRow([
    username,
    role,
    source === 'local' ? source : `${source} (external)`,
    disabled ? 'disabled' : 'enabled',
    lastLogin === null ? 'never logged in' : `last login ${lastLogin}`
  ])
}

async function readPassword ({ 'password-stdin': fromStdin }: Arguments, prompt: string): Promise<string> {
  if (fromStdin) return (await text(process.stdin)).replace(/\r?\n$/, '')
  if (!process.stdin.isTTY) {
    throw new CommandError(exitCodes.usage,
      'There is no terminal to ask for the password; pipe it in with --password-stdin')
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
