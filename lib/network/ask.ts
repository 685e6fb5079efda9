import { once } from 'node:events'
import { request as httpRequest, type ClientRequest, type IncomingMessage, type OutgoingHttpHeaders } from 'node:http'
import { request as httpsRequest, type RequestOptions } from 'node:https'
import type { LookupFunction } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { checkServerIdentity } from 'node:tls'
import { HttpProxyAgent } from 'http-proxy-agent'
import { HttpsProxyAgent } from 'https-proxy-agent'
import type { AllowList } from './allow-list.ts'
import { checkedLookup, hostOf, PrivateAddressError } from './checked-lookup.ts'
import { NetworkError } from './network-error.ts'
import { proxyFor, type Proxy } from './proxy.ts'

interface AskOptions {
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

/** Milliseconds. The caller bounds the whole request; a proxy may resolve a name that this server can't. */
const standardProxyTimeout = 20_000
const lookupTimeout = 5000

/**
 * Sends one request to a host that a caller or a redirect named, and follows no redirect. The connection goes to a
 * checked address. A proxy resolves the name itself, so only the addresses that are known here are checked.
 * @returns the response once its headers have arrived.
 * @throws {PrivateAddressError}; {NetworkError} of the proxy; errors of the connection; the signal's reason or an
 *   AbortError.
 */
export async function ask (
  url: URL, { hosts, signal, body, proxyTimeout = standardProxyTimeout, ...options }: AskOptions
): Promise<IncomingMessage> {
  const lookup = checkedLookup(url, hosts)
  const proxy = proxyFor(url)
  if (proxy === undefined) return await responseTo(begin(url, { ...options, agent: false, signal, lookup }), body)

  await checkKnownAddress(url, lookup)
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
        if (statusCode !== 200) reject(proxyStatusError(proxy, statusCode))
      })
    })
    const response = await Promise.race([responseTo(request, body), refused])
      .finally(() => { if (!isConnected) request.destroy() })
    if (url.protocol === 'https:' || response.statusCode !== 407) return response
    response.destroy()
    throw proxyStatusError(proxy, 407)
  } catch (error) {
    signal.throwIfAborted()
    if (late.signal.aborted) {
      throw new NetworkError(`${proxy.name} did not answer within ${proxyTimeout / 1000} s.`, { isPassing: true })
    }
    if (isConnected) throw error
    const { code, message } = error as NodeJS.ErrnoException
    const isPassing = !['ECONNREFUSED', 'ENOTFOUND'].includes(code ?? '')
    throw new NetworkError(`${proxy.name} can't be reached (${code ?? message}).`, { isPassing, cause: error })
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
  // Not in the address, which the library prints when it is debugged.
  const headers = authorization === undefined ? {} : { 'Proxy-Authorization': authorization }
  return protocol === 'https:'
    ? new HttpsProxyAgent(url.href, { headers, signal })
    : new HttpProxyAgent(url.href, { headers, signal })
}

/** The certificate is that of the host, even if that is an address; the socket leads to the proxy. */
function identityOf (url: URL): RequestOptions['checkServerIdentity'] {
  return (_, certificate) => checkServerIdentity(hostOf(url), certificate)
}

/** @throws {PrivateAddressError} The proxy resolves a name that is not known here, or not in time. */
async function checkKnownAddress (url: URL, lookup: LookupFunction): Promise<void> {
  const known = new Promise<unknown>(resolve => lookup(hostOf(url), { all: true }, resolve))
  const error = await Promise.race([known, delay(lookupTimeout, undefined, { ref: false })])
  if (error instanceof PrivateAddressError) throw error
}

function proxyStatusError (proxy: Proxy, status: number): NetworkError {
  const why = status !== 407
    ? ''
    : proxy.authorization === undefined
      ? ': it wants a user name and a password; put them before its host, as in http://user:password@host:port'
      : ': it does not accept the user name and password of that address'
  return new NetworkError(`${proxy.name} answers ${status}${why}.`, { isPassing: status >= 500 })
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
    // The reader of the response gets later errors too.
    request.on('error', () => {})
  }
}
