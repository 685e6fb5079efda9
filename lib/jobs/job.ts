import { createHash } from 'node:crypto'
import { phases, type Progress } from '../engine/engine.ts'

/** The words of a job, as clients see them (design of the HTTP API; times are ISO 8601, UTC). */

export const jobStatuses = ['queued', 'running', 'completed', 'failed', 'cancelled'] as const
export type JobStatus = typeof jobStatuses[number]

/** The jobs that make images: lib/generation/run/drawing.ts does them. */
export const imageTypes = ['txt2img', 'img2img', 'inpaint', 'controlnet', 'upscale'] as const
export type ImageType = typeof imageTypes[number]

/** The jobs on model files: lib/models/jobs.ts does them. */
const modelJobTypes = ['hash', 'convert', 'pull'] as const

/** All jobs. A type that makes no images has an executor (lib/jobs/executor.ts) in plugins/jobs.ts. */
export const jobTypes = [...imageTypes, ...modelJobTypes] as const
export type JobType = typeof jobTypes[number]

interface JobImage {
  index: number
  url: string
  width: number
  height: number
  format: 'png'
  bytes: number
  seed: number
}

/** `error.code` of a failed job: the engine's codes, and those of the steps around it. */
export interface JobError {
  code: string
  message: string
}

/** What a job is busy with: what engines tell, and work on files, in steps of a mebibyte (a tensor in conversions). */
export const jobPhases = [...phases, 'hashing', 'downloading', 'converting'] as const

export interface JobProgress extends Omit<Progress, 'index' | 'phase'> {
  phase: typeof jobPhases[number]
  eta_seconds: number | null
}

export interface Job {
  id: string
  type: JobType
  status: JobStatus
  /** User id of the principal that submitted it. */
  owner: string
  /** Id of the model, `type/relative/path`; of a pull its source. */
  model: string
  /** 1 is next; null when not queued. */
  position: number | null
  /** −10…10, higher runs first. */
  priority: number
  progress: JobProgress | null
  /** Everything needed to repeat it: the request with all defaults and the seed filled in. */
  parameters: Record<string, unknown>
  images: JobImage[]
  /** The id of a new model, the SHA-256 of a file; of an image job `notices` about what had an effect only in part. */
  result: Record<string, unknown> | null
  error: JobError | null
  /** How often it was begun. */
  attempts: number
  created_at: string
  started_at: string | null
  finished_at: string | null
}

export interface NewJob {
  type: JobType
  owner: string
  /** Whose share of the bounds it takes, where that is not its owner: guests are told apart by address. */
  caller?: string
  model: string
  priority?: number
  parameters: Record<string, unknown>
  /** Where the end of the job is to be told; refused unless the operator allows its host. */
  webhookUrl?: string
  /** Makes a retry by the same caller return the first job. At most 255 characters. */
  idempotencyKey?: string
  /** What the caller sent, before defaults were filled in: what an Idempotency-Key stands for, else `parameters`. */
  request?: unknown
}

/** Images that go with a job, by parameter name: `init_image`, `mask`, `control_image`, `ref_images.0`… */
export type Attachments = Record<string, Uint8Array>

export interface JobFilter {
  status?: JobStatus
  /** Only this owner's jobs. */
  owner?: string
  model?: string
  type?: JobType
  /** ISO 8601: accepted then or later, and before. */
  created_after?: string
  created_before?: string
  /** `next_cursor` of the page before. */
  cursor?: string
  /** 1…200, default 50. */
  limit?: number
}

/** Newest first. */
export interface JobPage {
  jobs: Job[]
  /** Null on the last page. */
  next_cursor: string | null
}

/**
 * What a job wants in the memory of an engine: the id of its model, followed by a digest when the job puts the model
 * together of several files.
 */
export function residentOf ({ model, parameters: { components } }: Pick<Job, 'model' | 'parameters'>): string {
  if (components === undefined) return model
  const sorted = Object.entries(components as object).sort(([a], [b]) => a < b ? -1 : 1)
  return `${model}+${createHash('sha256').update(JSON.stringify(sorted)).digest('hex').slice(0, 12)}`
}

/** Whether a name can be the id of a job: that of a UUID. */
export function isJobId (name: string): boolean {
  return /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(name)
}

export function isEnded (status: JobStatus): boolean {
  return status !== 'queued' && status !== 'running'
}

export type JobEventName = 'state' | 'progress' | 'preview' | 'done'

export interface JobEvent {
  /** Increases within a job and over restarts, so that Last-Event-ID keeps its meaning. */
  id: number
  name: JobEventName
  data: unknown
}
