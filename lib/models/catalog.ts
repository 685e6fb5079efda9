import { EventEmitter } from 'node:events'
import { lstat, realpath } from 'node:fs/promises'
import { basename } from 'node:path'
import { apiError } from '../../errors.ts'
import type { ModelFiles } from '../engine/engine.ts'
import { boundedLimit, decodeCursor, encodeCursor, pageOf, type PageQuery } from '../http/paging.ts'
import { collectModels, compareModels } from './scan/collect.ts'
import { findModel } from './find-model.ts'
import { type HashOptions, hashFile } from './files/hash.ts'
import { type Model, obstacleTo } from './model.ts'
import { loadScanCache, saveScanCache, writtenAt } from './scan/scan-cache.ts'
import {
  type CachedFile, type ScanCache, type ScanProgress, type ScanResult, type ScanRoot, type ScanWarning,
  isInside, scanModels
} from './scan/scan.ts'
import { withFile } from './headers/source.ts'
import { type ModelType, drawingTypes, modelTypes } from './types.ts'
import { FolderWatcher } from './scan/watch.ts'

interface CatalogOptions {
  roots: readonly ScanRoot[]
  /** Where what was read of files is remembered between starts; without it every start reads every header. */
  cacheFile?: string
}

interface ModelQuery extends PageQuery {
  type?: ModelType
  architecture?: string
  /** Part of the id, name or title, in any case of letters. */
  search?: string
}

interface ModelPage {
  models: Model[]
  total: number
  next_cursor: string | null
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

const cursorShape = /^(.+)$/s

/**
 * The models below the configured folders. It knows them after the first `refresh()`; every method that answers
 * without waiting answers from memory. Emits `changed` when a refresh found a difference, and `error` when one that
 * was started by a change in the folders failed.
 */
export class ModelCatalog extends EventEmitter<{ changed: [RefreshResult], error: [unknown] }> {
  readonly #roots: readonly ScanRoot[]
  readonly #cacheFile: string | undefined
  #cache: ScanCache | undefined
  /** When the cache file had been written that was read or written last. */
  #cacheWritten: number | undefined
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
    const firstTime = this.#cache === undefined
    if (this.#cacheFile !== undefined) await this.#learn(this.#cacheFile)
    this.#cache ??= new Map()
    const scan = await scanModels(this.#roots, this.#cache, progress)
    const models = await collectModels(scan)
    const difference = compareModels(this.#models, models)
    this.#scan = scan
    this.#headers.read += scan.headersRead
    this.#headers.cached += scan.files.length - scan.headersRead
    this.#models = models
    this.#version++
    this.#followFolders()
    if (this.#cacheFile !== undefined && scan.cacheChanged) await this.#save(this.#cacheFile)
    const duration_ms = Math.round(performance.now() - start)
    const result = { models: models.size, ...difference, duration_ms, warnings: scan.warnings }
    if (firstTime || Object.values(difference).some(count => count > 0)) this.emit('changed', result)
    return result
  }

  /** Reads the cache file; later, what another process that shares it has found since: a command, or a server. */
  async #learn (cacheFile: string): Promise<void> {
    const written = await writtenAt(cacheFile)
    if (written === this.#cacheWritten) return
    this.#cacheWritten = written
    this.#cache ??= new Map()
    for (const [path, other] of await loadScanCache(cacheFile)) {
      const known = this.#cache.get(path)
      if (known === undefined) this.#cache.set(path, other)
      else if (isSameFile(known, other)) known.sha256 ??= other.sha256
    }
  }

  async #save (cacheFile: string): Promise<void> {
    try {
      await this.#learn(cacheFile)
      await saveScanCache(cacheFile, this.#cache!)
      this.#cacheWritten = await writtenAt(cacheFile)
    } catch (error) {
      const { message } = error as Error
      this.#warn(cacheFile, `The cache of the models can't be written, so starts are slower: ${message}`)
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
  list ({ type, architecture, search, limit, cursor }: ModelQuery = {}): ModelPage {
    const text = search?.toLowerCase()
    const found = [...this.#models.values()].filter(model =>
      (type === undefined || model.type === type) &&
      (architecture === undefined || model.architecture === architecture) &&
      (text === undefined || textsOf(model).some(value => value?.toLowerCase().includes(text))))
    const [after] = cursor === undefined ? [] : decodeCursor(cursor, cursorShape)
    const rest = after === undefined ? found : found.filter(({ id }) => id > after)
    const { rows: models, next_cursor } = pageOf(rest, boundedLimit(limit), ({ id }) => encodeCursor(id))
    return { models, total: found.length, next_cursor }
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
  get roots (): readonly ScanRoot[] {
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

  /** Number and size of the models of each type, and how many of them can't be used. */
  types (): Array<{ type: ModelType, count: number, size: number, unusable: number }> {
    const totals = modelTypes.map(type => ({ type, count: 0, size: 0, unusable: 0 }))
    for (const { type, size, blocked, error } of this.#models.values()) {
      const total = totals[modelTypes.indexOf(type)]!
      total.count++
      total.size += size
      if (blocked !== undefined || error !== undefined) total.unusable++
    }
    return totals
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
    return await this.#checked(model, model.path)
  }

  /**
   * The files that the engine needs for a model, each checked again now.
   * @throws an API error SDR_UNSUPPORTED_MODEL when the model is blocked, damaged, gone, or lacks its other parts.
   */
  async files (model: Model): Promise<ModelFiles> {
    requireUsable(model)
    const files: ModelFiles = {}
    for (const [part, path] of Object.entries(partsOf(model))) {
      files[part as keyof ModelFiles] = await this.#checked(model, path)
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
    const known = this.#cache?.get(model.path)
    if (
      known?.sha256 !== undefined && known.sha256 === model.sha256 && isSameFile(known, await measure(model.path))
    ) return known.sha256
    const sha256 = await hashFile(await this.path(model), options)
    await this.remember(model, sha256)
    return sha256
  }

  /**
   * Keeps the SHA-256 that was found for a model's file.
   * @throws an API error SDR_CONFLICT when the file is not the one that the last scan saw.
   */
  async remember (model: Model, sha256: string): Promise<void> {
    const known = this.#cache?.get(model.path)
    if (known === undefined || !isSameFile(known, await measure(model.path))) {
      throw apiError('SDR_CONFLICT', `The file of ${model.id} changed meanwhile. Refresh the models and ask again.`)
    }
    known.sha256 = sha256
    for (const other of this.#models.values()) if (other.path === model.path) other.sha256 = sha256
    this.#version++
    if (this.#cacheFile !== undefined) await this.#save(this.#cacheFile)
  }

  async #checked (model: Model, path: string): Promise<string> {
    const real = await realpath(path).catch((cause: unknown) => {
      const { code } = cause as NodeJS.ErrnoException
      throw apiError('SDR_UNSUPPORTED_MODEL', `A file of ${model.id} is gone (${code}). Refresh the models.`, { cause })
    })
    if (real !== path || !isInside(real, this.#scan.roots)) {
      throw apiError('SDR_UNSUPPORTED_MODEL',
        `A file of ${model.id} is now a link to another place, which is refused. Refresh the models.`)
    }
    await withFile(real, async () => {}).catch((cause: unknown) => {
      const { code, message } = cause as NodeJS.ErrnoException
      throw apiError('SDR_UNSUPPORTED_MODEL',
        `A file of ${model.id} can't be read (${code ?? message}). Refresh the models.`, { cause })
    })
    return real
  }
}

type Measured = Pick<CachedFile, 'modified' | 'size' | 'inode'>

async function measure (path: string): Promise<Measured> {
  const { mtimeMs: modified, size, ino: inode } = await lstat(path)
  return { modified, size, inode }
}

function isSameFile (a: Measured, b: Measured): boolean {
  return a.modified === b.modified && a.size === b.size && a.inode === b.inode
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

/** The files that a model is loaded from, by the engine's names. @throws when it can't be loaded by itself. */
function partsOf (model: Model): ModelFiles {
  const { id, type, path } = model
  if (model.parts !== undefined) return model.parts
  switch (type) {
    case 'checkpoint': return { model: path }
    case 'upscaler': return { esrgan: path }
    case 'vae': return { vae: path }
    case 'taesd': return { taesd: path }
    case 'controlnet': return { control_net: path }
    case 'clip_vision': return { clip_vision: path }
    default: throw apiError('SDR_UNSUPPORTED_MODEL', `${id} is of type ${type} and can't be loaded by itself.`)
  }
}

function textsOf ({ id, name, summary }: Model): Array<string | undefined> {
  return [id, name, summary?.metadata?.title]
}

function sizeOf (items: ReadonlyArray<{ size: number }>): number {
  return items.reduce((sum, { size }) => sum + size, 0)
}
