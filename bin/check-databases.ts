import { join } from 'node:path'
import { authMigrations } from '../lib/auth-database.ts'
import { checkDatabase } from '../lib/database.ts'
import type { DataFolders } from '../lib/folders.ts'
import { migrations } from '../lib/jobs/migrations.ts'

/**
 * Says what opening the databases would, and changes nothing.
 * @throws {CommandError} (storage)
 */
export function checkDatabases ({ data, auth }: DataFolders): void {
  checkDatabase(join(auth, 'auth.db'), authMigrations)
  checkDatabase(join(data, 'jobs.db'), migrations)
}
