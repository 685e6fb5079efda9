import { sep } from 'node:path'
import type { ModelType } from './types.ts'

/** A folder that is searched for models. `type` applies to every file in it whose header proves no other type. */
export interface ModelRoot {
  path: string
  type?: ModelType
}

/** Whether a real path lies in one of the roots, or is one. A root that can't be read is null. */
export function isInside (path: string, roots: ReadonlyArray<string | null>): boolean {
  return roots.some(root => root !== null && (path === root || path.startsWith(root.endsWith(sep) ? root : root + sep)))
}
