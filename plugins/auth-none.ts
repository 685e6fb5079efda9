import fp from 'fastify-plugin'
import { operator } from '../lib/accounts/principals.ts'

/** `--auth none`: no credentials; every caller acts as the operator of the machine. */
export default fp(async (app) => {
  app.addHook('onRequest', async request => {
    request.principal = operator
    app.accessLog(request)
  })
  app.log.warn(`--auth none: anyone who can reach ${app.config.host} may do everything`)
}, { name: 'auth-none', dependencies: ['guard'] })
