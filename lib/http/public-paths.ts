import { CommandError, exitCodes } from '../../errors.ts'
import { nearest } from '../util/nearest.ts'
import { isAdministration, permissionsOf, type Declaration } from './route-needs.ts'

/** A route, as the decision sees it. Patterns are the router's: `/api/queue/job/:id`. */
export interface RouteFacts {
  method: string
  pattern: string
  declaration: Declaration
  /** The declaration in words, as `needOf` writes it. */
  need: string
}

interface Entry {
  text: string
  opens: boolean
  /** Undefined is every method. */
  method: string | undefined
  segments: string[]
}

const methods = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE']

/**
 * Which routes are public: the ones whose schema says so, merged with `--public-paths`. The decision is made here, once
 * for each route on the route's own pattern, so no spelling of a URL can change it.
 * @returns the keys (see `routeKey`) of the public routes, and warnings for the start-up log.
 * @throws {CommandError} (usage) naming an entry that is malformed or matches no route, with the nearest route.
 */
export function resolvePublicRoutes (
  routes: readonly RouteFacts[], entries: readonly string[]
): { open: Set<string>, warnings: string[] } {
  const known = routes.filter(route => methods.includes(route.method))
  const open = new Set(known.filter(route => route.declaration.public === true).map(routeKey))
  const warnings: string[] = []
  // An entry that closes wins over any that opens, in whatever order they stand.
  for (const entry of entries.map(parseEntry).sort((a, b) => Number(b.opens) - Number(a.opens))) {
    const matched = known.filter(route => matches(entry, route))
    if (matched.length === 0) {
      throw refuse(entry.text, `matches no ${entry.method ?? ''} route${suggestion(entry, known)}`.replace('  ', ' '))
    }
    if (entry.opens) {
      const opened = matched.filter(route => canOpen(entry, route))
      if (opened.length === 0) {
        throw refuse(entry.text, 'names account, key or administration routes, which cannot be public')
      }
      for (const route of opened) open.add(routeKey(route))
      warnings.push(...warningsOf(entry, opened))
    } else {
      // Login and refresh carry their credentials in the body: closed to callers without any, they would be useless.
      const closed = matched.filter(({ declaration }) => declaration.carriesCredentials !== true)
      if (closed.length === 0) {
        throw refuse(entry.text, 'names routes that carry their own credentials, which cannot be closed')
      }
      for (const route of closed) open.delete(routeKey(route))
    }
  }
  return { open, warnings }
}

/** Accounts, keys and sessions never; administration only by an entry that names it: `/` and `/api` are too broad. */
function canOpen (entry: Entry, { pattern, declaration }: RouteFacts): boolean {
  if (declaration.needsAccount === true || declaration.neverPublic === true) return false
  return !isAdministration(declaration) || entry.segments.length > 1 ||
    pattern.split('/').length - 1 === entry.segments.length
}

function warningsOf ({ text, method, segments }: Entry, opened: readonly RouteFacts[]): string[] {
  const option = `--public-paths ${JSON.stringify(text)}`
  if (segments.length === 0) {
    const what = method === undefined ? 'every method of every route' : `every ${method} route`
    const warning = `${option} opens ${what} except account, key and administration routes`
    const isForDrawing = opened.some(({ declaration }) => permissionsOf(declaration).includes('generate'))
    return [isForDrawing
      ? `${warning}: without credentials, callers can draw images, and see and cancel the jobs of all such callers`
      : warning]
  }
  const administration = opened.filter(({ declaration }) => isAdministration(declaration))
    .map(route => readablePattern(routeKey(route)))
  return administration.length === 0
    ? []
    : [`${option} lets callers without credentials administer the server: ${administration.join(', ')}`]
}

/** Whether a request is for one of the public routes. An unknown URL is no route, and never public. */
export function isPublic (
  publicRoutes: ReadonlySet<string>,
  { method, routeOptions: { url } }: { method: string, routeOptions: { url?: string } }
): boolean {
  return url !== undefined && publicRoutes.has(routeKey({ method, pattern: url }))
}

/** HEAD follows GET. */
export function routeKey ({ method, pattern }: { method: string, pattern: string }): string {
  return `${method === 'HEAD' ? 'GET' : method} ${pattern}`
}

function parseEntry (text: string): Entry {
  const [, bang = '', named, path = ''] = /^(!?)(?:([A-Z]+):)?(.*)$/s.exec(text) ?? []
  if (named !== undefined && !methods.includes(named)) {
    throw refuse(text, `has an unknown method; use one of ${methods.join(', ')} (HEAD follows GET)`)
  }
  if (!path.startsWith('/')) throw refuse(text, `must begin with "/"${path === '' ? '' : `: "/${path}"`}`)
  const forbidden = /\.\.|[?#*\\%;\s]|[^\x21-\x7e]/.exec(path)
  if (forbidden !== null) {
    throw refuse(text, `must not contain ${JSON.stringify(forbidden[0])}; it is a path, not a URL or a pattern`)
  }
  const segments = path.replace(/\/$/, '').split('/').slice(1)
  if (segments.includes('')) throw refuse(text, 'has an empty segment ("//")')
  const opens = bang === ''
  // What closes, closes whole; what opens, opens for reading. Only "/" opens everything, as it says.
  const method = named ?? (opens && segments.length > 0 ? 'GET' : undefined)
  return { text, opens, method, segments }
}

/** Whether the route is the entry's path or lies below it, segment by segment; `{…}` stands for a parameter. */
function matches (entry: Entry, route: RouteFacts): boolean {
  if (entry.method !== undefined && entry.method !== route.method) return false
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
  const sameMethod = routes.filter(route => entry.method === undefined || route.method === entry.method)
    .map(route => readablePattern(route.pattern))
  const otherMethod = routes.find(route => matches({ ...entry, method: route.method }, route))
  if (otherMethod !== undefined) {
    return `; did you mean "${otherMethod.method}:${readablePattern(otherMethod.pattern)}"?`
  }
  const guess = nearest(path, sameMethod)
  return guess === undefined ? '' : `; the nearest is "${guess}"`
}

function refuse (text: string, why: string): CommandError {
  return new CommandError(exitCodes.usage, `The entry ${JSON.stringify(text)} of --public-paths ${why}.`)
}
