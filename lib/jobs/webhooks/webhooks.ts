import { setTimeout as delayed } from 'node:timers/promises'
import type { DueWebhook, JobStore } from '../store/job-store.ts'
import type { Logger } from '../../util/logger.ts'
import type { AllowList } from '../../network/allow-list.ts'
import { post } from './delivery.ts'

export interface WebhookOptions {
  hosts: AllowList
  /** At least 32 characters. */
  secret: string
  /** Milliseconds from one try to the next; after the last one the message is given up. */
  delays?: readonly number[]
}

interface WebhooksParts extends WebhookOptions {
  store: Pick<JobStore, 'get' | 'webhooks'>
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
  /** Each look waits for the one before. */
  #looks = Promise.resolve()
  #timer: NodeJS.Timeout | undefined

  constructor (parts: WebhooksParts) {
    this.#parts = parts
    this.#now = parts.now ?? Date.now
  }

  /** Looks for what is due; called when a job has ended. */
  wake (): void {
    this.#looks = this.#looks.then(async () => this.#look())
  }

  async #look (): Promise<void> {
    if (this.#isStopped) return
    clearTimeout(this.#timer)
    let wait = minute // the clock may be set meanwhile, and the database be free again
    try {
      for (let next = await this.#next(); next !== undefined; next = await this.#next()) this.#begin(next)
      const nextDue = await this.#parts.store.webhooks.nextDue(this.#now())
      if (nextDue !== undefined) wait = Math.min(Math.max(nextDue - this.#now(), second / 10), minute)
    } catch (error) {
      this.#parts.logger.error({ err: error }, 'Webhooks have to wait')
    }
    if (!this.#isStopped) this.#timer = setTimeout(() => this.wake(), wait).unref()
  }

  /** The message that goes next: of the callers with fewest on their way the one who waits longest. */
  async #next (): Promise<{ caller: string, webhook: DueWebhook } | undefined> {
    // What ends while the database is read may still be due there.
    const underWay = new Map(this.#underWay)
    if (underWay.size >= mostAtOnce || this.#isStopped) return undefined
    const { webhooks } = this.#parts.store
    const now = this.#now()
    const count = (what: 'caller' | 'host', value: string) =>
      [...underWay.values()].filter(delivery => delivery[what] === value).length
    const callers = (await webhooks.dueCallers(now))
      .map(caller => ({ caller, running: count('caller', caller) }))
      .filter(({ running }) => running < mostForOne)
      .sort((a, b) => a.running - b.running)
    for (const { caller } of callers) {
      const webhook = (await webhooks.due(caller, now, lookAhead)).find(({ sequence, url }) =>
        !underWay.has(sequence) && count('host', new URL(url).host) < mostToOneHost)
      if (webhook !== undefined && !this.#isStopped) return { caller, webhook }
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

  /** What is not told yet is told after the next start. */
  async stop (): Promise<void> {
    this.#stop.abort()
    await this.#looks
    clearTimeout(this.#timer)
    await Promise.all([...this.#underWay.values()].map(async ({ ended }) => ended))
  }

  get #isStopped (): boolean {
    return this.#stop.signal.aborted
  }

  async #deliver ({ sequence, url, tries, id }: DueWebhook): Promise<void> {
    const job = await this.#parts.store.get(id)
    if (job === undefined) return // deleted meanwhile, and its webhook with it
    const { store: { webhooks }, logger, hosts, secret, delays = standardDelays } = this.#parts
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
        return await this.#persist(about, async () => webhooks.remove(sequence))
      }
      problem = `The answer was ${status}`
      if (status === goneStatus) tries = delays.length
    } catch (error) {
      if (this.#isStopped) return
      problem = (error as Error).message
    }
    const delay = delays[tries]
    logger.warn({ ...about, problem, retry_in: delay },
      delay === undefined ? 'Webhook given up' : 'Webhook not delivered')
    await this.#persist(about, async () => delay === undefined
      ? webhooks.remove(sequence)
      : webhooks.postpone(sequence, this.#now() + delay))
  }

  /** Waits until the state is stored, or the server stops: as the database has it, the message is due at once again. */
  async #persist (about: object, change: () => Promise<void>): Promise<void> {
    while (!this.#isStopped) {
      try {
        return await change()
      } catch (error) {
        this.#parts.logger.error({ ...about, err: error }, 'The state of a webhook cannot be stored')
      }
      // Rejected when the server ends.
      await delayed(minute, undefined, { signal: this.#stop.signal, ref: false }).catch(() => {})
    }
  }
}
