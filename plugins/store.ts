import fp from 'fastify-plugin'
import { sourcesOf } from '../lib/accounts/principals.ts'
import { openSqliteStore } from '../lib/accounts/store/sqlite/store.ts'
import type { AccountStore } from '../lib/accounts/store/store.ts'
import type { OnRecordError } from '../lib/storage/records.ts'
import { rarely } from '../lib/util/rarely.ts'

declare module 'fastify' {
  interface FastifyInstance {
    store: AccountStore
    /** Counts and logs records that cannot be written. */
    onRecordError: OnRecordError
  }
}

const day = 24 * 60 * 60 * 1000

/** Accounts, sessions, API keys and the audit table, in `auth.db`. */
export default fp(async (app) => {
  const { auth, refreshExpiration, sessionDays } = app.config
  const report = rarely(details => app.log.warn(details,
    'Records of logins, refusals or last use cannot be written to auth.db; requests go on without them'))
  app.decorate('onRecordError', (kind, error, lost) => {
    app.metrics.recordsLost(kind, lost)
    report(error)
  })
  const store = openSqliteStore(app.folders.auth, {
    sources: sourcesOf(auth),
    lifetime: refreshExpiration * day,
    longest: sessionDays * day,
    onRecordError: app.onRecordError,
    isServer: true
  })
  app.decorate('store', store)
  app.addHook('onClose', async () => store.close())
}, { name: 'store', dependencies: ['config', 'metrics'] })
