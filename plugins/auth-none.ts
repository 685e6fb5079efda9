import fp from 'fastify-plugin'
import { operator } from '../lib/principals.ts'

/** `--auth none`: nobody is asked; everybody acts as the operator of the machine. */
export default fp(async (app) => {
  app.addHook('onRequest', async request => {
    request.principal = operator
  })
}, { name: 'auth-none', dependencies: ['auth'] })
