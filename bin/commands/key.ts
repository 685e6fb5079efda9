import type { CommandModule } from 'yargs'
import { CommandError, exitCodes } from '../../errors.ts'
import { permissions, type Permission } from '../../lib/options/permissions.ts'
import { visibleRow } from '../../lib/util/text.ts'
import { accountCommand, findAccount } from '../support/account-command.ts'
import { say } from '../support/say.ts'

interface Arguments {
  user?: string
  name: string
  permissions?: string
  expires?: string
  id: string
}

/** `key create|list|revoke`: API keys, also while the server runs. */
export const key: CommandModule = {
  builder: yargs => yargs
    .command(accountCommand<Arguments & { user: string }>({
      command: 'create',
      describe: 'Make an API key and print it, alone, on standard output; it is not shown again',
      own: {
        user: { type: 'string', demandOption: true, describe: 'Whose key it is' },
        name: { type: 'string', default: 'key', describe: 'What it is for' },
        permissions: {
          type: 'string', describe: `What it may do, all of its owner when left out (${permissions.join(', ')})`
        },
        expires: { type: 'string', describe: 'When it stops working: 30d, 12h or a date; never when left out' }
      },
      work: async ({ store, keys, audit }, argv) => {
        const { id: userId, username } = await findAccount(store, argv.user)
        const created = await keys.create({
          userId, name: argv.name, permissions: readPermissions(argv.permissions), expiresAt: readExpiry(argv.expires)
        })
        await audit({
          event: 'key.create',
          subject: created.id,
          reason: `${argv.name}, for ${username}: ${created.permissions.join(' ')}`
        })
        say(created.key)
      }
    }))
    .command(accountCommand<Arguments>({
      command: 'list',
      describe: 'List the API keys',
      own: { user: { type: 'string', describe: 'Only the keys of this account' } },
      work: async ({ store }, argv) => {
        const owner = argv.user === undefined ? undefined : await findAccount(store, argv.user)
        for (const one of await store.keys.all(owner?.id)) {
          say(visibleRow([
            one.id,
            one.username,
            one.name,
            one.permissions.join(','),
            `expires ${one.expires_at ?? 'never'}`,
            `last used ${one.last_used_at ?? 'never'}`
          ]))
        }
      }
    }))
    .command(accountCommand<Arguments>({
      command: 'revoke <id>',
      describe: 'Revoke an API key; it stops working at once',
      work: async ({ store, audit }, argv) => {
        await store.keys.revoke(argv.id)
        await audit({ event: 'key.revoke', subject: argv.id })
        say(`Revoked ${argv.id}.`)
      }
    }))
    .demandCommand(1, 'Say what to do: key create, list or revoke'),
  handler: () => {}
}

function readPermissions (text: string | undefined): Permission[] | undefined {
  if (text === undefined) return undefined
  const words = text.split(',').map(word => word.trim())
  const named = permissions.filter(permission => words.includes(permission))
  if (named.length === words.length) return named
  throw usage(`Expected some of ${permissions.join(', ')}, each once, for --permissions ` +
    `but received ${JSON.stringify(text)}`)
}

const units: Record<string, number> = { h: 3_600_000, d: 86_400_000 }

function readExpiry (text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const [, count, unit] = /^(\d{1,5})([hd])$/.exec(text) ?? []
  const time = unit === undefined ? Date.parse(text) : Date.now() + Number(count) * units[unit]!
  if (!(time > Date.now())) {
    throw usage('Expected hours (12h), days (30d) or a date in the future for --expires ' +
      `but received ${JSON.stringify(text)}`)
  }
  return time
}

function usage (message: string): CommandError {
  return new CommandError(exitCodes.usage, message)
}
