import fp from 'fastify-plugin'

/** `--auth api-key`: every request carries an API key; there is no login. */
export default fp(async (app) => {
  app.addHook('onRequest', app.guard.hook([app.keys.identify]))
}, { name: 'auth-api-key', dependencies: ['guard'] })
