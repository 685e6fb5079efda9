import fp from 'fastify-plugin'

/** `--auth jwt`: local accounts log in and get a token. */
export default fp(async (app) => {
  app.addHook('onRequest', app.guard.hook([app.tokens.identify, app.keys.identify]))
  app.logins.checkPassword = (username, password) => app.accounts.verify(username, password)
}, { name: 'auth-jwt', dependencies: ['guard', 'tokens', 'logins'] })
