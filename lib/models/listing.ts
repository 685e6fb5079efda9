import { boundedLimit, decodeCursor, encodeCursor, pageOf, type PageQuery } from '../http/paging.ts'
import type { Model } from './model.ts'
import { type ModelType, modelTypes } from './types.ts'

export interface ModelQuery extends PageQuery {
  type?: ModelType
  architecture?: string
  /** Part of the id, name or title, in any case of letters. */
  search?: string
}

export interface ModelPage {
  models: Model[]
  total: number
  next_cursor: string | null
}

const cursorShape = /^(.+)$/s

/** @param models in the order of their ids. @throws an API error when the cursor is not one of ours. */
export function pageOfModels (
  models: readonly Model[], { type, architecture, search, limit, cursor }: ModelQuery
): ModelPage {
  const text = search === undefined ? undefined : search.normalize().toLowerCase()
  const found = models.filter(model =>
    (type === undefined || model.type === type) &&
    (architecture === undefined || model.architecture === architecture) &&
    (text === undefined || textsOf(model).some(value => value?.normalize().toLowerCase().includes(text))))
  const [after] = cursor === undefined ? [] : decodeCursor(cursor, cursorShape)
  const rest = after === undefined ? found : found.filter(({ id }) => id > after)
  const { rows, next_cursor } = pageOf(rest, boundedLimit(limit), ({ id }) => encodeCursor(id))
  return { models: rows, total: found.length, next_cursor }
}

function textsOf ({ id, name, summary }: Model): Array<string | undefined> {
  return [id, name, summary?.metadata?.title]
}

/** Number and size of the models of each type, and how many of them are blocked or damaged. */
export function totalsByType (
  models: readonly Model[]
): Array<{ type: ModelType, count: number, size: number, unusable: number }> {
  const totals = modelTypes.map(type => ({ type, count: 0, size: 0, unusable: 0 }))
  for (const { type, size, blocked, error } of models) {
    const total = totals[modelTypes.indexOf(type)]!
    total.count++
    total.size += size
    if (blocked !== undefined || error !== undefined) total.unusable++
  }
  return totals
}
