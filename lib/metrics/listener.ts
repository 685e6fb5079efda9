import { createServer, type Server } from 'node:http'
import { CommandError, exitCodes } from '../../errors.ts'
import { hostIn } from '../options/resolve.ts'
import type { Metrics } from './metrics.ts'
import { quoted } from '../util/text.ts'

export interface Address {
  host: string
  port: number
}

/** A scraper asks for one thing, so nothing else is understood: no body, no other path, no slow request. */
export function metricsServer (metrics: Metrics, isOwnHost: (host: string) => boolean): Server {
  return createServer({ requestTimeout: 10_000, headersTimeout: 10_000, maxHeaderSize: 8192 }, (request, response) => {
    if (!isOwnHost(request.headers.host ?? '')) {
      return response.writeHead(421, { connection: 'close', 'content-type': 'text/plain' })
        .end('Not a host name of this server; --allowed-hosts adds it.\n')
    }
    const isKnown = request.url === '/metrics' && (request.method === 'GET' || request.method === 'HEAD')
    if (!isKnown) return response.writeHead(404, { connection: 'close' }).end()
    metrics.text().then(
      text => response.writeHead(200, { 'content-type': metrics.contentType })
        .end(request.method === 'HEAD' ? undefined : text),
      () => response.writeHead(500).end())
  })
}

/** @throws {CommandError} (usage) */
export function parseAddress (text: string | undefined): Address | undefined {
  if (text === undefined || text === '') return undefined
  const [, name = '', port = ''] = /^(.+):(\d{1,5})$/.exec(text) ?? []
  // Without brackets it would be unclear where an IPv6 address ends.
  const host = name.includes(':') && !name.startsWith('[') ? undefined : hostIn(name)
  if (host === undefined || Number(port) > 65535) {
    throw new CommandError(exitCodes.usage,
      'Expected host:port (127.0.0.1:9464, for example) for --metrics-listen ' +
      `but received ${quoted(text, 300)}`)
  }
  return { host, port: Number(port) }
}
