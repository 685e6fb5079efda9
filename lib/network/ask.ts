import { once } from 'node:events'
import { request as httpRequest, type ClientRequest, type IncomingMessage, type OutgoingHttpHeaders } from 'node:http'
import { request as httpsRequest, type RequestOptions } from 'node:https'
import type { LookupFunction } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { checkServerIdentity } from 'node:tls'
import { HttpProxyAgent } from 'http-proxy-agent'
import { HttpsProxyAgent } from 'https-proxy-agent'
import type { AllowList } from './allow-list.ts'
import { checkedLookup, hostOf, RefusedAddress } from './checked-lookup.ts'
import { proxyFor, type Proxy } from './proxy.ts'

interface Question {
  /** Addresses that may be private. */
  hosts: AllowList
  signal: AbortSignal
  method?: string
  headers: OutgoingHttpHeaders
  body?: string
  /** Certificates to trust instead of the usual ones. */
  ca?: Buffer
  /** Milliseconds that a proxy has for its connection. */
  proxyTimeout?: number
}

/** Milliseconds. The caller sets the outer bounds of a request; the proxy may know a name that is not known here. */
const standardProxyTimeout = 20_000
const lookupTimeout = 5000

/** The proxy that the environment names can't be used; the message names it without its password. */
export class ProxyError extends Error {
  /** Whether the same may work a moment later. */
  readonly isPassing: boolean
  constructor (message: string, { isPassing, ...options }: ErrorOptions & { isPassing: boolean }) {
    super(message, options)
    this.name = 'ProxyError'
    this.isPassing = isPassing
  }
}

/**
 * Sends one request to a host that a caller or a redirect named, and follows no redirect. The connection goes to an
 * address that was checked. Through a proxy it can't: the proxy resolves the name, and only what it resolves to here is
 * checked.
 * @returns the response as soon as its headers are there.
 * @throws {RefusedAddress} {ProxyError}; errors of the connection; the signal's reason or an AbortError.
 */
export async function ask (
  url: URL, { hosts, signal, body, proxyTimeout = standardProxyTimeout, ...options }: Question
): Promise<IncomingMessage> {
  const lookup = checkedLookup(url, hosts)
  const proxy = proxyFor(url)
  if (proxy === undefined) return await responseTo(begin(url, { ...options, agent: false, signal, lookup }), body)

  await refuseKnownAddress(url, lookup)
  signal.throwIfAborted()
  const late = new AbortController()
  const timer = setTimeout(() => late.abort(), proxyTimeout)
  let isConnected = false
  try {
    const either = AbortSignal.any([signal, late.signal])
    const request = begin(url, {
      ...options,
      agent: agentFor(url, proxy, either),
      signal: either,
      checkServerIdentity: identityOf(url)
    })
    const refused = new Promise<never>((_resolve, reject) => {
      request.once('proxyConnect', ({ statusCode = 200 }: { statusCode?: number }) => {
        clearTimeout(timer)
        isConnected = true
        if (statusCode !== 200) reject(refusal(proxy, statusCode))
      })
    })
    const response = await Promise.race([responseTo(request, body), refused])
      .finally(() => { if (!isConnected) request.destroy() })
    if (url.protocol === 'https:' || response.statusCode !== 407) return response
    response.destroy()
    throw refusal(proxy, 407)
  } catch (error) {
    signal.throwIfAborted()
    if (late.signal.aborted) {
      throw new ProxyError(`${proxy.name} did not answer within ${proxyTimeout / 1000} s.`, { isPassing: true })
    }
    if (isConnected) throw error
    const { code, message } = error as NodeJS.ErrnoException
    const isPassing = !['ECONNREFUSED', 'ENOTFOUND'].includes(code ?? '')
    throw new ProxyError(`${proxy.name} can't be reached (${code ?? message}).`, { isPassing, cause: error })
  } finally {
    clearTimeout(timer)
  }
}

function begin (url: URL, options: RequestOptions): ClientRequest {
  return url.protocol === 'https:' ? httpsRequest(url, options) : httpRequest(url, options)
}

function agentFor (
  { protocol }: URL, { url, authorization }: Proxy, signal: AbortSignal
): HttpProxyAgent<string> | HttpsProxyAgent<string> {
  // Not in the address, which a debugging aid of the library would print.
  const headers = authorization === undefined ? {} : { 'Proxy-Authorization': authorization }
  return protocol === 'https:'
    ? new HttpsProxyAgent(url.href, { headers, signal })
    : new HttpProxyAgent(url.href, { headers, signal })
}

/** The certificate is that of the host, also where the host is an address; the socket is one to the proxy. */
function identityOf (url: URL): RequestOptions['checkServerIdentity'] {
  return (_, certificate) => checkServerIdentity(hostOf(url), certificate)
}

/** @throws {RefusedAddress} A name that is not known here, or not in time, is for the proxy to resolve. */
async function refuseKnownAddress (url: URL, lookup: LookupFunction): Promise<void> {
  const known = new Promise<unknown>(resolve => lookup(hostOf(url), { all: true }, resolve))
  const error = await Promise.race([known, delay(lookupTimeout, undefined, { ref: false })])
  if (error instanceof RefusedAddress) throw error
}

function refusal (proxy: Proxy, status: number): ProxyError {
  const why = status !== 407
    ? ''
    : proxy.authorization === undefined
      ? ': it wants a user name and a password; put them before its host, as in http://user:password@host:port'
      : ': it does not accept the user name and password of that address'
  return new ProxyError(`${proxy.name} answers ${status}${why}.`, { isPassing: status >= 500 })
}

async function responseTo (request: ClientRequest, body: string | undefined): Promise<IncomingMessage> {
  try {
    request.end(body)
    const [response] = await once(request, 'response') as [IncomingMessage]
    return response
  } catch (error) {
    request.destroy()
    throw error
  } finally {
    // What breaks later, the reader of the response hears of too.
    request.on('error', () => {})
  }
}
