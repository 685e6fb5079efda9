import { createHmac } from 'node:crypto'
import { apiError } from '../../../errors.ts'
import type { AllowList } from '../../network/allow-list.ts'
import { ask } from '../../network/ask.ts'
import { hostOf, portOf } from '../../network/checked-lookup.ts'
import { version } from '../../util/version.ts'

export const longestUrl = 2048

interface Message {
  /** The same for each try, so that a receiver knows what it has had already. */
  id: string
  body: string
}

interface Receiver {
  url: string
  hosts: AllowList
  secret: string
  signal: AbortSignal
}

/**
 * Checks where a job wants its end to be told.
 * @throws {ApiError} SDR_INVALID_REQUEST, SDR_FORBIDDEN
 */
export function checkUrl (url: string, hosts: AllowList): URL {
  const parsed = url.length <= longestUrl && URL.canParse(url) ? new URL(url) : undefined
  if (
    parsed === undefined || !['http:', 'https:'].includes(parsed.protocol) ||
    parsed.username !== '' || parsed.password !== ''
  ) {
    const expected = `an http or https URL of at most ${longestUrl} characters without a user name`
    throw apiError('SDR_INVALID_REQUEST',
      `Expected ${expected} for webhook_url`, { details: [{ field: 'webhook_url', expected }] })
  }
  const details = { field: 'webhook_url' }
  if (hosts.isEmpty) {
    throw apiError('SDR_FORBIDDEN',
      'webhook_url: this server calls no hosts; its operator may name some with --webhook-hosts.', { details })
  }
  if (!hosts.has(hostOf(parsed), portOf(parsed))) {
    throw apiError('SDR_FORBIDDEN',
      `webhook_url: ${parsed.host} is not one of the hosts that this server calls (--webhook-hosts).`, { details })
  }
  return parsed
}

/** The signature of Standard Webhooks 1.0: HMAC-SHA256 of id, time and body. */
function sign (secret: string, id: string, timestamp: number, body: string): string {
  return `v1,${createHmac('sha256', secret).update(`${id}.${timestamp}.${body}`).digest('base64')}`
}

/**
 * Posts a message once. The name is resolved here and the connection goes to an address that was checked, so that a
 * name cannot lead elsewhere in between. Redirects are not followed, and nothing of the answer but its status is read.
 * @returns the status of the answer.
 * @throws when there is none.
 */
export async function post ({ id, body }: Message, { url, hosts, secret, signal }: Receiver): Promise<number> {
  const target = checkUrl(url, hosts)
  const timestamp = Math.floor(Date.now() / 1000)
  const response = await ask(target, {
    method: 'POST',
    hosts,
    signal,
    headers: {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(body),
      'user-agent': `stable-diffusion-rest/${version}`,
      'webhook-id': id,
      'webhook-timestamp': timestamp,
      'webhook-signature': sign(secret, id, timestamp, body)
    },
    body
  })
  response.destroy()
  return response.statusCode ?? 0
}
