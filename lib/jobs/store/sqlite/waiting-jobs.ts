import type { LaneKind } from '../../executor.ts'
import { residentOf, type JobType } from '../../job.ts'
import { Line, type Choice } from '../../schedule/line.ts'
import type { Claimant } from '../job-store.ts'
import type { JobRow } from './rows.ts'
import type { Statements } from './statements.ts'

/** The order of the waiting jobs, in memory and in step with the database. */
export class WaitingJobs {
  readonly #statements: Statements
  readonly #laneOf: (type: JobType) => LaneKind
  /** Jobs for the engines and those that need none do not wait for each other. */
  readonly #lines: Readonly<Record<LaneKind, Line>>

  constructor (statements: Statements, laneOf: (type: JobType) => LaneKind, overtakeLimit: number) {
    this.#statements = statements
    this.#laneOf = laneOf
    this.#lines = { engine: new Line(overtakeLimit), files: new Line(0) }
    for (const row of statements.waiting.iterate()) this.add(row as unknown as JobRow)
  }

  count (lane: LaneKind): number {
    return this.#lines[lane].length
  }

  /** How many jobs wait in all lanes, of one caller and of all. */
  counts (caller: string): { own: number, all: number } {
    const { engine, files } = this.#lines
    return { own: engine.lengthOf(caller) + files.lengthOf(caller), all: engine.length + files.length }
  }

  position (id: string): number | null {
    return this.#lines.engine.position(id) ?? this.#lines.files.position(id)
  }

  choose ({ lane, loadedModel, others }: Claimant): Choice | undefined {
    return this.#lines[lane].choose(loadedModel, others)
  }

  add (row: JobRow): void {
    const { id, sequence, caller, priority, overtaken } = row
    const model = residentOf({ model: row.model, parameters: JSON.parse(row.parameters) })
    const lane = this.#laneOf(row.type)
    const returned = row.returned !== 0
    const line = this.#lines[lane]
    // The line knows the turn of a caller who has other jobs in it.
    const lastService = line.lengthOf(caller) > 0 ? undefined : this.#lastService(caller, lane)
    line.add({ id, sequence, caller, model, priority, overtaken, returned }, lastService)
  }

  /** @param service the turn that its caller got with it, undefined when it left without one. */
  remove (id: string, service?: number): void {
    for (const line of Object.values(this.#lines)) line.remove(id, service)
  }

  /** When the caller was last served in a lane of this kind: a turn in the other one costs no turn here. */
  #lastService (caller: string, lane: LaneKind): number | undefined {
    for (const turn of this.#statements.turnsOf.iterate({ caller })) {
      const { type, service } = turn as unknown as JobRow & { service: number }
      if (this.#laneOf(type) === lane) return service
    }
    return undefined
  }
}
