import fp from 'fastify-plugin'
import systemLogin from './system-login.ts'

/** `--auth unix`: accounts of this system log in, checked against its account database. */
export default fp(async (app) => {
  await app.register(systemLogin, { source: 'unix' })
}, { name: 'auth-unix' })
