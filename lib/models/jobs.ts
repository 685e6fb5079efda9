import type { EngineInfo } from '../engine/engine.ts'
import type { Attempt, Executors, Outcome } from '../jobs/executor.ts'
import type { Job, JobProgress, NewJob } from '../jobs/job.ts'
import { type ModelCatalog, requireOneFile } from './catalog.ts'
import { type ConvertRequest, checkConvert, convertModel } from './files/convert.ts'
import { mebibytes } from '../storage/free-space.ts'
import type { Puller, PullRequest } from './pull/pull.ts'
import type { StagingArea } from './files/staging.ts'

type PreparedJob = Pick<NewJob, 'type' | 'model' | 'parameters'>

/** @throws {ApiError} SDR_MODEL_NOT_FOUND, SDR_UNSUPPORTED_MODEL */
export function prepareHash ({ model: wanted }: { model: string }, catalog: ModelCatalog): PreparedJob {
  const model = catalog.find(wanted)
  requireOneFile(model)
  return { type: 'hash', model: model.id, parameters: { model: model.id } }
}

/** @throws what `checkConvert` throws */
export async function prepareConvert (
  request: ConvertRequest, catalog: ModelCatalog, engine: EngineInfo
): Promise<PreparedJob> {
  const { model } = await checkConvert(request, catalog, engine)
  return { type: 'convert', model: model.id, parameters: { ...request, model: model.id } }
}

/** The job has the source in place of its model, which does not exist yet. @throws what `Puller.check` throws */
export async function preparePull (request: PullRequest, puller: Puller): Promise<PreparedJob> {
  const { source } = await puller.check(request)
  return { type: 'pull', model: source.text, parameters: { ...request } }
}

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
        // Without an id when a file in another folder has the same: the directories show it.
        return { result: { model: model?.id ?? null, size, sha256 } }
      },
      /** A cancelled download is not continued later. */
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

/** Milliseconds between two reports. */
const interval = 250

/** Progress in mebibytes, with the remaining time at the speed so far. */
function countBytes (
  phase: JobProgress['phase'], report: (progress: JobProgress) => void
): (done: { bytes: number, total: number | undefined }) => void {
  let first: { at: number, bytes: number } | undefined
  let reportedAt = -Infinity
  return ({ bytes, total }) => {
    const now = performance.now()
    first ??= { at: now, bytes }
    if (now - reportedAt < interval && bytes !== total) return
    reportedAt = now
    const speed = (bytes - first.bytes) / (now - first.at)
    const eta = total === undefined || !(speed > 0) ? null : Math.round((total - bytes) / speed) / 1000
    report({ phase, step: mebibytes(bytes), steps: total === undefined ? 0 : mebibytes(total), eta_seconds: eta })
  }
}
