import type { Attempt, Executors, Outcome } from '../jobs/executor.ts'
import type { Job, JobProgress } from '../jobs/job.ts'
import type { ModelCatalog } from './catalog.ts'
import { type ConvertRequest, convertModel } from './files/convert.ts'
import { mebibytes } from '../storage/free-space.ts'
import type { Puller, PullRequest } from './pull/pull.ts'
import type { StagingArea } from './files/staging.ts'

interface ModelJobParts {
  catalog: ModelCatalog
  puller: Puller
  staging: StagingArea
}

/** The jobs on model files: `hash` and `pull` need no engine, `convert` does. */
export function modelExecutors ({ catalog, puller, staging }: ModelJobParts): Executors {
  return {
    hash: {
      lane: 'files',
      async execute ({ model: id }: Job, { signal, progress }: Attempt): Promise<Outcome> {
        const sha256 = await catalog.hash(catalog.find(id), { signal, progress: countBytes('hashing', progress) })
        return { result: { model: id, sha256 } }
      }
    },
    pull: {
      lane: 'files',
      async execute ({ parameters }: Job, { signal, progress }: Attempt): Promise<Outcome> {
        const request = parameters as unknown as PullRequest
        const { path, size, sha256 } = await puller.pull(request, {
          signal,
          progress: countBytes('downloading', progress)
        })
        await catalog.rescan()
        const model = catalog.at(path)
        if (model !== undefined) await catalog.remember(model, sha256)
        // Without an id when a file of the same id lies in another folder: the directories tell of it.
        return { result: { model: model?.id ?? null, size, sha256 } }
      },
      /** Who cancels wants neither the rest nor what has come. */
      async abandon ({ parameters }: Job): Promise<void> {
        await puller.discard(parameters as unknown as PullRequest)
      }
    },
    convert: {
      lane: 'engine',
      async execute ({ parameters }, { signal, progress, device: { engine } }): Promise<Outcome> {
        const request = parameters as unknown as ConvertRequest
        const { path, size } = await convertModel(request, { catalog, engine, staging }, {
          signal,
          progress: ({ step, steps }) => progress({ phase: 'converting', step, steps, eta_seconds: null })
        })
        await catalog.rescan()
        return { result: { model: catalog.at(path)?.id ?? null, size } }
      }
    }
  }
}

/** Milliseconds between two tellings: the file goes on all the same. */
const interval = 250

/** Progress in mebibytes, with the time that the rest takes at the speed so far. */
function countBytes (
  phase: JobProgress['phase'], tell: (progress: JobProgress) => void
): (done: { bytes: number, total: number | undefined }) => void {
  let first: { at: number, bytes: number } | undefined
  let toldAt = -Infinity
  return ({ bytes, total }) => {
    const now = performance.now()
    first ??= { at: now, bytes }
    if (now - toldAt < interval && bytes !== total) return
    toldAt = now
    const speed = (bytes - first.bytes) / (now - first.at)
    const eta = total === undefined || !(speed > 0) ? null : Math.round((total - bytes) / speed) / 1000
    tell({ phase, step: mebibytes(bytes), steps: total === undefined ? 0 : mebibytes(total), eta_seconds: eta })
  }
}
