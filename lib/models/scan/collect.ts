import { readBundle } from '../bundle.ts'
import { Pacer } from '../../util/concurrency.ts'
import { ModelFileError } from '../headers/header.ts'
import { type FileModel, type Model, failedBundle, modelOfBundle, modelOfFile } from '../model.ts'
import { type FoundFiles, type ScannedFile, addWarning } from './walk.ts'
import type { ModelType } from '../types.ts'

interface Entry {
  file: ScannedFile
  model: FileModel
}

/** The models of a scan by id, in the order of ids. Adds a warning for files that get no id. */
export async function collectModels (scan: FoundFiles): Promise<Map<string, Model>> {
  const files: Entry[] = []
  const bundles: Entry[] = []
  for (const file of scan.files) if (file.format !== 'bundle') files.push({ file, model: modelOfFile(file) })
  const byPath = new Map(files.map(({ file, model }) => [file.path, model]))
  for (const file of scan.files) {
    if (file.format === 'bundle') bundles.push({ file, model: await modelOfDescription(file, scan, byPath) })
  }

  const models = new Map<string, Model>()
  const seen = new Set<string>()
  const pacer = new Pacer()
  for (const { file, model } of [...files, ...bundles]) {
    if (models.size % 512 === 0) await pacer.pause()
    // Snapshots of a hub cache are folders of links that lead to the same files.
    const key = `${file.path}\0${model.type}\0${model.name}`
    if (seen.has(key)) continue
    seen.add(key)
    const id = idsOf(model.type, file).find(id => !models.has(id))
    if (id !== undefined) models.set(id, Object.assign(model, { id }))
    else addWarning(scan.warnings, file.path, 'Not listed: a file in another root has the same id.')
  }
  return new Map([...models.keys()].sort().map(id => [id, models.get(id)!]))
}

async function modelOfDescription (
  file: ScannedFile, { roots }: FoundFiles, byPath: ReadonlyMap<string, FileModel>
): Promise<FileModel> {
  try {
    return modelOfBundle(file, await readBundle(file.path, roots), path => byPath.get(path))
  } catch (error) {
    if (error instanceof ModelFileError) return failedBundle(file, error.message)
    const { code, message } = error as NodeJS.ErrnoException
    return failedBundle(file, `The description can't be read (${code ?? message}).`)
  }
}

/**
 * Ids that a file may get, the best one first. The type replaces the folder that it came from: `Lora/style/a.gguf` is
 * `lora/style/a.gguf`, unless a second folder of that type has the same file.
 */
function idsOf (type: ModelType, { relative, folderDepth, folderType }: ScannedFile): string[] {
  const whole = `${type}/${relative}`
  return folderType === type ? [`${type}/${relative.split('/').slice(folderDepth).join('/')}`, whole] : [whole]
}

/** The numbers of models that differ between two scans. */
export function compareModels (before: ReadonlyMap<string, Model>, after: ReadonlyMap<string, Model>) {
  let kept = 0
  let changed = 0
  for (const [id, model] of after) {
    const old = before.get(id)
    if (old === undefined) continue
    kept++
    if (!isSame(old, model)) changed++
  }
  return { added: after.size - kept, removed: before.size - kept, changed }
}

function isSame (a: Model, b: Model): boolean {
  return (['size', 'modified', 'path', 'error', 'blocked'] as const).every(key => a[key] === b[key])
}
