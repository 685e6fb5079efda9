import { longestCursor, pageSize } from '../../lib/http/paging.ts'
import { Nullable } from '../../lib/http/schemas.ts'
import { Type } from '../../lib/http/type.ts'

/** What the query of a list has beside its filters. */
export const PageQuery = {
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: pageSize.maximum, default: pageSize.default })),
  cursor: Type.Optional(Type.String({ maxLength: longestCursor, description: 'next_cursor of the page before' }))
}

export const NextCursor = Nullable(Type.String({
  description: 'For the cursor of the next request; null on the last page'
}))
