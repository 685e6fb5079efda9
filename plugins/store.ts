import fp from 'fastify-plugin'
import { ApiKeyStore } from '../lib/accounts/api-keys.ts'
import { AuditLog } from '../lib/accounts/audit.ts'
import { openAuthDatabase } from '../lib/accounts/auth-database.ts'
import { closeDatabase, yieldWhenBusy } from '../lib/storage/database.ts'
import { DatabaseChanges } from '../lib/storage/database-changes.ts'
import { PasswordHasher } from '../lib/accounts/passwords.ts'
import { sourcesOf } from '../lib/accounts/principals.ts'
import { rarely } from '../lib/util/rarely.ts'
import { LastUse, type OnTrouble } from '../lib/storage/records.ts'
import { SessionStore } from '../lib/accounts/sessions.ts'
import { UserStore } from '../lib/accounts/users.ts'

declare module 'fastify' {
  interface FastifyInstance {
    users: UserStore
    sessions: SessionStore
    keys: ApiKeyStore
    auditLog: AuditLog
  }
}

export interface StoreOptions {
  /** Tests make many accounts and lower it; see PasswordHasher. */
  passwordCost?: number
}

const day = 24 * 60 * 60 * 1000

/** Accounts, sessions, API keys and the audit table, in `auth.db`. */
export default fp<StoreOptions>(async (app, { passwordCost }) => {
  const database = openAuthDatabase(app.folders.auth)
  const observer = openAuthDatabase(app.folders.auth)
  for (const one of [database, observer]) yieldWhenBusy(one)
  const changes = new DatabaseChanges(database, { tables: ['users', 'sessions', 'api_keys'], observer })
  const report = rarely(details => app.log.warn(details,
    'Records of logins, refusals or last use cannot be written to auth.db; requests go on without them'))
  const onTrouble: OnTrouble = (kind, error, lost) => {
    app.metrics.recordsLost(kind, lost)
    report(error)
  }
  const lastUse = new LastUse(onTrouble)
  app.decorate('users', new UserStore(database, new PasswordHasher(passwordCost), sourcesOf(app.config.auth)))
  app.decorate('sessions', new SessionStore(database, {
    lifetime: app.config.refreshExpiration * day, longest: app.config.sessionDays * day, changes
  }))
  app.decorate('keys', new ApiKeyStore(database, changes, lastUse))
  const auditLog = new AuditLog(database, onTrouble)
  app.decorate('auditLog', auditLog)
  app.addHook('onClose', async () => {
    auditLog.close()
    observer.close()
    closeDatabase(database)
  })
}, { name: 'store', dependencies: ['config', 'metrics'] })
