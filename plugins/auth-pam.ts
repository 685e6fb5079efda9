import fp from 'fastify-plugin'
import systemLogin from './system-login.ts'

/** `--auth pam`: users whom the PAM service --pam-service-name lets in. */
export default fp(async (app) => {
  await app.register(systemLogin, { source: 'pam' })
}, { name: 'auth-pam' })
