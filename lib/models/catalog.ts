import { EventEmitter } from 'node:events'
import { basename } from 'node:path'
import { apiError } from '../../errors.ts'
import type { ModelFiles } from '../engine/engine.ts'
import { collectModels, compareModels } from './scan/collect.ts'
import { componentsOf } from './components.ts'
import { findModel } from './find-model.ts'
import { checkedPath } from './files/checked-path.ts'
import { type HashOptions, hashFile } from './files/hash.ts'
import { type ModelPage, type ModelQuery, pageOfModels } from './listing.ts'
import { isIndex } from './headers/sharded.ts'
import { type Model, unusableReason } from './model.ts'
import { type ModelRoot, isInside } from './roots.ts'
import { SharedScanCache } from './scan/scan-cache.ts'
import { type ScanProgress, type ScanResult, scanModels } from './scan/scan.ts'
import type { ScanWarning } from './scan/walk.ts'
import { type ModelType, drawingTypes, modelTypes } from './types.ts'
import { FolderWatcher } from './scan/watch.ts'

interface CatalogOptions {
  roots: readonly ModelRoot[]
  /** Keeps what was read between starts; without it, every start reads every header. */
  cacheFile?: string
}

interface ModelDirectory {
  path: string
  name: string
  type: ModelType | null
  models: number
  size: number
  /** False when the folder is missing or can't be read. */
  readable: boolean
  warnings: ScanWarning[]
}

interface RefreshResult {
  models: number
  added: number
  removed: number
  changed: number
  duration_ms: number
  warnings: ScanWarning[]
}

/**
 * The models below the configured folders, known after the first `refresh()`. Synchronous methods answer from memory.
 * Emits `changed` when a refresh found a difference, and `error` when one failed that a change in the folders started.
 */
export class ModelCatalog extends EventEmitter<{ changed: [RefreshResult], error: [unknown] }> {
  readonly #roots: readonly ModelRoot[]
  readonly #cacheFile: string | undefined
  readonly #cache: SharedScanCache
  #models = new Map<string, Model>()
  #scan: ScanResult = { files: [], warnings: [], roots: [], folders: [], headersRead: 0, cacheChanged: false }
  readonly #headers = { cached: 0, read: 0 }
  #version = 0
  #refreshing: Promise<RefreshResult> | undefined
  #watcher: FolderWatcher | undefined

  constructor ({ roots, cacheFile }: CatalogOptions) {
    super()
    this.#roots = roots
    this.#cacheFile = cacheFile
    this.#cache = new SharedScanCache(cacheFile)
  }

  /** Scans the folders. A call during a scan shares it. `progress` counts the headers that must be read. */
  refresh ({ progress }: { progress?: ScanProgress } = {}): Promise<RefreshResult> {
    this.#refreshing ??= this.#refresh(progress).finally(() => { this.#refreshing = undefined })
    return this.#refreshing
  }

  /** A refresh that sees every change before the call; a running one may have passed it. */
  async rescan (): Promise<RefreshResult> {
    await this.#refreshing?.catch(() => {}) // its caller gets the error
    return await this.refresh()
  }

  /** Refreshes after changes in the folders, until `close()`. */
  watch (): void {
    this.#watcher ??= new FolderWatcher(() => {
      this.rescan().catch((error: unknown) => this.emit('error', error))
    })
    this.#followFolders()
  }

  close (): void {
    this.#watcher?.close()
    this.#watcher = undefined
  }

  #followFolders (): void {
    const missing = this.#watcher?.follow(this.#scan.folders) ?? 0
    if (missing === 0) return
    this.#warn(this.#roots[0]?.path ?? '', `${missing} folders can't be watched; changes in them need a refresh. ` +
      'Raise fs.inotify.max_user_watches, or keep fewer folders.')
  }

  #warn (path: string, message: string): void {
    this.#scan.warnings.push({ path, message })
  }

  async #refresh (progress?: ScanProgress): Promise<RefreshResult> {
    const start = performance.now()
    const isFirst = this.#version === 0
    await this.#cache.read()
    const scan = await scanModels(this.#roots, this.#cache.files, progress)
    const models = await collectModels(scan)
    const difference = compareModels(this.#models, models)
    this.#scan = scan
    this.#headers.read += scan.headersRead
    this.#headers.cached += scan.files.length - scan.headersRead
    this.#models = models
    this.#version++
    this.#followFolders()
    if (scan.cacheChanged) await this.#saveCache()
    const duration_ms = Math.round(performance.now() - start)
    const result = { models: models.size, ...difference, duration_ms, warnings: scan.warnings }
    if (isFirst || Object.values(difference).some(count => count > 0)) this.emit('changed', result)
    return result
  }

  async #saveCache (): Promise<void> {
    try {
      await this.#cache.write()
    } catch (error) {
      const { message } = error as Error
      this.#warn(this.#cacheFile!, `The cache of the models can't be written, so starts are slower: ${message}`)
    }
  }

  /** Files and folders that the last scan skipped or could not read. */
  get warnings (): readonly ScanWarning[] {
    return this.#scan.warnings
  }

  /** Headers that all scans so far took from the cache, and that they read. */
  get headers (): Readonly<Record<'cached' | 'read', number>> {
    return this.#headers
  }

  /** A page of models in the order of their ids. @throws an API error when the cursor is not one of ours. */
  list (query: ModelQuery = {}): ModelPage {
    return pageOfModels(this.all(), query)
  }

  /** Changes whenever what is known of a model may have changed. */
  get version (): number {
    return this.#version
  }

  get size (): number {
    return this.#models.size
  }

  get (id: string): Model | undefined {
    return this.#models.get(id)
  }

  /** In the order of their ids. */
  all (): Model[] {
    return [...this.#models.values()]
  }

  /** The model whose file has this real path. */
  at (path: string): Model | undefined {
    return this.all().find(model => model.path === path)
  }

  /** As the options name them. */
  get roots (): readonly ModelRoot[] {
    return this.#roots
  }

  /** Real paths of the roots; null for one that could not be read. */
  get realRoots (): ReadonlyArray<string | null> {
    return this.#scan.roots
  }

  /** The first model of a type, in the order of ids, that is neither blocked nor damaged. */
  firstUsable (type: ModelType): Model | undefined {
    return this.all().find(model => model.type === type && unusableReason(model) === undefined)
  }

  directories (): ModelDirectory[] {
    return this.#roots.map(({ path, type }, index) => {
      const real = this.#scan.roots[index] ?? null
      const files = this.#scan.files.filter(file => file.root === index)
      return {
        path,
        name: basename(path),
        type: type ?? null,
        models: files.length,
        size: sizeOf(files),
        readable: real !== null && this.#scan.folders.includes(real),
        warnings: this.#scan.warnings.filter(warning => warning.path === path || isInside(warning.path, [real]))
      }
    })
  }

  /** A model of any type by its id or name. @throws what `findModel` throws. */
  find (idOrName: string): Model {
    return this.#find(idOrName, modelTypes)
  }

  /**
   * A usable model of one of the types, by default those that draw.
   * @throws API errors: what `findModel` throws, and SDR_UNSUPPORTED_MODEL with the reason.
   */
  resolve (idOrName: string, { types = drawingTypes }: { types?: readonly ModelType[] } = {}): Model {
    const model = this.resolveComponent(idOrName, types)
    requireUsable(model)
    return model
  }

  /** As `resolve`, for one component: a bare diffusion model is accepted. */
  resolveComponent (idOrName: string, types: readonly ModelType[]): Model {
    const model = this.#find(idOrName, types)
    const reason = model.blocked ?? model.error
    // First, because the type of a file that can't be read is a guess.
    if (reason !== undefined) throw unusable(model, reason)
    if (!types.includes(model.type)) {
      throw apiError('SDR_UNSUPPORTED_MODEL', `${model.id} is of type ${model.type}; this needs ${types.join(' or ')}.`)
    }
    return model
  }

  #find (idOrName: string, types: readonly ModelType[]): Model {
    return findModel(this.#models, idOrName, { types, skipped: this.skippedHint })
  }

  /** Is appended to the message that a model is missing; empty when nothing was skipped. */
  get skippedHint (): string {
    return this.#scan.warnings.length === 0 ? '' : ' GET /api/models/directories shows what was skipped, and why.'
  }

  /** Real path of a model's file. @throws what `checkedPath` throws. */
  async path (model: Model): Promise<string> {
    return await checkedPath(model, model.path, this.realRoots)
  }

  /**
   * The files that the engine needs for a model, each checked again.
   * @throws an API error SDR_UNSUPPORTED_MODEL when the model is blocked, damaged, gone or incomplete.
   */
  async files (model: Model): Promise<ModelFiles> {
    requireUsable(model)
    const files = componentsOf(model)
    if (files === undefined) {
      throw apiError('SDR_UNSUPPORTED_MODEL', `${model.id} is of type ${model.type} and can't be loaded by itself.`)
    }
    for (const [name, path] of Object.entries(files)) {
      files[name as keyof ModelFiles] = await checkedPath(model, path, this.realRoots)
    }
    return files
  }

  /**
   * SHA-256 of a model's file, remembered until the file changes.
   * @throws what `hashFile` throws; API errors: SDR_UNSUPPORTED_MODEL for a bundle, SDR_CONFLICT when the
   *   file changed meanwhile.
   */
  async hash (model: Model, options: HashOptions = {}): Promise<string> {
    requireOneFile(model)
    const known = model.sha256 === undefined ? undefined : await this.#cache.current(model.path)
    if (known?.sha256 !== undefined && known.sha256 === model.sha256) return known.sha256
    const sha256 = await hashFile(await this.path(model), options)
    await this.remember(model, sha256)
    return sha256
  }

  /**
   * Keeps the SHA-256 of a model's file.
   * @throws an API error SDR_CONFLICT when the file is not the one that the last scan saw.
   */
  async remember (model: Model, sha256: string): Promise<void> {
    const known = await this.#cache.current(model.path)
    if (known === undefined) {
      throw apiError('SDR_CONFLICT', `The file of ${model.id} changed meanwhile. Refresh the models and ask again.`)
    }
    known.sha256 = sha256
    for (const other of this.#models.values()) if (other.path === model.path) other.sha256 = sha256
    this.#version++
    await this.#saveCache()
  }
}

/** @throws an API error SDR_UNSUPPORTED_MODEL */
export function requireOneFile ({ id, format, path }: Model): void {
  if (format !== 'bundle' && !isIndex(path)) return
  throw apiError('SDR_UNSUPPORTED_MODEL', `${id} is made of several files; name one of them.`)
}

function requireUsable (model: Model): void {
  const reason = unusableReason(model)
  if (reason !== undefined) throw unusable(model, reason)
}

function unusable ({ id }: Model, reason: string): Error {
  return apiError('SDR_UNSUPPORTED_MODEL', `${id} can't be used: ${reason}`)
}

function sizeOf (items: ReadonlyArray<{ size: number }>): number {
  return items.reduce((sum, { size }) => sum + size, 0)
}
