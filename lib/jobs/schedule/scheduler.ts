import { apiError } from '../../../errors.ts'
import type { Device, LoadOptions, ModelFiles } from '../../engine/engine.ts'
import type { WaitOptions } from './engine-tasks.ts'
import type { JobProgress } from '../job.ts'
import { Lane, laneStates, type LaneParts, type LaneStatus } from './lane.ts'

export interface SchedulerParts extends Omit<LaneParts, 'stop' | 'claim' | 'onChange'> {
  /** At least one; each gets a lane. */
  devices: readonly Device[]
}

/** What the engines do, as if they were one, and what each lane does. */
export interface SchedulerStatus extends Omit<LaneStatus, 'lane' | 'device' | 'residency'> {
  lanes: LaneStatus[]
}

/**
 * Gives the waiting jobs to the lanes: one for each device, one for jobs that need none. A device that cannot be used
 * leaves its jobs to the others.
 */
export class Scheduler {
  readonly #parts: SchedulerParts
  readonly #lanes: readonly Lane[]
  readonly #stop = new AbortController()

  constructor (parts: SchedulerParts) {
    this.#parts = parts
    const shared: LaneParts = {
      ...parts,
      stop: this.#stop.signal,
      claim: async lane => parts.store.claim({
        lane: lane.kind,
        loadedModel: lane.loadedModel,
        others: this.#others(lane).filter(({ isFree }) => isFree).map(({ loadedModel }) => loadedModel)
      }),
      onChange: lane => { for (const other of this.#others(lane)) other.wake() }
    }
    this.#lanes = [...parts.devices, undefined].map(device => new Lane(device, shared))
  }

  /** @param isNeeded whether jobs wait for an engine. */
  status (isNeeded: boolean): SchedulerStatus {
    const lanes = this.#lanes.map(lane => lane.status(isNeeded))
    const engines = lanes.filter(({ lane }) => lane === 'engine')
    const isBlocked = engines.every(({ blocked }) => blocked !== null)
    return {
      state: laneStates.find(state => (state === 'draining' ? lanes : engines).some(lane => lane.state === state))!,
      job: engines.find(({ job }) => job !== null)?.job ?? null,
      loaded_model: engines.find(({ loaded_model: model }) => model !== null)?.loaded_model ?? null,
      blocked: isBlocked ? engines[0]!.blocked : null,
      lanes
    }
  }

  /** Ids of the models that the engines hold. */
  get loadedModels (): string[] {
    return this.#lanes.map(({ loadedModel }) => loadedModel).filter(model => model !== undefined)
  }

  /** Files that the engines hold in memory, and ids of the models that the running jobs are for. */
  get inUse (): { files: string[], models: string[] } {
    return {
      files: this.#lanes.flatMap(({ loadedFiles }) => loadedFiles),
      models: this.#lanes.flatMap(({ run }) => run?.job.model ?? [])
    }
  }

  get isDraining (): boolean {
    return this.#stop.signal.aborted
  }

  start (): void {
    for (const lane of this.#lanes) lane.start()
  }

  /** A job was added. */
  wake (): void {
    for (const lane of this.#lanes) lane.wake()
  }

  /** How far a running job is; null for any other. */
  progressOf (jobId: string): JobProgress | null {
    return this.#laneWith(jobId)?.run?.progress ?? null
  }

  /** Stops a job that runs or is being claimed; its executor ends soon. @returns whether it runs. */
  cancel (jobId: string): boolean {
    return this.#lanes.filter(lane => lane.cancel(jobId)).length > 0
  }

  /**
   * Loads a model between two jobs.
   * @param toLoad what an engine is told, once it is known on which device.
   * @param device the one where it is there already, or that has nothing to lose by it, unless named.
   * @throws {EngineError}
   * @throws {ApiError} SDR_INVALID_REQUEST for a device that there is not, SDR_DRAINING; SDR_UNAVAILABLE when the
   * running job does not end in time: then it is never done
   */
  async load (
    model: string, toLoad: (device: Device) => Promise<{ files: ModelFiles, options: LoadOptions }>, device?: string,
    wait: WaitOptions = {}
  ): Promise<void> {
    const lanes = this.#onDevice(device)
    const lane = lanes.find(({ loadedModel }) => loadedModel === model) ??
      lanes.find(({ isFree, loadedModel }) => isFree && loadedModel === undefined) ??
      lanes.find(({ isFree }) => isFree) ?? lanes[0]!
    await lane.load(model, await toLoad(lane.device!), wait)
  }

  /** Frees the memory of the loaded models between two jobs, of one device or of all; throws as `load` does. */
  async unload (device?: string, { timeout, signal }: WaitOptions = {}): Promise<void> {
    // Where it was not begun when another device refuses it, it must not be done after the answer.
    const refused = new AbortController()
    const wait = { timeout, signal: AbortSignal.any([refused.signal, ...(signal === undefined ? [] : [signal])]) }
    try {
      await Promise.all(this.#onDevice(device).map(async lane => lane.unload(wait)))
    } catch (error) {
      refused.abort()
      throw error
    }
  }

  /**
   * Begins nothing more and waits for the running jobs; after `timeout` milliseconds these go back to the queue, as if
   * they had not been started.
   */
  async drain (timeout: number): Promise<void> {
    this.#stop.abort()
    await Promise.all(this.#lanes.map(async lane => lane.drain(timeout)))
  }

  #others (lane: Lane): Lane[] {
    return this.#lanes.filter(other => other !== lane && other.kind === lane.kind)
  }

  #laneWith (jobId: string): Lane | undefined {
    return this.#lanes.find(({ run }) => run?.job.id === jobId)
  }

  #onDevice (name: string | undefined): Lane[] {
    const engines = this.#lanes.filter(({ kind }) => kind === 'engine')
    const lanes = name === undefined ? engines : engines.filter(({ device }) => device!.name === name)
    if (lanes.length > 0) return lanes
    const names = this.#parts.devices.map(({ name }) => name).join(', ')
    throw apiError('SDR_INVALID_REQUEST', `Expected one of ${names} for device but received ${JSON.stringify(name)}`, {
      details: [{ field: 'device', expected: `one of ${names}`, received: name }]
    })
  }
}
