import { EngineError } from '../engine/engine.ts'
import { NetworkError } from '../network/network-error.ts'
import { isStorageFull } from '../storage/storage-errors.ts'
import type { JobError } from './job.ts'

/** The engine died of the job, or hung: one more attempt tells whether it was the job. */
export function isCrash (error: unknown): error is EngineError {
  return error instanceof EngineError && (error.code === 'engine_crashed' || error.code === 'engine_timeout')
}

/** No job can be done at the moment, so this one is not to blame. */
export function isUnavailable (error: unknown): boolean {
  return error instanceof EngineError && (error.code === 'engine_unavailable' || error.code === 'engine_busy')
}

/** A text of the system or of an engine, with the names of files but not where they lie. */
function withoutFolders (text: string): string {
  return text.replace(/(?<![\w/.])(?:\/[^\s/'"]+)+\/(?=[^\s/'"])/g, '')
    .replace(/(?<!\w)[a-z]:\\(?:[^\s\\'"]+\\)*/gi, '')
}

/** What a client is told of a failure. Anything can be thrown; what is not meant for clients is only logged. */
export function toJobError (error: unknown): JobError {
  if (isStorageFull(error)) {
    return { code: 'storage_full', message: 'There is no room left to store what the job makes.' }
  }
  const { code, message } = Object(error) as { code?: unknown, message: string }
  if (error instanceof EngineError) return { code: error.code, message: withoutFolders(message) }
  if (error instanceof NetworkError) return { code: 'download_failed', message: withoutFolders(message) }
  if (typeof code === 'string' && code.startsWith('SDR_')) return { code: code.slice(4).toLowerCase(), message }
  return { code: 'internal', message: 'The server failed to do this job; its log says why.' }
}
