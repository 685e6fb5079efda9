import { Counter, type Metric, type Registry } from 'prom-client'

/** Requests of one method for one route. */
interface Series {
  readonly statuses: Map<number, number>
  /** For each bound the requests that took no longer, but longer than the bound before; the last one has no bound. */
  readonly buckets: number[]
  /** Seconds. */
  sum: number
}

/**
 * Counts requests and times them, in a way that costs a request next to nothing: the classes of prom-client sort, join
 * and look up the labels at each call, which takes as long as finding out who is asking.
 */
export class RequestMetrics {
  readonly #bounds: readonly number[]
  readonly #routes = new Map<string, Map<string, Series>>()

  /** @param prefix of the two names. @param bounds of the histogram, in seconds, ascending. */
  constructor (registry: Registry, prefix: string, bounds: readonly number[]) {
    this.#bounds = bounds
    const requests = this.#eachSeries.bind(this)
    // eslint-disable-next-line no-new -- it registers itself
    new Counter({
      name: `${prefix}http_requests_total`,
      help: 'Requests answered, by method, pattern of the route (`unknown` for any other URL) and status',
      labelNames: ['method', 'route', 'status'],
      registers: [registry],
      collect () {
        this.reset()
        for (const [labels, { statuses }] of requests()) {
          for (const [status, count] of statuses) this.inc({ ...labels, status }, count)
        }
      }
    })
    const name = `${prefix}http_request_duration_seconds`
    const histogram = {
      name,
      help: 'From a request to the end of its answer, by method and route; events and `?wait=` take as long as the job',
      type: 'histogram'
    }
    // A histogram of the library takes one time after the other, and nothing that was counted before.
    registry.registerMetric({
      ...histogram,
      get: async () => ({ ...histogram, values: this.#times(name) })
    } as unknown as Metric)
  }

  /** @param seconds until the end of the answer. */
  answered (method: string, route: string, status: number, seconds: number): void {
    const series = this.#seriesOf(method, route)
    series.statuses.set(status, (series.statuses.get(status) ?? 0) + 1)
    let bucket = 0
    while (bucket < this.#bounds.length && seconds > this.#bounds[bucket]!) bucket++
    series.buckets[bucket]!++
    series.sum += seconds
  }

  #seriesOf (method: string, route: string): Series {
    let methods = this.#routes.get(route)
    if (methods === undefined) this.#routes.set(route, methods = new Map())
    let series = methods.get(method)
    if (series === undefined) {
      methods.set(method, series = {
        statuses: new Map(),
        buckets: Array(this.#bounds.length + 1).fill(0) as number[],
        sum: 0
      })
    }
    return series
  }

  * #eachSeries (): Generator<[{ method: string, route: string }, Series]> {
    for (const [route, methods] of this.#routes) {
      for (const [method, series] of methods) yield [{ method, route }, series]
    }
  }

  #times (name: string): Array<{ metricName: string, labels: Record<string, string | number>, value: number }> {
    return [...this.#eachSeries()].flatMap(([labels, { buckets, sum }]) => {
      let count = 0
      const cumulative = buckets.map((requests, index) => {
        count += requests
        return { metricName: `${name}_bucket`, labels: { le: this.#bounds[index] ?? '+Inf', ...labels }, value: count }
      })
      return [
        ...cumulative,
        { metricName: `${name}_sum`, labels, value: sum },
        { metricName: `${name}_count`, labels, value: count }
      ]
    })
  }
}
