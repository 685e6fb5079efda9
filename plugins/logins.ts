import fp from 'fastify-plugin'
import { Logins } from '../lib/accounts/login.ts'

declare module 'fastify' {
  interface FastifyInstance {
    logins: Logins<FastifyRequest>
  }
}

/** Login, refresh and password change; the plugin of the running method says how it checks a password. */
export default fp(async (app) => {
  const { store, accounts, tokens, audit, guard, config: { auth } } = app
  app.decorate('logins', new Logins({
    auth, store, accounts, tokens, audit, accepts: account => guard.accepts(account)
  }))
}, { name: 'logins', dependencies: ['accounts', 'guard', 'tokens', 'audit'] })
