import type { Engine, Operations, RunOptions } from '../../engine/engine.ts'

/** Which model an engine holds, over its restarts. */
export class LoadedModel {
  readonly #engine: Engine
  readonly #loadedIn: ((seconds: number) => void) | undefined
  #loaded: { id: string, key: string, generation: number, files: string[], since: number } | undefined

  /** @param loadedIn is told how long each load took. */
  constructor (engine: Engine, loadedIn?: (seconds: number) => void) {
    this.#engine = engine
    this.#loadedIn = loadedIn
  }

  /** Undefined when the engine holds none, or its process is gone and the model with it. */
  get id (): string | undefined {
    const { generation, status: { state } } = this.#engine
    const isThere = this.#loaded?.generation === generation && (state === 'idle' || state === 'busy')
    return isThere ? this.#loaded?.id : undefined
  }

  /** Paths of the files that it was loaded from. */
  get files (): string[] {
    return this.id === undefined ? [] : this.#loaded!.files
  }

  /** When it was loaded, in milliseconds since 1970. */
  get since (): number | undefined {
    return this.id === undefined ? undefined : this.#loaded!.since
  }

  /**
   * Does nothing when the engine holds just these files with these options.
   * @throws {EngineError}
   */
  async load (id: string, what: Operations['load']['parameters'], options: RunOptions): Promise<void> {
    const key = JSON.stringify([what.files, what.options])
    if (this.id !== undefined && this.#loaded?.key === key) return
    this.#loaded = undefined
    options.progress?.({ phase: 'loading_model', step: 0, steps: 0, index: 0 })
    const start = performance.now()
    await this.#engine.run('load', what, options)
    this.#loadedIn?.((performance.now() - start) / 1000)
    this.#loaded = { id, key, generation: this.#engine.generation, files: pathsOf(what), since: Date.now() }
  }

  /** @throws {EngineError} */
  async unload (): Promise<void> {
    if (this.id === undefined) return
    this.#loaded = undefined
    await this.#engine.run('unload', {})
  }
}

function pathsOf ({ files, options: { embeddings = [] } }: Operations['load']['parameters']): string[] {
  return [...Object.values(files), ...embeddings.map(({ path }) => path)]
}
