import { apiError, type ApiError } from '../../errors.ts'
import { isEnded, type Job, type JobEvent, type JobEventName } from './job.ts'

export interface JobEventsOptions {
  /** Streams of events at once, of all callers and of one. */
  maxStreams?: number
  maxStreamsForOne?: number
  /** Requests that wait for the end of a job, which cost much less. */
  maxWaits?: number
  maxWaitsForOne?: number
  /** Milliseconds since 1970. */
  now?: () => number
}

export interface SubscribeOptions {
  /** The id of the last event that the subscriber has seen. */
  lastEventId?: number
  /** Ends the subscription; never the job. */
  signal?: AbortSignal
  /** The caller whose share of the places it takes; by default the owner of the job. */
  caller?: string
  /** By default a stream. */
  kind?: 'stream' | 'wait'
}

/**
 * The newest event of each name, in the order of their ids. Every event carries the full state, so a slow or
 * reconnecting client needs only these.
 */
type Newest = Map<JobEventName, JobEvent>

interface Channel {
  newest: Newest
  /** Every event after this id is kept. */
  completeAfter: number
  /** The place in the queue that was sent last. */
  position: number | null
  subscribers: Set<Subscriber>
}

/** Ends after `done`, by `end`, or when the loop over it is left. */
export interface JobEventStream extends AsyncIterableIterator<JobEvent> {
  end (): void
}

/** Seconds after which a refused subscriber may come again. */
const retryAfter = 5

/** Counts places, so that no caller takes all of them. */
class Places {
  readonly #most: number
  readonly #mostForOne: number
  readonly #ofCallers = new Map<string, number>()
  #taken = 0

  constructor (most: number, mostForOne: number) {
    this.#most = most
    this.#mostForOne = Math.min(mostForOne, most)
  }

  get taken (): number {
    return this.#taken
  }

  /** @returns why this caller gets no place, undefined when it can take one. */
  blockedFor (caller: string): ApiError | undefined {
    if (this.#of(caller) >= this.#mostForOne) {
      return apiError('SDR_RATE_LIMITED',
        `You follow jobs ${this.#mostForOne} times already; end some of that first.`, { retryAfter })
    }
    if (this.#taken < this.#most) return undefined
    return apiError('SDR_UNAVAILABLE',
      `${this.#most} clients follow jobs already; ask for the job itself, or try again later.`, { retryAfter })
  }

  take (caller: string): void {
    this.#taken++
    this.#ofCallers.set(caller, this.#of(caller) + 1)
  }

  leave (caller: string): void {
    this.#taken--
    const left = this.#of(caller) - 1
    if (left > 0) this.#ofCallers.set(caller, left)
    else this.#ofCallers.delete(caller)
  }

  #of (caller: string): number {
    return this.#ofCallers.get(caller) ?? 0
  }
}

/**
 * Sends the events of jobs to their subscribers. Ids come from one counter that starts at the clock in microseconds, so
 * that they also grow over restarts. The newest events of a job are kept until its end, for subscribers that come back.
 */
export class JobEvents {
  readonly #channels = new Map<string, Channel>()
  readonly #places: Readonly<Record<'stream' | 'wait', Places>>
  #lastId: number
  #lastChange = 0
  #isClosed = false

  constructor (options: JobEventsOptions = {}) {
    const { maxStreams = 1000, maxStreamsForOne = 100, maxWaits = 10_000, maxWaitsForOne = 1000 } = options
    this.#places = { stream: new Places(maxStreams, maxStreamsForOne), wait: new Places(maxWaits, maxWaitsForOne) }
    this.#lastId = (options.now ?? Date.now)() * 1000
  }

  get subscriberCount (): number {
    return this.#places.stream.taken + this.#places.wait.taken
  }

  /** Whether a request of this caller can wait for the end of a job. */
  canWait (caller: string): boolean {
    return this.#places.wait.blockedFor(caller) === undefined
  }

  get isClosed (): boolean {
    return this.#isClosed
  }

  /** The jobs that have subscribers, with the place in the queue that was sent last. */
  watched (): Array<Pick<Job, 'id' | 'position'>> {
    return [...this.#channels]
      .filter(([, { subscribers }]) => subscribers.size > 0)
      .map(([id, { position }]) => ({ id, position }))
  }

  isWatched (jobId: string): boolean {
    return (this.#channels.get(jobId)?.subscribers.size ?? 0) > 0
  }

  /** Id of the last event with the state of any job. A job that was read before it may be out of date. */
  get lastChange (): number {
    return this.#lastChange
  }

  /**
   * Publishes the state of a job: `done`, the last event of its streams, when the job has ended, else `state`.
   * @param after the event of the state before; when another state was published since, nothing is.
   * @returns the id of the event.
   */
  publishJob (job: Job, after?: number): number {
    if (after !== undefined && this.#channels.get(job.id)?.newest.get('state')?.id !== after) return after
    const name = isEnded(job.status) ? 'done' : 'state'
    this.#channel(job.id).position = job.position
    this.publish(job.id, name, job)
    if (name === 'done') this.#channels.delete(job.id)
    return (this.#lastChange = this.#lastId)
  }

  publish (jobId: string, name: JobEventName, data: unknown): void {
    const event: JobEvent = { id: ++this.#lastId, name, data }
    const channel = this.#channel(jobId)
    add(channel.newest, event)
    for (const subscriber of channel.subscribers) subscriber.push(event)
  }

  /**
   * The events of a job from now on, until its end. First come those after `lastEventId`; when that is not given, or
   * some of them are no longer kept, the present state of the job.
   * @throws {ApiError} SDR_RATE_LIMITED when this caller has too many, SDR_UNAVAILABLE when all together have,
   * SDR_DRAINING when all streams have ended.
   */
  subscribe (
    job: Job, { lastEventId, signal, caller = job.owner, kind = 'stream' }: SubscribeOptions = {}
  ): JobEventStream {
    const now: JobEvent = { id: ++this.#lastId, name: isEnded(job.status) ? 'done' : 'state', data: job }
    if (now.name === 'done') return new Subscriber([now])
    if (this.#isClosed) throw apiError('SDR_DRAINING')
    const places = this.#places[kind]
    const blocked = places.blockedFor(caller)
    if (blocked !== undefined) throw blocked
    const channel = this.#channel(job.id, job.position)
    const isCovered = lastEventId !== undefined && lastEventId >= channel.completeAfter && lastEventId <= this.#lastId
    const missed = [...channel.newest.values()].filter(({ id }) => isCovered && id > lastEventId)
    const subscriber: Subscriber = new Subscriber(isCovered ? missed : [now], () => {
      channel.subscribers.delete(subscriber)
      places.leave(caller)
    })
    channel.subscribers.add(subscriber)
    places.take(caller)
    subscriber.endWith(signal)
    return subscriber
  }

  /** Ends all streams, and begins none any more. */
  close (): void {
    this.#isClosed = true
    for (const { subscribers } of this.#channels.values()) {
      for (const subscriber of subscribers) subscriber.end()
    }
    this.#channels.clear()
  }

  #channel (jobId: string, position: number | null = null): Channel {
    let channel = this.#channels.get(jobId)
    if (channel === undefined) {
      channel = { newest: new Map(), completeAfter: this.#lastId, position, subscribers: new Set() }
      this.#channels.set(jobId, channel)
    }
    return channel
  }
}

/** One subscriber, with the events that it has not taken yet. */
class Subscriber implements JobEventStream {
  readonly #untaken: Newest = new Map()
  readonly #onEnd: () => void
  #waiting: ((result: IteratorResult<JobEvent>) => void) | undefined
  #isEnded = false
  #signal: AbortSignal | undefined
  readonly #abort = () => this.end()

  constructor (first: JobEvent[], onEnd: () => void = () => {}) {
    for (const event of first) add(this.#untaken, event)
    this.#onEnd = onEnd
    this.#isEnded = this.#untaken.has('done')
  }

  endWith (signal: AbortSignal | undefined): void {
    if (signal === undefined) return
    if (signal.aborted) return this.end()
    this.#signal = signal
    signal.addEventListener('abort', this.#abort, { once: true })
  }

  push (event: JobEvent): void {
    if (this.#isEnded) return
    add(this.#untaken, event)
    if (event.name === 'done') this.#finish()
    this.#deliver()
  }

  /** Drops the events that were not taken. */
  end (): void {
    this.#untaken.clear()
    this.#finish()
    this.#deliver()
  }

  async next (): Promise<IteratorResult<JobEvent>> {
    if (this.#waiting !== undefined) throw new Error('The next event is being waited for already')
    return await new Promise(resolve => {
      this.#waiting = resolve
      this.#deliver()
    })
  }

  async return (): Promise<IteratorResult<JobEvent>> {
    this.end()
    return { done: true, value: undefined }
  }

  [Symbol.asyncIterator] (): this {
    return this
  }

  #deliver (): void {
    const deliver = this.#waiting
    if (deliver === undefined) return
    const event = this.#untaken.values().next().value
    if (event === undefined && !this.#isEnded) return
    this.#waiting = undefined
    if (event !== undefined) this.#untaken.delete(event.name)
    deliver(event === undefined ? { done: true, value: undefined } : { done: false, value: event })
  }

  #finish (): void {
    if (this.#isEnded) return
    this.#isEnded = true
    this.#signal?.removeEventListener('abort', this.#abort)
    this.#onEnd()
  }
}

function add (newest: Newest, event: JobEvent): void {
  newest.delete(event.name)
  newest.set(event.name, event)
}
