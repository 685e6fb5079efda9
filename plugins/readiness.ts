import fp from 'fastify-plugin'
import { apiError, type ApiError } from '../errors.ts'
import type { EngineStatus } from '../lib/engine/engine.ts'
import type { Principal } from '../lib/accounts/principals.ts'
import { StorageProbe } from '../lib/storage/probe.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** Why no work should be sent here; undefined when it may. Administrators learn more than the reason's name. */
    readiness: (principal: Principal) => Promise<ApiError | undefined>
  }
}

/** Whether this server can do what it accepts: the engine works or is about to, and what has to be stored can be. */
export default fp(async (app) => {
  const storage = new StorageProbe(app.folders.data)

  app.decorate('readiness', async principal => {
    const { scheduler } = await app.jobs.status()
    if (scheduler.state === 'draining') return apiError('SDR_DRAINING')
    const unavailable = (reason: string, words: string, why: string) => apiError('SDR_UNAVAILABLE',
      principal.permissions.includes('system:read') ? `${words}: ${why}` : `${words}.`, { details: { reason } })
    const problem = await storage.problem()
    if (problem !== undefined) return unavailable('storage', 'The data folder cannot be written to', problem)
    const engines = app.devices.map(({ engine: { status } }) => status)
    if (engines.every(({ state }) => state === 'backing_off' || state === 'stopped')) {
      const [{ state, last_crash: crash }] = engines as [EngineStatus]
      return unavailable('engine', 'The engine is down', crash?.reason ?? state)
    }
    if (scheduler.blocked !== null) return unavailable('jobs', 'Jobs have to wait', scheduler.blocked.reason)
    return undefined
  })
}, { name: 'readiness', dependencies: ['config', 'engine', 'jobs'] })
