import { CommandError, exitCodes } from '../../errors.ts'
import { packageRoot } from '../util/package-root.ts'

type Sqlite = typeof import('@photostructure/sqlite')

// It comes with a binary for each platform. Where that is missing, a plain import would end every command with a stack.
const loaded: Sqlite | Error = await import('@photostructure/sqlite').catch((error: Error) => error)

/** @throws {CommandError} when SQLite cannot be loaded. */
export function sqlite (): Sqlite {
  if (!(loaded instanceof Error)) return loaded
  throw new CommandError(exitCodes.storage,
    'The package @photostructure/sqlite, which keeps accounts and jobs, is not installed for ' +
    `${process.platform}-${process.arch}. Type \`npm install\` in ${packageRoot}.`, { cause: loaded })
}
