import type { CommandModule } from 'yargs'
import { CommandError, exitCodes } from '../../errors.ts'
import { ApiKeyStore } from '../../lib/accounts/api-keys.ts'
import { AuditLog, printable, type AuditEntry } from '../../lib/accounts/audit.ts'
import { openAuthDatabase } from '../../lib/accounts/auth-database.ts'
import { closeDatabase } from '../../lib/storage/database.ts'
import { settled } from '../../lib/storage/database-changes.ts'
import { dataFolders } from '../../lib/options/folders.ts'
import { actAsOwnerOf } from '../../lib/storage/ownership.ts'
import { PasswordHasher } from '../../lib/accounts/passwords.ts'
import { storageError } from '../../lib/storage/storage-errors.ts'
import { UserStore, type User } from '../../lib/accounts/users.ts'
import { accountOptions, optionsOf, withOptions, type OwnArguments } from './command-options.ts'

/** The stores that a command works on, while the server may have them open too. */
interface Accounts {
  users: UserStore
  keys: ApiKeyStore
  log: AuditLog
  /** Records what the command did; its actor is the person at the command line. */
  audit: (entry: Pick<AuditEntry, 'event' | 'subject' | 'reason'>) => void
}

/** Without a usage for a command that has no others below it. */
interface AccountCommand<Arguments> extends OwnArguments {
  describe?: string
  work: (accounts: Accounts, argv: Arguments) => void | Promise<void>
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
      const database = openAuthDatabase(auth)
      const log = new AuditLog(database, (_kind, error, lost) => {
        if (lost > 0) {
          process.stderr.write('stable-diffusion-rest: The audit log misses what this command did: ' +
            `${(error as Error).message}\n`)
        }
      })
      const audit: Accounts['audit'] = entry =>
        log.record(printable({ ...entry, outcome: 'success', actor: '(command line)' }))
      try {
        await work({
          users: new UserStore(database, new PasswordHasher()),
          keys: new ApiKeyStore(database),
          log,
          audit
        }, argv as Arguments)
        await settled() // when the command has ended, a server beside it acts on what was changed
      } catch (error) {
        // A refusal is the answer to what was asked, not a defect.
        if ('statusCode' in (error as object)) throw new CommandError(exitCodes.failure, (error as Error).message)
        if (storageError(error) === undefined) throw error
        throw new CommandError(exitCodes.storage,
          `The accounts cannot be read or changed: ${(error as Error).message}`, { cause: error })
      } finally {
        log.close()
        closeDatabase(database)
      }
    }
  }
}

/** @throws {CommandError} when there is no account of that name, local or of the system */
export function findUser (users: UserStore, name: string): User {
  const found = users.find(name) ?? users.find(name, 'unix') ?? users.find(name, 'pam')
  if (found === undefined) {
    throw new CommandError(exitCodes.failure, `There is no user ${JSON.stringify(name)}; "user list" shows all.`)
  }
  return found
}
