import fp from 'fastify-plugin'

/** `--auth optional`: takes tokens and API keys; a caller without any is the guest, a wrong one is still refused. */
export default fp(async (app) => {
  app.addHook('onRequest', app.guard.hook([app.tokens.identify, app.keys.identify], { allowsGuests: true }))
  app.logins.checkPassword = (username, password) => app.accounts.verify(username, password)
}, { name: 'auth-optional', dependencies: ['guard', 'tokens', 'logins'] })
