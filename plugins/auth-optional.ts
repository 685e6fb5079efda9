import fp from 'fastify-plugin'

/** `--auth optional`: takes tokens and API keys; a caller without any is the guest, a wrong one is still refused. */
export default fp(async (app) => {
  app.addHook('onRequest', app.guard([app.tokens.identify, app.identifyKey], { admitsGuests: true }))
  app.decorate('verifyLogin', (username, password) => app.users.verify(username, password))
}, { name: 'auth-optional', dependencies: ['auth', 'tokens', 'keys', 'login'] })
