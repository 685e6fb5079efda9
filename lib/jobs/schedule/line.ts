/** The order of the waiting jobs, and its one exception: a job for the loaded model may overtake. */

export interface Waiting {
  id: string
  /** Order of submission. */
  sequence: number
  /** The caller whose turn it takes. */
  caller: string
  /** What the engine must hold for it, see `residentOf`. */
  model: string
  priority: number
  /** It was started before and came back through no fault of its own: it goes first within its priority. */
  returned: boolean
  /** How many jobs from behind it were started before it. */
  overtaken: number
}

export interface Choice {
  job: Waiting
  /** Jobs that were due before it; this choice overtakes each once more. */
  passed: Waiting[]
}

/** How many places behind the head a job may be and still overtake; bounds the work of one choice. */
const lookAhead = 100

/**
 * Puts jobs in the order in which they are due: higher priority first; then jobs that came back; then the callers in
 * turn, least recently served first; a caller's own jobs as submitted.
 * @param served when each caller was last served, as a growing number; a caller not in it was never served.
 */
export function inOrder (waiting: Iterable<Waiting>, served: ReadonlyMap<string, number>): Waiting[] {
  const lastServed = new Map(served)
  let service = 0
  for (const past of served.values()) service = Math.max(service, past)
  const order: Waiting[] = []
  const serve = (job: Waiting) => {
    order.push(job)
    lastServed.set(job.caller, ++service)
  }
  const sorted = [...waiting].sort((a, b) =>
    b.priority - a.priority || Number(b.returned) - Number(a.returned) || a.sequence - b.sequence)

  for (let start = 0; start < sorted.length;) {
    const { priority } = sorted[start]!
    const queues = new Map<string, Waiting[]>()
    let end = start
    for (; sorted[end]?.priority === priority; end++) {
      const job = sorted[end]!
      if (job.returned) serve(job)
      else if (queues.has(job.caller)) queues.get(job.caller)!.push(job)
      else queues.set(job.caller, [job])
    }
    const turn = (caller: string) => lastServed.get(caller) ?? 0
    // The sort is stable: callers who were never served keep the order of their first jobs.
    let inTurn = [...queues.keys()].sort((a, b) => turn(a) - turn(b)).map(caller => queues.get(caller)!)
    for (let round = 0; inTurn.length > 0; round++) {
      inTurn = inTurn.filter(queue => round < queue.length)
      for (const queue of inTurn) serve(queue[round]!)
    }
    start = end
  }
  return order
}

/**
 * Takes the first job, or a later one for the loaded model, which saves a swap. The later job may overtake jobs of its
 * priority only while none of them has been overtaken `overtakeLimit` times.
 *
 * Skips a job that another idle engine can run more cheaply: it already holds the model, or is empty while this one
 * would have to evict its own. That engine takes the job now, so skipping it is not overtaking.
 * @param others the models that the other idle engines hold, undefined for an empty one.
 */
export function choose (
  order: readonly Waiting[], loadedModel: string | undefined, overtakeLimit: number,
  others: ReadonlyArray<string | undefined> = []
): Choice | undefined {
  const isLeft = ({ model }: Waiting) => model !== loadedModel &&
    (others.includes(model) || (loadedModel !== undefined && others.includes(undefined)))
  const near = order.slice(0, lookAhead).filter(job => !isLeft(job))
  const due = near[0]
  if (due === undefined) return undefined
  const passed: Waiting[] = []
  for (const job of near) {
    if (job.priority !== due.priority) break
    if (job.model === loadedModel) return { job, passed }
    if (job.overtaken >= overtakeLimit) break
    passed.push(job)
  }
  return { job: due, passed: [] }
}

/** The waiting jobs in memory; the store applies each change of the database to it. */
export class Line {
  readonly #overtakeLimit: number
  readonly #waiting = new Map<string, Waiting>()
  readonly #served = new Map<string, number>()
  readonly #perCaller = new Map<string, number>()
  #order: Waiting[] | undefined
  #positions: Map<string, number> | undefined

  constructor (overtakeLimit: number) {
    this.#overtakeLimit = overtakeLimit
  }

  get length (): number {
    return this.#waiting.size
  }

  lengthOf (caller: string): number {
    return this.#perCaller.get(caller) ?? 0
  }

  /** @param lastService when the caller was last served, undefined when never. */
  add (job: Waiting, lastService: number | undefined): void {
    this.#waiting.set(job.id, job)
    this.#perCaller.set(job.caller, this.lengthOf(job.caller) + 1)
    if (lastService !== undefined) this.#served.set(job.caller, lastService)
    this.#changed()
  }

  /** @param service the number of the turn that the job took, undefined when it left without one. */
  remove (id: string, service?: number): void {
    const job = this.#waiting.get(id)
    if (job === undefined) return
    this.#waiting.delete(id)
    const left = this.lengthOf(job.caller) - 1
    if (left > 0) {
      this.#perCaller.set(job.caller, left)
      if (service !== undefined) this.#served.set(job.caller, service)
    } else {
      this.#perCaller.delete(job.caller)
      this.#served.delete(job.caller)
    }
    this.#changed()
  }

  /** See `choose` above. */
  choose (loadedModel: string | undefined, others?: ReadonlyArray<string | undefined>): Choice | undefined {
    return choose(this.#inOrder(), loadedModel, this.#overtakeLimit, others)
  }

  /** @returns 1 for the next job, null for one that does not wait. */
  position (id: string): number | null {
    if (!this.#waiting.has(id)) return null
    this.#positions ??= new Map(this.#inOrder().map((job, index) => [job.id, index + 1]))
    return this.#positions.get(id) ?? null
  }

  #inOrder (): Waiting[] {
    return (this.#order ??= inOrder(this.#waiting.values(), this.#served))
  }

  #changed (): void {
    this.#order = undefined
    this.#positions = undefined
  }
}
