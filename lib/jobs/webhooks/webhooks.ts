import { setTimeout as delayed } from 'node:timers/promises'
import type { DueWebhook, JobStore } from '../store/job-store.ts'
import type { Logger } from '../../util/logger.ts'
import type { AllowList } from '../../network/allow-list.ts'
import { whenFree } from '../../storage/storage-errors.ts'
import { post } from './delivery.ts'

export interface WebhookOptions {
  hosts: AllowList
  /** At least 32 characters. */
  secret: string
  /** Milliseconds from one try to the next; after the last one the message is given up. */
  delays?: readonly number[]
}

interface WebhooksParts extends WebhookOptions {
  store: JobStore
  logger: Logger
  /** Milliseconds since 1970. */
  now?: () => number
}

const second = 1000
const minute = 60 * second
const standardDelays = [5 * second, 30 * second, 2 * minute, 10 * minute, 30 * minute, 120 * minute, 300 * minute]
/** Milliseconds for one try, from the look-up of the name to the status. */
const timeout = 10 * second
/** Messages on their way at once, of all callers, of one, and to one host: a silent receiver holds its places long. */
const mostAtOnce = 16
const mostForOne = 2
const mostToOneHost = 8
/** Messages of one caller that are looked at for one whose host has a free place. */
const lookAhead = 20
const goneStatus = 410

/** A message on its way. */
interface Delivery {
  caller: string
  host: string
  ended: Promise<void>
}

/**
 * Tells the ends of jobs to those who asked for it. What is to be told is in the database until it is told or given up,
 * so that it survives a restart; a crash in between may tell it twice.
 */
export class Webhooks {
  readonly #parts: WebhooksParts
  readonly #now: () => number
  readonly #stop = new AbortController()
  readonly #underWay = new Map<number, Delivery>()
  #timer: NodeJS.Timeout | undefined

  constructor (parts: WebhooksParts) {
    this.#parts = parts
    this.#now = parts.now ?? Date.now
  }

  /** Looks for what is due; called when a job has ended. */
  wake (): void {
    if (this.#stop.signal.aborted) return
    clearTimeout(this.#timer)
    try {
      for (let next = this.#next(); next !== undefined; next = this.#next()) this.#begin(next)
    } catch (error) {
      this.#parts.logger.error({ err: error }, 'Webhooks have to wait')
    }
    // Also the clock may be set meanwhile, and the database be free again.
    this.#timer = setTimeout(() => this.wake(), this.#untilNext()).unref()
  }

  /** The message that goes next: of the callers with fewest on their way the one who waits longest. */
  #next (): { caller: string, webhook: DueWebhook } | undefined {
    if (this.#underWay.size >= mostAtOnce) return undefined
    const { store } = this.#parts
    const now = this.#now()
    const callers = store.callersWithDueWebhooks(now)
      .map(caller => ({ caller, running: this.#count('caller', caller) }))
      .filter(({ running }) => running < mostForOne)
      .sort((a, b) => a.running - b.running)
    for (const { caller } of callers) {
      const webhook = store.dueWebhooks(caller, now, lookAhead).find(({ sequence, url }) =>
        !this.#underWay.has(sequence) && this.#count('host', new URL(url).host) < mostToOneHost)
      if (webhook !== undefined) return { caller, webhook }
    }
    return undefined
  }

  #begin ({ caller, webhook }: { caller: string, webhook: DueWebhook }): void {
    const ended = this.#deliver(webhook).catch((error: unknown) => {
      this.#parts.logger.error({ job: webhook.id, err: error }, 'A webhook cannot be sent')
    }).finally(() => {
      this.#underWay.delete(webhook.sequence)
      this.wake()
    })
    this.#underWay.set(webhook.sequence, { caller, host: new URL(webhook.url).host, ended })
  }

  #count (what: 'caller' | 'host', value: string): number {
    let count = 0
    for (const delivery of this.#underWay.values()) if (delivery[what] === value) count++
    return count
  }

  /** What is not told yet is told after the next start. */
  async stop (): Promise<void> {
    clearTimeout(this.#timer)
    this.#stop.abort()
    await Promise.all([...this.#underWay.values()].map(async ({ ended }) => ended))
  }

  #untilNext (): number {
    try {
      const next = this.#parts.store.nextWebhook(this.#now())
      return next === undefined ? minute : Math.min(Math.max(next - this.#now(), second / 10), minute)
    } catch (error) {
      this.#parts.logger.error({ err: error }, 'Webhooks have to wait')
      return minute
    }
  }

  async #deliver ({ sequence, url, tries, id }: DueWebhook): Promise<void> {
    const job = this.#parts.store.get(id)
    if (job === undefined) return // deleted meanwhile, and its webhook with it
    const { store, logger, hosts, secret, delays = standardDelays } = this.#parts
    const message = {
      id: job.id,
      body: JSON.stringify({ type: `job.${job.status}`, timestamp: job.finished_at, data: job })
    }
    const about = { job: job.id, host: new URL(url).host, try: tries + 1 }
    let problem: unknown
    try {
      const status = await post(message, {
        url, hosts, secret, signal: AbortSignal.any([this.#stop.signal, AbortSignal.timeout(timeout)])
      })
      if (status >= 200 && status < 300) {
        logger.info(about, 'Webhook delivered')
        return await this.#persist(about, () => store.forgetWebhook(sequence))
      }
      problem = `The answer was ${status}`
      if (status === goneStatus) tries = delays.length
    } catch (error) {
      if (this.#stop.signal.aborted) return
      problem = (error as Error).message
    }
    const delay = delays[tries]
    logger.warn({ ...about, problem, retry_in: delay },
      delay === undefined ? 'Webhook given up' : 'Webhook not delivered')
    await this.#persist(about, () => {
      if (delay === undefined) store.forgetWebhook(sequence)
      else store.postponeWebhook(sequence, this.#now() + delay)
    })
  }

  /** Waits until the state is stored, or the server stops: as the database has it, the message is due at once again. */
  async #persist (about: object, change: () => void): Promise<void> {
    while (!this.#stop.signal.aborted) {
      try {
        return await whenFree(change)
      } catch (error) {
        this.#parts.logger.error({ ...about, err: error }, 'The state of a webhook cannot be stored')
      }
      // Rejected when the server ends.
      await delayed(minute, undefined, { signal: this.#stop.signal, ref: false }).catch(() => {})
    }
  }
}
