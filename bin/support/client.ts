import { EventSourceParserStream } from 'eventsource-parser/stream'
import type { Job, JobEvent, JobEventName } from '../../lib/jobs/job.ts'

/** An error that the server answered. */
export class ServerError extends Error {
  readonly status: number
  readonly code: string
  constructor (status: number, code: string, message: string) {
    super(message)
    this.name = 'ServerError'
    this.status = status
    this.code = code
  }
}

interface ErrorBody {
  error?: { code: string, message: string }
}

interface ServerSentEvent {
  id?: string
  event?: string
  data: string
}

/** Milliseconds for an answer; waiting for a job goes over its events, which have no such limit. */
const answerTimeout = 30_000

/** A small client of the API for the command line. */
export class ApiClient {
  readonly #server: string
  #credential: string | undefined

  /** @param server for example `http://127.0.0.1:8080`; @param credential a token or an API key */
  constructor (server: string, credential?: string) {
    this.#server = server.replace(/\/$/, '')
    this.#credential = credential
  }

  /** The HTTP status of a GET, whatever it is. */
  async statusOf (path: string): Promise<number> {
    return (await this.#fetch(path)).status
  }

  async login (username: string, password: string): Promise<void> {
    const response = await this.#ok(this.#fetch('/api/auth/login', { method: 'POST', body: { username, password } }))
    this.#credential = (await response.json() as { token: string }).token
  }

  async submit (type: string, request: Record<string, unknown>): Promise<Job> {
    const response = await this.#ok(this.#fetch(`/api/generate/${type}`, { method: 'POST', body: request }))
    return await response.json() as Job
  }

  /** What happens to a job until it ends. A lost connection is taken up again where it broke. */
  async * follow (id: string): AsyncGenerator<JobEvent> {
    let lastId: string | undefined
    for (;;) {
      const response = await this.#ok(this.#fetch(`/api/queue/job/${id}/events`, {
        timeout: null, headers: lastId === undefined ? {} : { 'last-event-id': lastId }
      }))
      const events = response.body!.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream())
      for await (const { id: eventId, event, data } of events as unknown as AsyncIterable<ServerSentEvent>) {
        lastId = eventId
        yield { id: Number(eventId), name: event as JobEventName, data: JSON.parse(data) as unknown }
        if (event === 'done') return
      }
    }
  }

  async cancel (id: string): Promise<void> {
    await this.#ok(this.#fetch(`/api/queue/job/${id}`, { method: 'DELETE' }))
  }

  /** @param type the media type of the answer */
  async image (url: string, type = 'image/png'): Promise<Buffer> {
    return Buffer.from(await (await this.#ok(this.#fetch(url, { headers: { accept: type } }))).arrayBuffer())
  }

  #fetch (path: string, { method = 'GET', body, headers = {}, timeout = answerTimeout }: {
    method?: string, body?: unknown, headers?: Record<string, string>, timeout?: number | null
  } = {}): Promise<Response> {
    return fetch(this.#server + path, {
      method,
      headers: {
        ...headers,
        ...(this.#credential !== undefined && { authorization: `Bearer ${this.#credential}` }),
        ...(body !== undefined && { 'content-type': 'application/json' })
      },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: timeout === null ? undefined : AbortSignal.timeout(timeout),
      redirect: 'error' // a credential goes to the server that was named, and nowhere else
    })
  }

  async #ok (pending: Promise<Response>): Promise<Response> {
    const response = await pending
    if (response.ok) return response
    const body = await response.json().catch(() => undefined) as ErrorBody | undefined
    throw new ServerError(response.status, body?.error?.code ?? 'UNKNOWN',
      body?.error?.message ?? `The server answered ${response.status}`)
  }
}
