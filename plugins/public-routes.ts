import fp from 'fastify-plugin'
import { readablePattern, resolvePublicRoutes } from '../lib/http/public-paths.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** Keys (`GET /api/health`) of the routes that are public; known when the application is ready. */
    publicRoutes: ReadonlySet<string>
  }
}

/** Which routes are public: decided once, at boot, from the pattern of each route. */
export default fp(async (app) => {
  const publicRoutes = new Set<string>()
  app.decorate('publicRoutes', publicRoutes)
  app.addHook('onReady', async () => {
    const { open, warnings } = resolvePublicRoutes([...app.routeNeeds.values()], app.config.publicPaths)
    for (const key of open) publicRoutes.add(key)
    for (const warning of warnings) app.log.warn(warning)
    app.log.info({ public: [...open].map(readablePattern).sort() }, 'Routes that need no credentials')
  })
}, { name: 'public-routes', dependencies: ['config', 'route-needs'] })
