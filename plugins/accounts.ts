import fp from 'fastify-plugin'
import { Accounts } from '../lib/accounts/accounts.ts'
import { ApiKeys } from '../lib/accounts/api-keys.ts'
import { PasswordHasher } from '../lib/accounts/passwords.ts'

declare module 'fastify' {
  interface FastifyInstance {
    accounts: Accounts
    keys: ApiKeys
  }
}

export interface AccountOptions {
  /** Tests make many accounts and lower it; see PasswordHasher. */
  passwordCost?: number
}

/** The rules of accounts and of their API keys; `app.store` keeps both. */
export default fp<AccountOptions>(async (app, { passwordCost }) => {
  app.decorate('accounts', new Accounts(app.store.accounts, new PasswordHasher(passwordCost)))
  app.decorate('keys', new ApiKeys(app.store.keys))
}, { name: 'accounts', dependencies: ['store'] })
