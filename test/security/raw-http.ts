import { connect } from 'node:net'
import type { FastifyInstance } from 'fastify'

/** HTTP over a bare socket: a client library would tidy the path, drop a header or refuse to send it. */

export interface RawResponse {
  status: number
  /** Names in lower case; of several with one name the last. */
  headers: Record<string, string>
  body: string
}

export interface RawRequest {
  method?: string
  /** Lines such as `Authorization: Bearer x`, sent as they are after Host. */
  headers?: string[]
  body?: string | Buffer
  /** undefined sends none. */
  host?: string | undefined
}

/** Milliseconds that an answer may take. */
const timeout = 30_000

/** Listens on a free loopback port. */
export async function listen (app: FastifyInstance): Promise<number> {
  await app.listen({ host: '127.0.0.1', port: 0 })
  return (app.server.address() as { port: number }).port
}

/** Sends a request with `target` as it is in its first line. */
export async function send (port: number, target: string, options: RawRequest = {}): Promise<RawResponse> {
  const { method = 'GET', headers = [], body = '' } = options
  const host = 'host' in options ? options.host : `127.0.0.1:${port}`
  const length = body.length > 0 || method === 'POST' ? [`Content-Length: ${Buffer.byteLength(body)}`] : []
  const head = [`${method} ${target} HTTP/1.1`, ...(host === undefined ? [] : [`Host: ${host}`]), 'Connection: close', ...length, ...headers]
  return await sendBytes(port, Buffer.concat([Buffer.from(`${head.join('\r\n')}\r\n\r\n`, 'latin1'), Buffer.from(body)]))
}

/** Sends bytes and reads until the server closes the connection. */
export async function sendBytes (port: number, bytes: Buffer): Promise<RawResponse> {
  const socket = connect(port, '127.0.0.1')
  socket.setTimeout(timeout, () => socket.destroy(new Error('The server did not answer in time')))
  const chunks: Buffer[] = []
  await new Promise<void>((resolve, reject) => {
    socket.on('data', chunk => chunks.push(chunk))
    socket.on('close', () => resolve())
    socket.on('error', error => chunks.length > 0 ? resolve() : reject(error))
    socket.write(bytes)
  })
  return parse(Buffer.concat(chunks).toString())
}

function parse (text: string): RawResponse {
  const [head = '', ...rest] = text.split('\r\n\r\n')
  const [first = '', ...lines] = head.split('\r\n')
  const headers = Object.fromEntries(lines.map(line => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]))
  return { status: Number(first.split(' ')[1]), headers, body: rest.join('\r\n\r\n') }
}
