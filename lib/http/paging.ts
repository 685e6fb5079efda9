import { apiError, type ApiError } from '../../errors.ts'
import { quoted } from '../util/text.ts'

/** Entries of a page where the request does not say, and the most that it may ask for. */
export const pageSize = { default: 100, maximum: 500 } as const

/** Characters of a cursor. */
export const longestCursor = 2048

export interface PageQuery {
  /** 1…500, default 100. */
  limit?: number
  /** `next_cursor` of the page before. */
  cursor?: string
}

/** Entries of the page that `limit` asks for. */
export function boundedLimit (limit: number = pageSize.default): number {
  return Math.min(Math.max(limit, 1), pageSize.maximum)
}

/** What tells the place of an entry in its list, as one text that clients give back as it is. */
export function encodeCursor (...parts: readonly string[]): string {
  return Buffer.from(parts.join('\n')).toString('base64url')
}

/**
 * The parts of a cursor: what `shape` captures of them, with a line end between two.
 * @throws {ApiError} SDR_INVALID_REQUEST when it is none of that shape.
 */
export function decodeCursor (cursor: string, shape: RegExp): string[] {
  const text = Buffer.from(cursor, 'base64url').toString('utf8')
  const found = shape.exec(text)
  if (found === null || cursor.length > longestCursor || encodeCursor(text) !== cursor) throw wrongCursor(cursor)
  return found.slice(1)
}

/** SDR_INVALID_REQUEST */
function wrongCursor (cursor: string): ApiError {
  const expected = 'the next_cursor of a page of this list'
  const received = quoted(cursor)
  return apiError('SDR_INVALID_REQUEST',
    `Expected ${expected} for cursor but received ${received}; start again without it`,
    { details: [{ field: 'cursor', expected, received }] })
}

/** The page of `rows`, of which one more than `limit` was asked for, to see whether there is a next one. */
export function pageOf<Row> (
  rows: readonly Row[], limit: number, cursorOf: (last: Row) => string
): { rows: Row[], next_cursor: string | null } {
  const page = rows.slice(0, limit)
  return { rows: page, next_cursor: rows.length > limit ? cursorOf(page.at(-1)!) : null }
}
