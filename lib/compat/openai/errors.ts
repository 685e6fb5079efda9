import type { ErrorCode } from '../../../errors.ts'
import type { AnsweredError, ErrorShape } from '../../http/error-answers.ts'

/** What may go well when it is asked again; clients of OpenAI repeat every 408, 409, 429 and 5xx by themselves. */
const passing: readonly ErrorCode[] = [
  'SDR_RATE_LIMITED', 'SDR_QUEUE_FULL', 'SDR_UNAVAILABLE', 'SDR_DRAINING', 'SDR_REQUEST_TIMEOUT'
]

/** Codes that clients of OpenAI know, where they are not our own in small letters. */
const codes: Partial<Record<ErrorCode, string>> = {
  SDR_UNAUTHENTICATED: 'invalid_api_key',
  SDR_INVALID_TOKEN: 'invalid_api_key',
  SDR_TOKEN_EXPIRED: 'invalid_api_key',
  SDR_RATE_LIMITED: 'rate_limit_exceeded'
}

/** Our fields, as they are called in this API. */
const fieldNames: Readonly<Record<string, string>> = { init_image: 'image', ref_images: 'image', batch_count: 'n' }

/** Errors as OpenAI has them: `{error: {message, type, param, code}}`. */
export const openaiErrors: ErrorShape = {
  body: ({ code, status, message, details }) => ({
    error: {
      message: isCallersName(details) ? message : message.replaceAll(/\b(?:init_image|ref_images|batch_count)\b(?:\.\d+)?/g, name => publicName(name)),
      type: typeOf(status),
      param: paramOf(details),
      code: codes[code] ?? code.slice('SDR_'.length).toLowerCase()
    }
  }),
  headers: ({ code }): Record<string, string> => passing.includes(code) ? {} : { 'x-should-retry': 'false' }
}

function typeOf (status: number): string {
  if (status === 401) return 'authentication_error'
  if (status === 403) return 'permission_error'
  if (status === 429) return 'rate_limit_error'
  return status >= 500 ? 'server_error' : 'invalid_request_error'
}

/** The field that an error is about. */
function paramOf (details: AnsweredError['details']): string | null {
  const field = firstOf(details)?.field
  if (typeof field !== 'string') return null
  return isCallersName(details) ? field : publicName(field)
}

/** Whether an error names a field as the caller wrote it, because it is none of this API. */
function isCallersName (details: AnsweredError['details']): boolean {
  return firstOf(details)?.isCallersName === true
}

function firstOf (details: AnsweredError['details']): { field?: unknown, isCallersName?: unknown } | undefined {
  return ([details].flat() as Array<{ field?: unknown, isCallersName?: unknown } | undefined>)[0]
}

function publicName (field: string): string {
  return fieldNames[field.split('.', 1)[0]!] ?? field
}
