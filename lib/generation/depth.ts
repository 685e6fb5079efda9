import { badValue } from '../http/refusals.ts'

/** Lists and objects within each other in one field of a request; `loras` has three levels. */
const deepest = 8

/**
 * Refuses fields that are nested so deeply that whatever walks through them could run out of stack.
 * @throws {ApiError} SDR_INVALID_REQUEST naming the field.
 */
export function checkDepth (body: unknown): void {
  if (!isNested(body)) return
  for (const [field, value] of Object.entries(body)) {
    let level = [value as unknown].filter(isNested)
    for (let depth = 1; level.length > 0; depth++) {
      if (depth > deepest) throw badValue(field, `at most ${deepest} lists and objects within each other`, 'more')
      level = level.flatMap(nested => Object.values(nested) as unknown[]).filter(isNested)
    }
  }
}

function isNested (value: unknown): value is object {
  return typeof value === 'object' && value !== null
}
