import type { IncomingMessage } from 'node:http'
import type { AllowList } from '../../network/allow-list.ts'
import { ask } from '../../network/ask.ts'
import { hostOf, portOf, PrivateAddressError } from '../../network/checked-lookup.ts'
import { version } from '../../util/version.ts'
import { NetworkError } from '../../network/network-error.ts'
import type { Tokens } from './tokens.ts'

const mostRedirects = 5
const redirects = [301, 302, 303, 307, 308]
/** Statuses that are worth another try. */
const busy = [408, 425, 429, 500, 502, 503, 504]

export interface RequestParts {
  /** Hosts that may be reached over http, and private addresses that are allowed. */
  hosts: AllowList
  tokens: Tokens
  /** Address of the hub, whose headers describe the file. */
  hub: URL
}

interface Answer {
  response: IncomingMessage
  /** SHA-256 of the file, which the hub sends with its redirect. */
  sha256: string | undefined
}

/**
 * Requests a file and follows redirects; each address is checked. A token is sent only to its own origin, and only if
 * that is the origin of the first URL, because another server chooses where a redirect leads.
 * @param headers of the request.
 * @throws {NetworkError} for hosts that may not or can't be reached, and for statuses other than 200, 206 and 416.
 */
export async function requestFile (
  first: URL, headers: Record<string, string>, { hosts, tokens, hub }: RequestParts, signal: AbortSignal
): Promise<Answer> {
  let url = first
  let sha256: string | undefined
  for (let redirect = 0; redirect <= mostRedirects; redirect++) {
    checkProtocol(url, hosts)
    const token = url.origin === first.origin ? tokens.get(first.origin) : undefined
    const response = await send(url, {
      'user-agent': `stable-diffusion-rest/${version}`,
      accept: '*/*',
      'accept-encoding': 'identity',
      ...(token !== undefined && { authorization: `Bearer ${token}` }),
      ...headers
    }, hosts, signal)
    if (url.origin === hub.origin) sha256 ??= linkedHash(response)
    const { statusCode: status = 0, headers: { location } } = response
    if (redirects.includes(status) && location !== undefined) {
      response.destroy()
      url = follow(location, url)
      continue
    }
    if ([200, 206, 416].includes(status)) return { response, sha256 }
    response.destroy()
    throw statusError(status, url, token !== undefined)
  }
  throw new NetworkError(`${first.host} redirects more than ${mostRedirects} times.`)
}

function checkProtocol (url: URL, hosts: AllowList): void {
  if (url.protocol === 'https:') return
  if (url.protocol === 'http:' && hosts.has(hostOf(url), portOf(url))) return
  throw new NetworkError(
    `${url.host} is to be asked over ${url.protocol.slice(0, -1)}, where anyone on the way could change the file. ` +
    `Use https, or list ${url.host} in ${hosts.option} if it is meant.`)
}

async function send (
  url: URL, headers: Record<string, string>, hosts: AllowList, signal: AbortSignal
): Promise<IncomingMessage> {
  try {
    return await ask(url, { hosts, signal, headers })
  } catch (error) {
    if (signal.aborted) throw signal.reason
    if (error instanceof PrivateAddressError) throw new NetworkError(`${error.message}.`, { cause: error })
    if (error instanceof NetworkError) throw error
    const { code, message } = error as NodeJS.ErrnoException
    throw new NetworkError(`${url.host} can't be reached (${code ?? message}).`, { cause: error, isPassing: true })
  }
}

function follow (location: string, from: URL): URL {
  if (location.length > 16_384 || !URL.canParse(location, from.href)) {
    throw new NetworkError(`${from.host} redirects to what is no URL.`)
  }
  const url = new URL(location, from.href)
  // They would be sent.
  url.username = url.password = ''
  return url
}

/** The hub names large files by their SHA-256, smaller ones by another hash, which is shorter. */
function linkedHash ({ headers }: IncomingMessage): string | undefined {
  const [, hash] = /^"?([0-9a-f]{64})"?$/.exec(String(headers['x-linked-etag'] ?? '')) ?? []
  return hash
}

function statusError (status: number, { host }: URL, hadToken: boolean): NetworkError {
  if (busy.includes(status)) return new NetworkError(`${host} answers ${status}.`, { isPassing: true })
  if (status === 401 || status === 403) {
    return new NetworkError(`${host} answers ${status}: ${hadToken
      ? 'it does not accept the token of this server for this file.'
      : 'it wants a token; give one to the server with --hf-token or --pull-tokens-file.'}`)
  }
  return new NetworkError(`${host} answers ${status}.`)
}
