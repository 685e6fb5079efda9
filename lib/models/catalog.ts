import { EventEmitter } from 'node:events'
import { lstat, realpath } from 'node:fs/promises'
import { basename } from 'node:path'
import { apiError } from '../../errors.ts'
import type { ModelFiles } from '../engine/engine.ts'
import { nearest } from '../nearest.ts'
import { type Part, architectureOf } from './architectures.ts'
import { readBundle } from './bundle.ts'
import { type HashOptions, hashFile } from './hash.ts'
import { ModelFileError } from './header.ts'
import { type FileModel, type Model, failedBundle, modelOfBundle, modelOfFile } from './model.ts'
import { loadScanCache, saveScanCache } from './scan-cache.ts'
import { type ScanCache, type ScanResult, type ScanRoot, type ScanWarning, type ScannedFile, isInside, scanModels } from './scan.ts'
import { type ModelType, drawingTypes, modelTypes } from './types.ts'
import { FolderWatcher } from './watch.ts'

export interface CatalogOptions {
  roots: readonly ScanRoot[]
  /** Where what was read of files is remembered between starts; without it every start reads every header. */
  cacheFile?: string
}

export interface ModelQuery {
  type?: ModelType
  architecture?: string
  /** Part of the id, name or title, in any case of letters. */
  search?: string
  /** 1…500, default 100. */
  limit?: number
  /** `next_cursor` of the page before. */
  cursor?: string
}

export interface ModelPage {
  models: Model[]
  total: number
  next_cursor: string | null
}

export interface ModelDirectory {
  path: string
  name: string
  type: ModelType | null
  models: number
  size: number
  /** False when the folder is missing or can't be read. */
  readable: boolean
  warnings: ScanWarning[]
}

export interface RefreshResult {
  models: number
  added: number
  removed: number
  changed: number
  duration_ms: number
  warnings: ScanWarning[]
}

const pageSize = { default: 100, maximum: 500 } as const
const cursorLength = 2048

/**
 * The models below the configured folders. It knows them after the first `refresh()`; every method that answers
 * without waiting answers from memory. Emits `changed` when a refresh found a difference, and `error` when one that
 * was started by a change in the folders failed.
 */
export class ModelCatalog extends EventEmitter<{ changed: [RefreshResult], error: [unknown] }> {
  readonly #roots: readonly ScanRoot[]
  readonly #cacheFile: string | undefined
  #cache: ScanCache | undefined
  #models = new Map<string, Model>()
  #scan: ScanResult = { files: [], warnings: [], roots: [], folders: [], cacheChanged: false }
  #refreshing: Promise<RefreshResult> | undefined
  #watcher: FolderWatcher | undefined

  constructor ({ roots, cacheFile }: CatalogOptions) {
    super()
    this.#roots = roots
    this.#cacheFile = cacheFile
  }

  /** Looks at the folders again. A call while a scan runs shares that scan. */
  refresh (): Promise<RefreshResult> {
    this.#refreshing ??= this.#refresh().finally(() => { this.#refreshing = undefined })
    return this.#refreshing
  }

  /** Refreshes by itself when something changes in the folders, until `close()`. */
  watch (): void {
    this.#watcher ??= new FolderWatcher(() => {
      // A scan that runs now may have passed the changed folder already, so another one follows it.
      Promise.resolve(this.#refreshing).then(() => this.refresh()).catch((error: unknown) => this.emit('error', error))
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
    this.#warn(this.#roots[0]?.path ?? '', `${missing} folders can't be watched: changes in them are seen after a refresh. ` +
      'Raise fs.inotify.max_user_watches, or keep fewer folders.')
  }

  #warn (path: string, message: string): void {
    this.#scan.warnings.push({ path, message })
  }

  async #refresh (): Promise<RefreshResult> {
    const start = performance.now()
    const firstTime = this.#cache === undefined
    this.#cache ??= this.#cacheFile === undefined ? new Map() : await loadScanCache(this.#cacheFile)
    const scan = await scanModels(this.#roots, this.#cache)
    const models = await collectModels(scan)
    const { added, removed, changed } = compareModels(this.#models, models)
    this.#scan = scan
    this.#models = models
    this.#followFolders()
    if (this.#cacheFile !== undefined && scan.cacheChanged) await this.#save(this.#cacheFile)
    const result = {
      models: models.size, added, removed, changed, duration_ms: Math.round(performance.now() - start), warnings: scan.warnings
    }
    if (firstTime || added + removed + changed > 0) this.emit('changed', result)
    return result
  }

  async #save (cacheFile: string): Promise<void> {
    try {
      await saveScanCache(cacheFile, this.#cache!)
    } catch (error) {
      this.#warn(cacheFile, `The cache of the models can't be written: ${(error as Error).message}. Starts will be slower.`)
    }
  }

  /** What was skipped in the last scan, and why. */
  get warnings (): readonly ScanWarning[] {
    return this.#scan.warnings
  }

  /** A page of models in the order of their ids. @throws an API error when the cursor is not one of ours. */
  list ({ type, architecture, search, limit = pageSize.default, cursor }: ModelQuery = {}): ModelPage {
    const text = search?.toLowerCase()
    const found = [...this.#models.values()].filter(model =>
      (type === undefined || model.type === type) &&
      (architecture === undefined || model.architecture === architecture) &&
      (text === undefined || [model.id, model.name, model.summary?.metadata?.title].some(value => value?.toLowerCase().includes(text))))
    const after = cursor === undefined ? undefined : decodeCursor(cursor)
    const rest = after === undefined ? found : found.filter(({ id }) => id > after)
    const models = rest.slice(0, Math.min(Math.max(limit, 1), pageSize.maximum))
    return { models, total: found.length, next_cursor: rest.length > models.length ? encodeCursor(models.at(-1)!.id) : null }
  }

  get size (): number {
    return this.#models.size
  }

  get (id: string): Model | undefined {
    return this.#models.get(id)
  }

  /** The first model of a type, in the order of ids, that is neither blocked nor damaged. */
  firstUsable (type: ModelType): Model | undefined {
    for (const model of this.#models.values()) if (model.type === type && problemOf(model) === undefined) return model
  }

  /** Number and size of the models of each type, and how many of them can't be used. */
  types (): Array<{ type: ModelType, count: number, size: number, unusable: number }> {
    return modelTypes.map(type => {
      const models = [...this.#models.values()].filter(model => model.type === type)
      return { type, count: models.length, size: sizeOf(models), unusable: models.filter(problemOf).length }
    })
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
        readable: real !== null,
        warnings: this.#scan.warnings.filter(warning => warning.path === path || isInside(warning.path, [real]))
      }
    })
  }

  /**
   * The model that a person means by an id, or by a file name with or without its ending when only one has it.
   * @throws an API error: SDR_MODEL_NOT_FOUND with the nearest ids, SDR_INVALID_REQUEST when several fit.
   */
  find (idOrName: string, types: readonly ModelType[] = modelTypes): Model {
    const exact = this.#models.get(idOrName)
    if (exact !== undefined) return exact
    const models = [...this.#models.values()].filter(({ type }) => types.includes(type))
    const wanted = idOrName.toLowerCase()
    const namings: Array<(model: Model) => boolean> = [
      model => model.name === idOrName || fileName(model) === idOrName,
      model => model.name.toLowerCase() === wanted || fileName(model).toLowerCase() === wanted
    ]
    for (const fits of namings) {
      const found = models.filter(fits)
      if (found.length === 1) return found[0]!
      if (found.length > 1) throw ambiguous(idOrName, found)
    }
    throw notFound(idOrName, models)
  }

  /**
   * The model for a request: found like `find`, of one of the types, and usable.
   * @throws an API error: those of `find`, and SDR_UNSUPPORTED_MODEL with the reason.
   */
  resolve (idOrName: string, { types = drawingTypes }: { types?: readonly ModelType[] } = {}): Model {
    const model = this.find(idOrName, types)
    if (!types.includes(model.type)) {
      throw apiError('SDR_UNSUPPORTED_MODEL', `${model.id} is of type ${model.type}; this needs ${types.join(' or ')}.`)
    }
    const problem = problemOf(model)
    if (problem !== undefined) throw apiError('SDR_UNSUPPORTED_MODEL', `${model.id} can't be used: ${problem}`)
    return model
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
    const problem = problemOf(model)
    if (problem !== undefined) throw apiError('SDR_UNSUPPORTED_MODEL', `${model.id} can't be used: ${problem}`)
    const files: ModelFiles = {}
    for (const [part, path] of Object.entries(partsOf(model))) files[part as keyof ModelFiles] = await this.#checked(model, path)
    return files
  }

  /**
   * SHA-256 of a model's file, remembered until the file changes.
   * @throws what `hashFile` throws; API errors: SDR_UNSUPPORTED_MODEL for a bundle, which is no single file,
   * SDR_CONFLICT when the file changed meanwhile.
   */
  async hash (model: Model, options: HashOptions = {}): Promise<string> {
    if (model.format === 'bundle') throw apiError('SDR_UNSUPPORTED_MODEL', `${model.id} is made of several files; ask for the hash of each.`)
    if (model.sha256 !== undefined) return model.sha256
    const sha256 = await hashFile(await this.path(model), options)
    const { mtimeMs, size } = await lstat(model.path)
    const known = this.#cache?.get(model.path)
    if (known === undefined || mtimeMs !== known.modified || size !== known.size) {
      throw apiError('SDR_CONFLICT', `The file of ${model.id} changed meanwhile. Refresh the models and ask again.`)
    }
    model.sha256 = known.sha256 = sha256
    if (this.#cacheFile !== undefined) await this.#save(this.#cacheFile)
    return sha256
  }

  async #checked (model: Model, path: string): Promise<string> {
    const real = await realpath(path).catch((cause: unknown) => {
      throw apiError('SDR_UNSUPPORTED_MODEL', `A file of ${model.id} is gone (${(cause as NodeJS.ErrnoException).code}). Refresh the models.`, { cause })
    })
    if (real === path && isInside(real, this.#scan.roots)) return real
    throw apiError('SDR_UNSUPPORTED_MODEL', `A file of ${model.id} is now a link to another place, which is refused. Refresh the models.`)
  }
}

async function collectModels (scan: ScanResult): Promise<Map<string, Model>> {
  const entries: Array<FileModel & { file: ScannedFile }> = []
  const byPath = new Map<string, FileModel>()
  for (const file of scan.files.filter(({ format }) => format !== 'bundle')) {
    const model = modelOfFile(file)
    byPath.set(file.path, model)
    entries.push({ ...model, file })
  }
  for (const file of scan.files.filter(({ format }) => format === 'bundle')) {
    entries.push({ ...await collectBundle(file, scan, byPath), file })
  }

  const models = new Map<string, Model>()
  for (const { file, ...model } of entries) {
    const id = [idOf(model.type, file), `${model.type}/${file.relative}`].find(id => !models.has(id))
    if (id !== undefined) models.set(id, { id, ...model })
    else scan.warnings.push({ path: file.path, message: `Another models folder has a file of the same id (${idOf(model.type, file)}): this one is not listed.` })
  }
  return new Map([...models].sort(([a], [b]) => a < b ? -1 : 1))
}

async function collectBundle (
  file: ScannedFile, scan: ScanResult, byPath: ReadonlyMap<string, FileModel>
): Promise<FileModel> {
  try {
    const bundle = await readBundle(file.path, scan.roots)
    return modelOfBundle(file, bundle, path => byPath.get(path))
  } catch (error) {
    if (error instanceof ModelFileError) return failedBundle(file, error.message)
    return failedBundle(file, `The description can't be read (${(error as NodeJS.ErrnoException).code ?? (error as Error).message}).`)
  }
}

/** The folder that gave the type is in the id already, as the type: `Lora/style/a.gguf` is `lora/style/a.gguf`. */
function idOf (type: ModelType, { relative, folderDepth, folderType }: ScannedFile): string {
  return `${type}/${folderType === type ? relative.split('/').slice(folderDepth).join('/') : relative}`
}

/** The files that a model is loaded from, by the engine's names. @throws when it can't be loaded by itself. */
function partsOf (model: Model): ModelFiles {
  const { id, type, path, architecture } = model
  if (model.parts !== undefined) return model.parts
  switch (type) {
    case 'checkpoint': return { model: path }
    case 'diffusion': throw missingParts(id, architectureOf(architecture)?.parts)
    case 'upscaler': return { esrgan: path }
    case 'vae': return { vae: path }
    case 'taesd': return { taesd: path }
    case 'controlnet': return { control_net: path }
    case 'clip_vision': return { clip_vision: path }
    default: throw apiError('SDR_UNSUPPORTED_MODEL', `${id} is of type ${type} and can't be loaded by itself.`)
  }
}

function missingParts (id: string, parts: readonly Part[] | undefined): Error {
  const needed = parts === undefined ? 'text encoders and VAE' : parts.join(', ')
  return apiError('SDR_UNSUPPORTED_MODEL', `${id} holds the diffusion model alone and needs ${needed}. ` +
    'Put a file NAME.model.yaml beside it that names diffusion_model and these parts, and use that as the model.')
}

function problemOf ({ blocked, error }: Model): string | undefined {
  return blocked ?? error
}

function fileName ({ id }: Model): string {
  return id.slice(id.lastIndexOf('/') + 1)
}

const candidatesShown = 10

function ambiguous (name: string, models: readonly Model[]): Error {
  const ids = models.map(({ id }) => id)
  const shown = ids.slice(0, candidatesShown)
  return apiError('SDR_INVALID_REQUEST', `Several models are called ${JSON.stringify(name)}: ${shown.join(', ')}${ids.length > shown.length ? '…' : ''}. Use an id.`,
    { details: { candidates: shown } })
}

function notFound (wanted: string, models: readonly Model[]): Error {
  const byName = nearest(wanted, models.map(({ name }) => name))
  const byId = nearest(wanted, models.map(({ id }) => id))
  const close = models.filter(({ id, name }) => id === byId || name === byName).map(({ id }) => id).slice(0, candidatesShown)
  const hint = close.length === 0 ? 'GET /api/models lists them.' : `Did you mean ${close.join(' or ')}?`
  return apiError('SDR_MODEL_NOT_FOUND', `There is no model ${JSON.stringify(wanted.slice(0, 200))}. ${hint}`, { details: { nearest: close } })
}

function encodeCursor (id: string): string {
  return Buffer.from(id).toString('base64url')
}

function decodeCursor (cursor: string): string {
  const id = Buffer.from(cursor, 'base64url').toString('utf8')
  if (cursor.length <= cursorLength && encodeCursor(id) === cursor) return id
  throw apiError('SDR_INVALID_REQUEST', 'The cursor is not one that this server gave. Start again without it.', { details: { field: 'cursor' } })
}

function sizeOf (items: ReadonlyArray<{ size: number }>): number {
  return items.reduce((sum, { size }) => sum + size, 0)
}

function compareModels (before: ReadonlyMap<string, Model>, after: ReadonlyMap<string, Model>): { added: number, removed: number, changed: number } {
  const kept = [...after].filter(([id]) => before.has(id))
  const changed = kept.filter(([id, model]) => signatureOf(before.get(id)!) !== signatureOf(model)).length
  return { added: after.size - kept.length, removed: before.size - kept.length, changed }
}

function signatureOf ({ size, modified, path, error, blocked }: Model): string {
  return JSON.stringify([size, modified, path, error, blocked])
}
