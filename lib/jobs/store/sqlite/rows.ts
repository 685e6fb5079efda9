import { isoTime } from '../../../util/iso-time.ts'
import type { Job, JobStatus, JobType } from '../../job.ts'
import type { StoredImage } from '../../outputs.ts'

export interface JobRow {
  sequence: number
  id: string
  type: JobType
  status: JobStatus
  owner: string
  caller: string
  model: string
  priority: number
  parameters: string
  input_bytes: number
  attempts: number
  result: string | null
  error_code: string | null
  error_message: string | null
  created_at: number
  started_at: number | null
  finished_at: number | null
  overtaken: number
  returned: number
}

export type ImageRow = Omit<StoredImage, 'file'>

/** @param basePath before the paths of images. */
export function toJob (row: JobRow, images: readonly ImageRow[], position: number | null, basePath: string): Job {
  return {
    id: row.id,
    type: row.type,
    status: row.status,
    owner: row.owner,
    model: row.model,
    position,
    priority: row.priority,
    progress: null,
    parameters: JSON.parse(row.parameters),
    images: images.map(image => ({
      ...image, url: `${basePath}/api/queue/job/${row.id}/images/${image.index}`, format: 'png'
    })),
    result: row.result === null ? null : JSON.parse(row.result),
    error: row.error_code === null ? null : { code: row.error_code, message: row.error_message ?? '' },
    attempts: row.attempts,
    created_at: isoTime(row.created_at),
    started_at: row.started_at === null ? null : isoTime(row.started_at),
    finished_at: row.finished_at === null ? null : isoTime(row.finished_at)
  }
}
