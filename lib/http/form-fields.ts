import { unexpected } from '../../errors.ts'

/**
 * The fields of a form in a URL's encoding, for bodies of a few KiB.
 * @throws {ApiError} SDR_INVALID_REQUEST for a field that comes twice
 */
export function readFields (text: string): Record<string, string> {
  const fields = new Map<string, string>()
  for (const [name, value] of new URLSearchParams(text)) {
    if (fields.has(name)) throw unexpected({ field: name.slice(0, 80), expected: 'one value', received: 'several' })
    fields.set(name, value)
  }
  return Object.fromEntries(fields)
}
