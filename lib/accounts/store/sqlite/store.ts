import { closeDatabase, yieldWhenBusy } from '../../../storage/database.ts'
import { DatabaseChanges, settled } from '../../../storage/database-changes.ts'
import { LastUse, type OnRecordError } from '../../../storage/records.ts'
import { accountSources, type AccountSource } from '../../principals.ts'
import { MemoryFailures } from '../memory-failures.ts'
import type { AccountStore } from '../store.ts'
import { SqliteAccounts } from './accounts.ts'
import { SqliteAudit } from './audit.ts'
import { openAuthDatabase } from './database.ts'
import { SqliteKeys } from './keys.ts'
import { SqliteSessions } from './sessions.ts'

interface StoreOptions {
  /** Sources whose administrators can come in; the last of them stays. */
  sources?: readonly AccountSource[]
  /** Milliseconds that a session lives on after its last refresh, and after its login at the longest. */
  lifetime?: number
  longest?: number
  onRecordError?: OnRecordError
  /** A server remembers sessions and keys, and goes on with other work while another process holds the lock. */
  isServer?: boolean
}

/** Opens `auth.db` in `folder`. @throws {CommandError} as `openAuthDatabase` */
export function openSqliteStore (
  folder: string,
  { sources = accountSources, lifetime = 0, longest, onRecordError, isServer = false }: StoreOptions = {}
): AccountStore {
  const database = openAuthDatabase(folder)
  const observer = isServer ? openAuthDatabase(folder) : undefined
  if (isServer) yieldWhenBusy(database)
  if (observer !== undefined) yieldWhenBusy(observer)
  const changes = observer && new DatabaseChanges(database, { tables: ['users', 'sessions', 'api_keys'], observer })
  return {
    accounts: new SqliteAccounts(database, sources),
    sessions: new SqliteSessions(database, { lifetime, longest, changes }),
    keys: new SqliteKeys(database, new LastUse(onRecordError), changes),
    audit: new SqliteAudit(database),
    loginFailures: new MemoryFailures(),
    async close () {
      if (!isServer) await settled()
      observer?.close()
      closeDatabase(database)
    }
  }
}
