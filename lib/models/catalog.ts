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
import { type Model, obstacleTo } from './model.ts'
import { type ModelRoot, isInside } from './roots.ts'
import { SharedScanCache } from './scan/scan-cache.ts'
import { type ScanProgress, type ScanResult, scanModels } from './scan/scan.ts'
import type { ScanWarning } from './scan/walk.ts'
import { type ModelType, drawingTypes, modelTypes } from './types.ts'
import { FolderWatcher } from './scan/watch.ts'

interface CatalogOptions {
  roots: readonly ModelRoot[]
  /** Where what was read of files is remembered between starts; without it every start reads every header. */
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
 * The models below the configured folders. It knows them after the first `refresh()`; every method that answers
 * without waiting answers from memory. Emits `changed` when a refresh found a difference, and `error` when one that
 * was started by a change in the folders failed.
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

  /**
   * Looks at the folders again. A call while a scan runs shares that scan.
   * @param options.progress is told of the headers that this scan has to read.
   */
  refresh ({ progress }: { progress?: ScanProgress } = {}): Promise<RefreshResult> {
    this.#refreshing ??= this.#refresh(progress).finally(() => { this.#refreshing = undefined })
    return this.#refreshing
  }

  /** A refresh that sees whatever was changed before the call, which one that runs already may have passed. */
  async rescan (): Promise<RefreshResult> {
    await this.#refreshing?.catch(() => {}) // the caller of that one gets its error
    return await this.refresh()
  }

  /** Refreshes by itself when something changes in the folders, until `close()`. */
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

  /** What was skipped or can't be read in the last scan, and why. */
  get warnings (): readonly ScanWarning[] {
    return this.#scan.warnings
  }

  /** Headers that all scans so far needed: how many the cache knew and how many were read. */
  get headers (): Readonly<Record<'cached' | 'read', number>> {
    return this.#headers
  }

  /** A page of models in the order of their ids. @throws an API error when the cursor is not one of ours. */
  list (query: ModelQuery = {}): ModelPage {
    return pageOfModels(this.all(), query)
  }

  /** Another number than before when what is known of any model changed since. */
  get version (): number {
    return this.#version
  }

  get size (): number {
    return this.#models.size
  }

  get (id: string): Model | undefined {
    return this.#models.get(id)
  }

  /** All of them, in the order of their ids. */
  all (): Model[] {
    return [...this.#models.values()]
  }

  /** The model whose file has this real path. */
  at (path: string): Model | undefined {
    return this.all().find(model => model.path === path)
  }

  /** The folders that are searched, as the options name them. */
  get roots (): readonly ModelRoot[] {
    return this.#roots
  }

  /** Their real paths; null for one that could not be read. */
  get realRoots (): ReadonlyArray<string | null> {
    return this.#scan.roots
  }

  /** The first model of a type, in the order of ids, that is neither blocked nor damaged. */
  firstUsable (type: ModelType): Model | undefined {
    for (const model of this.#models.values()) if (model.type === type && obstacleTo(model) === undefined) return model
  }

  /** The configured folders and what was found in each. */
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

  /** The model that a person means by an id or a name, of whatever type. @throws what `findModel` throws. */
  find (idOrName: string): Model {
    return this.#find(idOrName, modelTypes)
  }

  /**
   * The model for a request: one of the types (by default those that draw), and usable.
   * @throws API errors: what `findModel` throws, and SDR_UNSUPPORTED_MODEL with the reason.
   */
  resolve (idOrName: string, { types = drawingTypes }: { types?: readonly ModelType[] } = {}): Model {
    const model = this.resolvePart(idOrName, types)
    requireUsable(model)
    return model
  }

  /** The same for one file of several: a diffusion model alone will do. */
  resolvePart (idOrName: string, types: readonly ModelType[]): Model {
    const model = this.#find(idOrName, types)
    const problem = model.blocked ?? model.error
    // Of a file that can't be read the type is a guess, so this comes first.
    if (problem !== undefined) throw unusable(model, problem)
    if (!types.includes(model.type)) {
      throw apiError('SDR_UNSUPPORTED_MODEL', `${model.id} is of type ${model.type}; this needs ${types.join(' or ')}.`)
    }
    return model
  }

  #find (idOrName: string, types: readonly ModelType[]): Model {
    return findModel(this.#models, idOrName, { types, skipped: this.skippedHint })
  }

  /** Goes behind the message that a model is missing; empty when nothing was skipped. */
  get skippedHint (): string {
    return this.#scan.warnings.length === 0 ? '' : ' GET /api/models/directories shows what was skipped, and why.'
  }

  /**
   * Real path of a model's file, checked again now: since the scan it may have been replaced by a link to anywhere.
   * @throws an API error SDR_UNSUPPORTED_MODEL.
   */
  async path (model: Model): Promise<string> {
    return await checkedPath(model, model.path, this.realRoots)
  }

  /**
   * The files that the engine needs for a model, each checked again now.
   * @throws an API error SDR_UNSUPPORTED_MODEL when the model is blocked, damaged, gone, or lacks its other parts.
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
   * @throws what `hashFile` throws; API errors: SDR_UNSUPPORTED_MODEL for a bundle, which is no single file,
   * SDR_CONFLICT when the file changed meanwhile.
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
   * Keeps the SHA-256 that was found for a model's file.
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
export function requireOneFile ({ id, format }: Model): void {
  if (format === 'bundle') throw apiError('SDR_UNSUPPORTED_MODEL', `${id} is made of several files; name one of them.`)
}

function requireUsable (model: Model): void {
  const obstacle = obstacleTo(model)
  if (obstacle !== undefined) throw unusable(model, obstacle)
}

function unusable ({ id }: Model, obstacle: string): Error {
  return apiError('SDR_UNSUPPORTED_MODEL', `${id} can't be used: ${obstacle}`)
}

function sizeOf (items: ReadonlyArray<{ size: number }>): number {
  return items.reduce((sum, { size }) => sum + size, 0)
}
