import { lstat, realpath, unlink } from 'node:fs/promises'
import { dirname } from 'node:path'
import { apiError } from '../../../errors.ts'
import { syncFolder } from '../../storage/files.ts'
import type { ModelCatalog } from '../catalog.ts'
import { isIndex } from '../headers/sharded.ts'
import type { Model } from '../model.ts'
import { isInside } from '../roots.ts'
import { notWritable } from './target.ts'

const shown = 5

interface InUse {
  /** Real paths. */
  files: readonly string[]
  /** Ids. */
  models: readonly string[]
}

/**
 * Deletes a model: its file, or the link that it is listed by, never the target of that; of a model of several files
 * only the description, because the files may be components of others.
 * @param inUse what engines hold in memory and jobs use.
 * @throws {ApiError} SDR_MODEL_NOT_FOUND; SDR_CONFLICT when it is in use, a component of another model, changed, or in
 *   a folder that can't be written.
 */
export async function removeModel (
  id: string, catalog: ModelCatalog, inUse: InUse = { files: [], models: [] }
): Promise<Model> {
  const model = catalog.get(id)
  if (model === undefined) throw apiError('SDR_MODEL_NOT_FOUND')
  const files = Object.values(model.components ?? [model.path])
  if (inUse.models.includes(id) || files.some(file => inUse.files.includes(file))) {
    throw apiError('SDR_CONFLICT',
      `${id} is in the memory of an engine, or a job works with it. Unload it, or wait for the job.`)
  }
  const bundles = model.link !== undefined
    ? []
    : catalog.all().filter(({ components = {} }) => Object.values(components).includes(model.path))
  if (bundles.length > 0) {
    const names = bundles.slice(0, shown).map(({ id }) => id)
    throw apiError('SDR_CONFLICT',
      `${id} is a part of ${names.join(', ')}${bundles.length > shown ? '…' : ''}. Delete that first.`,
      { details: { parts_of: names } })
  }
  const path = model.link ?? model.path
  await checkIsStillThere(model, path, catalog.realRoots)
  await unlink(path).catch(error => { throw notWritable(dirname(path), error) })
  await syncFolder(dirname(path))
  await catalog.rescan()
  return model
}

/** Another file may have taken its name since the scan, or a link the place of its folder. */
async function checkIsStillThere (
  { id, size, modified, format, link }: Model, path: string, roots: ReadonlyArray<string | null>
): Promise<void> {
  const changed = (cause?: unknown) => apiError('SDR_CONFLICT',
    `The file of ${id} changed meanwhile. Refresh the models and look again.`, { cause })
  const folder = await realpath(dirname(path)).catch(cause => { throw changed(cause) })
  const stats = await lstat(path).catch(cause => { throw changed(cause) })
  const isSame = link !== undefined
    ? stats.isSymbolicLink()
    : stats.isFile() && stats.mtimeMs === modified && (format === 'bundle' || isIndex(path) || stats.size === size)
  if (folder !== dirname(path) || !isInside(folder, roots) || !isSame) throw changed()
}
