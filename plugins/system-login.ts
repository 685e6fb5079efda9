import fp from 'fastify-plugin'
import { CommandError, exitCodes } from '../errors.ts'
import { guarded } from '../lib/util/rarely.ts'
import { SystemAccounts } from '../lib/accounts/system-accounts.ts'
import { SystemLogin } from '../lib/accounts/system-login.ts'

interface SystemLoginOptions {
  source: 'unix' | 'pam'
}

/** Milliseconds after which an account that the system removed, or moved to other groups, loses what it had here. */
const reviewInterval = 30_000

/** What --auth unix and --auth pam share: accounts of the operating system log in, then hold a session like others. */
export default fp<SystemLoginOptions>(async (app, { source }) => {
  const system = new SystemAccounts()
  const support = (await system.support(source === 'pam' ? app.config.pamServiceName : undefined))[source]
  if (support !== true) throw new CommandError(exitCodes.usage, `--auth ${source} cannot work here: ${support}`)

  const login = new SystemLogin({
    source, system, records: app.store.accounts, options: app.config, logger: app.log
  })
  app.addHook('onRequest', app.guard.hook([app.tokens.identify, app.keys.identify]))
  app.logins.checkPassword = (username, password, address) => login.verify(username, password, address)
  app.guard.systemAccepts = account => login.accepts(account)

  let timer: NodeJS.Timeout | undefined
  let isClosed = false
  const review = guarded(app.log, 'The accounts of the system cannot be reviewed', () => login.review())
  async function keepReviewing (): Promise<void> {
    await review()
    if (!isClosed) timer = setTimeout(keepReviewing, reviewInterval).unref()
  }
  // Not waited for: a directory service that hangs must not keep the server from starting.
  app.addHook('onReady', async () => { keepReviewing() })
  app.addHook('onClose', async () => {
    isClosed = true
    clearTimeout(timer)
  })
}, { name: 'system-login', dependencies: ['guard', 'tokens', 'logins'] })
