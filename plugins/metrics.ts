import { createServer, type Server } from 'node:http'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import fp from 'fastify-plugin'
import { Metrics } from '../lib/metrics/metrics.ts'
import { hostIn } from '../lib/options/options.ts'
import { hostMatcher } from '../lib/http/origins.ts'
import { readablePattern } from '../lib/http/public-paths.ts'
import { version } from '../lib/util/version.ts'
import { CommandError, exitCodes } from '../errors.ts'

declare module 'fastify' {
  interface FastifyInstance {
    metrics: Metrics
    /** Where --metrics-listen wants a listener. */
    metricsAddress: Address | undefined
    /** Opens it; it closes with the application. */
    listenForMetrics: (address: Address) => Promise<void>
  }
}

interface Address {
  host: string
  port: number
}

/** Counts requests, and serves what is counted where --metrics-listen says; `routes/metrics.ts` is the way with credentials. */
export default fp(async (app) => {
  const metrics = new Metrics({ version, auth: app.config.auth }, () => ({
    queue: app.jobs.status,
    engines: app.devices.map(({ name, engine: { status, info } }) => ({ ...status, device: name === 'auto' ? info?.device ?? 'unknown' : name })),
    models: app.models.types(),
    headers: app.models.headers
  }))
  app.decorate('metrics', metrics)
  app.addHook('onResponse', ({ method, routeOptions: { url } }, { statusCode, elapsedTime }, done) => {
    metrics.answered({ method, route: url === undefined ? undefined : readablePattern(url), status: statusCode }, elapsedTime)
    done()
  })

  let server: Server | undefined
  app.decorate('metricsAddress', parseAddress(app.config.metricsListen))
  app.decorate('listenForMetrics', async address => {
    server = metricsServer(metrics, hostMatcher(['localhost', address.host, ...app.config.allowedHosts]))
    server.listen(address)
    await once(server, 'listening')
    const { address: host, port } = server.address() as AddressInfo
    app.log.info(`Metrics at http://${host.includes(':') ? `[${host}]` : host}:${port}/metrics, for everybody who reaches that address`)
  })
  app.addHook('onClose', async () => {
    server?.close()
    server?.closeAllConnections()
  })
}, { name: 'metrics', dependencies: ['config'] })

/** A scraper asks for one thing, so nothing else is understood: no body, no other path, no slow request. */
function metricsServer (metrics: Metrics, isOwnHost: (host: string) => boolean): Server {
  return createServer({ requestTimeout: 10_000, headersTimeout: 10_000, maxHeaderSize: 8192 }, (request, response) => {
    if (!isOwnHost(request.headers.host ?? '')) {
      return response.writeHead(421, { connection: 'close', 'content-type': 'text/plain' }).end('Not a host name of this server; --allowed-hosts adds it.\n')
    }
    const isKnown = request.url === '/metrics' && (request.method === 'GET' || request.method === 'HEAD')
    if (!isKnown) return response.writeHead(404, { connection: 'close' }).end()
    metrics.text().then(
      text => response.writeHead(200, { 'content-type': metrics.contentType }).end(request.method === 'HEAD' ? undefined : text),
      () => response.writeHead(500).end())
  })
}

/** @throws {CommandError} (usage) */
function parseAddress (text: string | undefined): Address | undefined {
  if (text === undefined || text === '') return undefined
  const [, name = '', port = ''] = /^(.+):(\d{1,5})$/.exec(text) ?? []
  // Without brackets it would be unclear where an IPv6 address ends.
  const host = name.includes(':') && !name.startsWith('[') ? undefined : hostIn(name)
  if (host === undefined || Number(port) > 65535) {
    throw new CommandError(exitCodes.usage, `Expected host:port (127.0.0.1:9464, for example) for --metrics-listen but received ${JSON.stringify(text.slice(0, 300))}`)
  }
  return { host, port: Number(port) }
}
