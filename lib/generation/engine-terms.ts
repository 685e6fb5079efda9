import type { ImageParameters, LoadOptions } from '../engine/engine.ts'
import type { Attachments, Job } from '../jobs/job.ts'
import type { ResolvedJob } from '../jobs/run.ts'
import type { ModelCatalog } from '../models/catalog.ts'
import type { Options } from '../options.ts'

/**
 * Turns a job into what the engine is told: files instead of ids, options of the machine instead of names.
 * @throws {ApiError} SDR_MODEL_NOT_FOUND when the model is gone since the job was accepted.
 */
export async function toEngineTerms (
  job: Job, attachments: Attachments, { catalog, options }: { catalog: ModelCatalog, options: Pick<Options, 'threads' | 'device'> }
): Promise<ResolvedJob> {
  return {
    files: await catalog.files(catalog.resolve(job.model)),
    options: loadOptions(options),
    parameters: job.parameters as unknown as ImageParameters,
    attachments
  }
}

function loadOptions ({ threads, device }: Pick<Options, 'threads' | 'device'>): LoadOptions {
  return { ...(threads > 0 && { threads }), ...(device !== 'auto' && { device }) }
}
