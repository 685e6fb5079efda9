import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { CommandModule } from 'yargs'
import { CommandError, exitCodes } from '../../errors.ts'
import { Accounts } from '../../lib/accounts/accounts.ts'
import { ApiKeys } from '../../lib/accounts/api-keys.ts'
import { AuditLog, printable } from '../../lib/accounts/audit.ts'
import { dataFolders } from '../../lib/options/folders.ts'
import { actAsOwnerOf } from '../../lib/storage/ownership.ts'
import { PasswordHasher } from '../../lib/accounts/passwords.ts'
import { openSqliteStore } from '../../lib/accounts/store/sqlite/store.ts'
import type { Account, AccountStore, AuditEntry } from '../../lib/accounts/store/store.ts'
import { storageError } from '../../lib/storage/storage-errors.ts'
import { accountOptions, optionsOf, withOptions, type OwnArguments } from './command-options.ts'

/** What a command works on, while the server may have it open too. */
interface Parts {
  store: AccountStore
  accounts: Accounts
  keys: ApiKeys
  log: AuditLog
  /** Records what the command did; its actor is the person at the command line. */
  audit: (entry: Pick<AuditEntry, 'event' | 'subject' | 'reason'>) => Promise<void>
}

/** Without a usage for a command that has no others below it. */
interface AccountCommand<Arguments> extends OwnArguments {
  describe?: string
  work: (parts: Parts, argv: Arguments) => Promise<void>
}

/** A command that opens the account database of --auth-data-dir, works on it and closes it. */
export function accountCommand<Arguments> (
  { command, describe, own, work }: AccountCommand<Arguments>
): CommandModule {
  return {
    command,
    describe,
    builder: yargs => withOptions(yargs, accountOptions, { command, own }),
    handler: async argv => {
      const { auth } = dataFolders(optionsOf(argv))
      actAsOwnerOf(auth)
      const isNew = !existsSync(join(auth, 'auth.db'))
      const store = openSqliteStore(auth)
      const log = new AuditLog(store.audit, (_kind, error, lost) => {
        if (lost > 0) {
          process.stderr.write('stable-diffusion-rest: The audit log misses what this command did: ' +
            `${(error as Error).message}\n`)
        }
      })
      const audit: Parts['audit'] = entry =>
        log.record(printable({ ...entry, outcome: 'success', actor: '(command line)' }))
      try {
        await work({
          store,
          accounts: new Accounts(store.accounts, new PasswordHasher()),
          keys: new ApiKeys(store.keys),
          log,
          audit
        }, argv as Arguments)
        if (isNew) {
          process.stderr.write(`This is a new database of accounts, in ${auth}. A server with another --data-dir ` +
            'does not see it; for the service, add --data-dir /var/lib/stable-diffusion-rest.\n')
        }
      } catch (error) {
        // An API error answers the command and is not a defect.
        if ('statusCode' in (error as object)) throw new CommandError(exitCodes.failure, (error as Error).message)
        if (storageError(error) === undefined) throw error
        throw new CommandError(exitCodes.storage,
          `The accounts cannot be read or changed: ${(error as Error).message}`, { cause: error })
      } finally {
        await log.close()
        await store.close()
      }
    }
  }
}

/** @throws {CommandError} when there is no account of that name, local or of the system */
export async function findAccount ({ accounts }: AccountStore, name: string): Promise<Account> {
  const found = await accounts.find(name) ?? await accounts.find(name, 'unix') ?? await accounts.find(name, 'pam')
  if (found === undefined) {
    throw new CommandError(exitCodes.failure, `There is no user ${JSON.stringify(name)}; "user list" shows all.`)
  }
  return found
}
