import fp from 'fastify-plugin'
import type { RouteOptions } from 'fastify'
import { routeKey, type RouteFacts } from '../lib/http/public-paths.ts'
import { needOf, type Declaration } from '../lib/http/route-needs.ts'

declare module 'fastify' {
  interface FastifySchema extends Pick<Declaration, 'public'> {}
  interface FastifyContextConfig extends Omit<Declaration, 'public'> {}
  interface FastifyInstance {
    /** Every route and its needs by its key (`GET /api/health`; HEAD follows GET); complete when the app is ready. */
    routeNeeds: ReadonlyMap<string, RouteFacts>
  }
}

/** Collects the routes, and refuses to start when one does not say who may call it. Registered before all routes. */
export default fp(async (app) => {
  const routes: RouteOptions[] = []
  const facts = new Map<string, RouteFacts>()
  app.decorate('routeNeeds', facts)
  app.addHook('onRoute', route => { routes.push(route) })

  // Read at the end, because the hooks of a scope add to what the routes of a third-party plugin say.
  app.addHook('onReady', async () => {
    for (const { method, url: pattern, schema, config } of routes) {
      const declaration = { ...config, public: schema?.public }
      for (const one of [method].flat()) {
        const key = routeKey({ method: one, pattern })
        const need = needOf(one, pattern, declaration)
        const other = facts.get(key)?.need ?? need
        if (other !== need) {
          throw new Error(`The route ${one} ${pattern} needs "${need}", but ${key} needs "${other}": ` +
            'they are opened and closed together, so they must need the same')
        }
        facts.set(key, { method: one === 'HEAD' ? 'GET' : one, pattern, need, declaration })
      }
    }
  })
}, { name: 'route-needs' })
