import { apiError, unexpected, type ApiError, type ErrorCode } from '../../errors.ts'
import { shortened } from '../util/text.ts'
import type { Capability, EngineInfo } from '../engine/engine.ts'

/** A field has a value that it may not have; in the words of the schema's own errors. */
export function badValue (field: string, expected: string, received: unknown): ApiError {
  return unexpected({ field, expected, received: shorten(received) })
}

/**
 * Refuses what the running engine can't do.
 * @param field what asks for it; undefined when it is the request as a whole.
 * @throws {ApiError} SDR_UNSUPPORTED_FEATURE
 */
export function requireFeature (feature: Capability, engine: EngineInfo, field?: string): void {
  const error = featureError(feature, engine, field)
  if (error !== undefined) throw error
}

/** What `requireFeature` throws, if it does. */
export function featureError (
  feature: Capability, { engine, capabilities }: EngineInfo, field?: string
): ApiError | undefined {
  if (capabilities.includes(feature)) return undefined
  const why = field === undefined ? '' : `, which ${field} needs`
  const advice = engine === 'portable' ? ' The native engine has it; `stable-diffusion-rest doctor` tells of it.' : ''
  return apiError('SDR_UNSUPPORTED_FEATURE', `The ${engine} engine lacks ${feature}${why}.${advice}`, {
    details: { feature, engine, ...(field !== undefined && { field }) }
  })
}

/** Says which field an error is about that was thrown by something that does not know of fields. */
export function aboutField<Result> (field: string, work: () => Result): Result {
  try {
    return work()
  } catch (error) {
    const { code, message, details } = error as ApiError
    if (!code?.startsWith('SDR_')) throw error
    throw apiError(code as ErrorCode, `${field}: ${message}`, {
      details: { field, ...details as object }, cause: error
    })
  }
}

function shorten (value: unknown): string {
  const text = typeof value === 'string' ? value : JSON.stringify(value) ?? String(value)
  return shortened(text)
}
