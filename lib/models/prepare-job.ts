import type { EngineInfo } from '../engine/engine.ts'
import type { NewJob } from '../jobs/job.ts'
import { type ModelCatalog, requireOneFile } from './catalog.ts'
import { type ConvertRequest, checkConvert } from './files/convert.ts'
import type { Puller, PullRequest } from './pull/pull.ts'

/** Makes jobs on model files of requests, and refuses what would only fail later. */

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

/** The job names no model, because there is none yet, but where it comes from. @throws what `Puller.check` throws */
export async function preparePull (request: PullRequest, puller: Puller): Promise<PreparedJob> {
  const { source } = await puller.check(request)
  return { type: 'pull', model: source.text, parameters: { ...request } }
}
