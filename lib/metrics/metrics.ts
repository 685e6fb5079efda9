import { readFileSync, readdirSync } from 'node:fs'
import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { EngineStatus } from '../engine/engine.ts'
import type { JobObserver } from '../jobs/observer.ts'
import type { RecordKind } from '../storage/records.ts'
import { RequestMetrics } from './request-metrics.ts'

/** What is looked up at each scrape. */
interface ServerState {
  queue: () => Promise<{ queued: number, running: number, capacity: number }>
  engines: Array<Pick<EngineStatus, 'state' | 'restarts'> & { device: string }>
  models: Array<{ type: string, count: number }>
  /** Headers of model files that all scans needed. */
  headers: Readonly<Record<'cached' | 'read', number>>
}

/** Seconds. An answer takes milliseconds; long ones are those that wait for a job or follow it. */
const requestTimes = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60]
/** Seconds. */
const stepTimes = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]
/** Seconds; from a warm GPU to a processor that draws all night, and a queue that is full over the weekend. */
const jobTimes = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 6 * 3600, 24 * 3600]

/** The methods that routes have; any other comes from a client that guesses. */
const methods: readonly string[] = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']

/**
 * Everything that is measured, by the names of docs/operations.md. Every label has few values, all of them chosen here:
 * patterns of routes, never URLs; codes, never messages; no names of people, models or keys.
 */
export class Metrics {
  readonly #registry = new Registry()
  readonly #requests = new RequestMetrics(this.#registry, 'sdrest_', requestTimes)
  /** By credential, then by outcome. */
  readonly #decisions = new Map<string, Map<string, number>>()
  readonly #events = this.#counter('audit_events_total',
    'Lines of the audit log, by event (login, access, key.create…) and outcome (success, failure)',
    ['event', 'outcome'])

  readonly #recordsLost = this.#counter('records_lost_total',
    'Records that could not be written and were given up, by record (audit, last_use)', ['record'])

  readonly #jobs = this.#counter('jobs_ended_total', 'Jobs that ended, by type and status', ['type', 'status'])
  readonly #waitTime = this.#histogram('job_wait_seconds',
    'From the acceptance of a job to its last start, by type', jobTimes, ['type'])

  readonly #runTime = this.#histogram('job_run_seconds',
    'From the last start of a job to its end, by type and status', jobTimes, ['type', 'status'])

  readonly #stepTime = this.#histogram('step_seconds', 'One sampling step', stepTimes)
  readonly #loadTime = this.#histogram('model_load_seconds',
    'Loading another model into the engine; its count is that of the swaps', jobTimes)

  /** @param about what this server is, for example its version. @param state is called at each scrape. */
  constructor (about: Record<string, string>, state: () => ServerState) {
    this.#gauge('build_info', 'Always 1; its labels are the version and the authentication method',
      Object.keys(about), gauge => gauge.set(about, 1))
    const decisions = 'What the guard decided, by credential (token, api-key, none) and outcome ' +
      '(allowed, or the error code); nothing with --auth none'
    this.#collected('auth_decisions_total', decisions, ['credential', 'outcome'], add => {
      for (const [credential, outcomes] of this.#decisions) {
        for (const [outcome, count] of outcomes) add({ credential, outcome }, count)
      }
    })
    this.#measureState(state)
    this.#measureProcess()
  }

  get contentType (): string {
    return this.#registry.contentType
  }

  /** @returns all metrics in the text format of Prometheus */
  async text (): Promise<string> {
    return await this.#registry.metrics()
  }

  /** @param route its pattern, undefined for an unknown URL. @param milliseconds until the end of the answer. */
  answered (
    { method, route = 'unknown', status }: { method: string, route?: string, status: number }, milliseconds: number
  ): void {
    this.#requests.answered(methods.includes(method) ? method : 'other', route, status, milliseconds / 1000)
  }

  /** @param outcome `allowed`, or the code of the error. */
  decided (credential: string, outcome: string): void {
    let outcomes = this.#decisions.get(credential)
    if (outcomes === undefined) this.#decisions.set(credential, outcomes = new Map())
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
  }

  audited (event: string, outcome: string): void {
    this.#events.inc({ event, outcome })
  }

  recordsLost (record: RecordKind, count: number): void {
    this.#recordsLost.inc({ record }, count)
  }

  readonly jobs: JobObserver = {
    ended: ({ type, status, created_at: created, started_at: started, finished_at: finished }) => {
      this.#jobs.inc({ type, status })
      if (started === null || finished === null) return
      this.#waitTime.observe({ type }, secondsBetween(created, started))
      this.#runTime.observe({ type, status }, secondsBetween(started, finished))
    },
    loaded: took => this.#loadTime.observe(took),
    stepped: took => this.#stepTime.observe(took)
  }

  #measureState (state: () => ServerState): void {
    this.#gauge('queue_jobs', 'Jobs now, by status (queued, running)', ['status'], async gauge => {
      const { queued, running } = await state().queue()
      gauge.set({ status: 'queued' }, queued)
      gauge.set({ status: 'running' }, running)
    })
    this.#gauge('queue_capacity', 'Jobs that may wait', [], async gauge => gauge.set((await state().queue()).capacity))
    const up = '1 while the engine can work, 0 while it starts or waits to be started again, by device'
    this.#gauge('engine_up', up, ['device'], gauge => {
      for (const { device, state: engine } of state().engines) {
        gauge.set({ device }, Number(engine === 'idle' || engine === 'busy'))
      }
    })
    const restarted = 'How often an engine process had to be started again, by device'
    this.#collected('engine_restarts_total', restarted, ['device'], add => {
      for (const { device, restarts } of state().engines) add({ device }, restarts)
    })
    this.#gauge('models', 'Models found, by type', ['type'], gauge => {
      for (const { type, count } of state().models) gauge.set({ type }, count)
    })
    const needed = 'Headers of model files that scans needed, by source (cached, read)'
    this.#collected('model_headers_total', needed, ['source'], add => {
      for (const [source, count] of Object.entries(state().headers)) add({ source }, count)
    })
  }

  /**
   * The names that every Prometheus client uses. The library's own set keeps an observer of each garbage collection and
   * a histogram of the event loop running, which cost all the time and can't be stopped.
   */
  #measureProcess (): void {
    const registers = [this.#registry]
    const startedAt = Date.now() / 1000 - process.uptime()
    const gauge = (name: string, help: string, value: () => number | undefined) => new Gauge({
      name, help, registers, collect () { this.set(value() ?? NaN) }
    })
    this.#collected('process_cpu_seconds_total', 'Processor time of the server, without the engine', [], add => {
      const { user, system } = process.cpuUsage()
      add({}, (user + system) / 1e6)
    }, '')
    gauge('process_start_time_seconds', 'When the server started, in seconds since 1970', () => startedAt)
    gauge('process_resident_memory_bytes', 'Memory of the server, without the engine', () => process.memoryUsage.rss())
    gauge('nodejs_heap_size_used_bytes', 'JavaScript heap in use', () => process.memoryUsage().heapUsed)
    let last = performance.eventLoopUtilization()
    const loopShare = 'Share of the time since the last scrape in which the event loop worked, 0 to 1'
    gauge('nodejs_eventloop_utilization_ratio', loopShare, () => {
      const now = performance.eventLoopUtilization()
      const { utilization } = performance.eventLoopUtilization(now, last)
      last = now
      return utilization
    })
    if (process.platform !== 'linux') return
    gauge('process_open_fds', 'Open file descriptors', () => readdirSync('/proc/self/fd').length - 1)
    const [, limit] = /^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8')) ?? []
    if (limit !== undefined) gauge('process_max_fds', 'Most file descriptors that may be open', () => Number(limit))
  }

  #counter (name: string, help: string, labelNames: string[]): Counter {
    return new Counter({ name: `sdrest_${name}`, help, labelNames, registers: [this.#registry] })
  }

  #histogram (name: string, help: string, buckets: number[], labelNames: string[] = []): Histogram {
    return new Histogram({ name: `sdrest_${name}`, help, buckets, labelNames, registers: [this.#registry] })
  }

  #gauge (
    name: string, help: string, labelNames: string[], collect: (gauge: Gauge) => void | Promise<void>
  ): void {
    // eslint-disable-next-line no-new -- it registers itself
    new Gauge({
      name: `sdrest_${name}`,
      help,
      labelNames,
      registers: [this.#registry],
      async collect () { await collect(this) }
    })
  }

  /** A counter whose value comes from elsewhere. */
  #collected (
    name: string, help: string, labelNames: string[],
    collect: (add: (labels: Record<string, string>, value: number) => void) => void, prefix = 'sdrest_'
  ): void {
    // eslint-disable-next-line no-new -- it registers itself
    new Counter({
      name: prefix + name,
      help,
      labelNames,
      registers: [this.#registry],
      collect () {
        this.reset()
        collect((labels, value) => this.inc(labels, value))
      }
    })
  }
}

/** The clock may be set back while a job runs. */
function secondsBetween (start: string, end: string): number {
  return Math.max(0, Date.parse(end) - Date.parse(start)) / 1000
}
