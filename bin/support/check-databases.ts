import { join } from 'node:path'
import { authMigrations } from '../../lib/accounts/store/sqlite/database.ts'
import { checkDatabase } from '../../lib/storage/database.ts'
import type { DataFolders } from '../../lib/options/folders.ts'
import { migrations } from '../../lib/jobs/store/sqlite/migrations.ts'

/**
 * Says what opening the databases would, and changes nothing.
 * @throws {CommandError} (storage)
 */
export function checkDatabases ({ data, auth }: DataFolders): void {
  checkDatabase(join(auth, 'auth.db'), authMigrations)
  checkDatabase(join(data, 'jobs.db'), migrations)
}
