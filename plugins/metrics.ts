import type { Server } from 'node:http'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import fp from 'fastify-plugin'
import { metricsServer, parseAddress, type Address } from '../lib/metrics/listener.ts'
import { Metrics } from '../lib/metrics/metrics.ts'
import { hostMatcher } from '../lib/http/origins.ts'
import { readablePattern } from '../lib/http/public-paths.ts'
import { totalsByType } from '../lib/models/listing.ts'
import { version } from '../lib/util/version.ts'

declare module 'fastify' {
  interface FastifyInstance {
    metrics: Metrics
    /** Where --metrics-listen wants a listener. */
    metricsAddress: Address | undefined
    /** Opens it; it closes with the application. */
    listenForMetrics: (address: Address) => Promise<void>
  }
}

/** Counts requests, and serves the counts where --metrics-listen says; `routes/metrics.ts` does so with credentials. */
export default fp(async (app) => {
  const metrics = new Metrics({ version, auth: app.config.auth }, () => ({
    queue: () => app.jobs.status(),
    engines: app.devices.map(({ name, engine: { status, info } }) => ({
      ...status,
      device: name === 'auto' ? info?.device ?? 'unknown' : name
    })),
    models: totalsByType(app.models.all()),
    headers: app.models.headers
  }))
  app.decorate('metrics', metrics)
  app.addHook('onResponse', ({ method, routeOptions: { url } }, { statusCode, elapsedTime }, done) => {
    metrics.answered({
      method,
      route: url === undefined ? undefined : readablePattern(url),
      status: statusCode
    }, elapsedTime)
    done()
  })

  let server: Server | undefined
  app.decorate('metricsAddress', parseAddress(app.config.metricsListen))
  app.decorate('listenForMetrics', async address => {
    server = metricsServer(metrics, hostMatcher(['localhost', address.host, ...app.config.allowedHosts]))
    server.listen(address)
    await once(server, 'listening')
    const { address: host, port } = server.address() as AddressInfo
    app.log.info(`Metrics at http://${host.includes(':') ? `[${host}]` : host}:${port}/metrics, ` +
      'for anyone who can reach that address')
  })
  app.addHook('onClose', async () => {
    server?.close()
    server?.closeAllConnections()
  })
}, { name: 'metrics', dependencies: ['config'] })
