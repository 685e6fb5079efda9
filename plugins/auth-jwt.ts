import fp from 'fastify-plugin'

/** `--auth jwt`: local accounts log in and get a token. */
export default fp(async (app) => {
  app.addHook('onRequest', app.guard([app.tokens.identify, app.identifyKey]))
  app.decorate('verifyLogin', (username, password) => app.users.verify(username, password))
}, { name: 'auth-jwt', dependencies: ['auth', 'tokens', 'keys', 'login'] })
