import { CommandError, exitCodes } from '../errors.ts'
import { nearest } from './nearest.ts'

/** What the decision needs to know of a route. Patterns are the router's: `/api/queue/job/:id`. */
export interface RouteFacts {
  method: string
  pattern: string
  /** Its schema says `public: true`. */
  isFlagged: boolean
  /** Works on the caller's own account, or tells callers of themselves: no entry opens it. */
  neverPublic: boolean
}

interface Entry {
  text: string
  opens: boolean
  method: string
  segments: string[]
}

const methods = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE']

/**
 * Which routes are public: the ones whose schema says so, merged with `--public-paths`. The decision is made here, once
 * for each route on the route's own pattern, so no spelling of a URL can change it.
 * @returns the keys (see `routeKey`) of the public routes, and warnings for the start-up log.
 * @throws {CommandError} (usage) naming an entry that is malformed or matches no route, with the nearest route.
 */
export function resolvePublicRoutes (routes: readonly RouteFacts[], entries: readonly string[]): { open: Set<string>, warnings: string[] } {
  const known = routes.filter(route => route.method !== 'HEAD' && route.method !== 'OPTIONS')
  const open = new Set(known.filter(route => route.isFlagged).map(routeKey))
  const warnings: string[] = []
  // An entry that closes wins over any that opens, in whatever order they stand.
  for (const entry of entries.map(parseEntry).sort((a, b) => Number(b.opens) - Number(a.opens))) {
    const matched = known.filter(route => matches(entry, route))
    if (matched.length === 0) throw refuse(entry.text, `matches no ${entry.method} route${suggestion(entry, known)}`)
    const usable = matched.filter(route => !entry.opens || !route.neverPublic)
    if (usable.length === 0) throw refuse(entry.text, 'names account, key or administration routes, which cannot be public')
    for (const route of usable) {
      if (entry.opens) open.add(routeKey(route))
      else open.delete(routeKey(route))
    }
    if (entry.opens && entry.segments.length === 0) {
      warnings.push(`--public-paths "${entry.text}" opens every ${entry.method} route except account, key and administration routes`)
    }
  }
  return { open, warnings }
}

/** HEAD follows GET. */
export function routeKey ({ method, pattern }: { method: string, pattern: string }): string {
  return `${method === 'HEAD' ? 'GET' : method} ${pattern}`
}

function parseEntry (text: string): Entry {
  const [, bang = '', method = 'GET', path = ''] = /^(!?)(?:([A-Z]+):)?(.*)$/s.exec(text) ?? []
  if (!methods.includes(method)) throw refuse(text, `has an unknown method; use one of ${methods.join(', ')} (HEAD follows GET)`)
  if (!path.startsWith('/')) throw refuse(text, `must begin with "/"${path === '' ? '' : `: "/${path}"`}`)
  const forbidden = /\.\.|[?#*\\%;\s]|[^\x21-\x7e]/.exec(path)
  if (forbidden !== null) throw refuse(text, `must not contain ${JSON.stringify(forbidden[0])}; it is a path, not a URL or a pattern`)
  const segments = path.replace(/\/$/, '').split('/').slice(1)
  if (segments.includes('')) throw refuse(text, 'has an empty segment ("//")')
  return { text, opens: bang === '', method, segments }
}

/** Whether the route is the entry's path or lies below it, segment by segment; `{…}` stands for a parameter. */
function matches (entry: Entry, route: RouteFacts): boolean {
  if (entry.method !== route.method) return false
  const segments = route.pattern.split('/').slice(1)
  return entry.segments.every((segment, index) => {
    const other = segments[index]
    if (other === undefined) return false
    return isParameter(segment) ? other.startsWith(':') || other === '*' : segment === other
  })
}

function isParameter (segment: string): boolean {
  return segment.startsWith('{') && segment.endsWith('}')
}

/** The way people and OpenAPI write a pattern: `/api/queue/job/{id}`. */
export function readablePattern (pattern: string): string {
  return pattern.includes(':') ? pattern.replace(/:(\w+)/g, '{$1}') : pattern
}

function suggestion (entry: Entry, routes: readonly RouteFacts[]): string {
  const path = `/${entry.segments.join('/')}`
  const sameMethod = routes.filter(route => route.method === entry.method).map(route => readablePattern(route.pattern))
  const otherMethod = routes.find(route => matches({ ...entry, method: route.method }, route))
  if (otherMethod !== undefined) return `; did you mean "${otherMethod.method}:${readablePattern(otherMethod.pattern)}"?`
  const guess = nearest(path, sameMethod)
  return guess === undefined ? '' : `; the nearest is "${guess}"`
}

function refuse (text: string, why: string): CommandError {
  return new CommandError(exitCodes.usage, `The entry ${JSON.stringify(text)} of --public-paths ${why}.`)
}
