import { permissions, rolePermissions, type Permission } from '../options/permissions.ts'

/** What a route says about its callers: `public` in its schema, the rest in its `config`. */
export interface Declaration {
  /** Needs no credentials unless `--public-paths "!…"` closes it; then any valid credentials will do. */
  public?: boolean
  /** A permission that the caller needs; of several, one is enough. */
  permission?: Permission | readonly Permission[]
  /** Works on accounts: never public, never for guests, and without `permission` never with `isNarrowKey`. */
  needsAccount?: boolean
  /** Any valid credentials will do, even a key without permissions. Where guests are let in, they may call it too. */
  anyCaller?: boolean
  /** No entry of `--public-paths` opens it. */
  neverPublic?: boolean
  /** The body proves the caller, so that a stale Authorization header must not stop the request. */
  carriesCredentials?: boolean
}

const flags = ['public', 'needsAccount', 'anyCaller', 'neverPublic', 'carriesCredentials'] as const

/** Each alone decides who may call. */
const deciders = [
  'public',
  'public carriesCredentials',
  'permission',
  'permission neverPublic',
  'permission needsAccount',
  'needsAccount',
  'anyCaller',
  'anyCaller neverPublic'
]

const help = 'Write one of: ' +
  'schema.public (no credentials; with config.carriesCredentials if the body proves the caller), ' +
  'config.permission (with needsAccount if it works on accounts, neverPublic if --public-paths must not open it), ' +
  'config.needsAccount (any account, of itself), ' +
  'config.anyCaller (any valid credentials, and guests where they are let in; ' +
  'with neverPublic if --public-paths must not open it)'

const readMethods = ['GET', 'HEAD', 'OPTIONS']

/** The permissions of which a caller needs one. */
export function permissionsOf ({ permission = [] }: Pick<Declaration, 'permission'>): readonly Permission[] {
  return typeof permission === 'string' ? [permission] : permission
}

/** Whether only administrators have what the route needs. */
export function isAdministration (declaration: Declaration): boolean {
  const needed = permissionsOf(declaration)
  return needed.length > 0 && !needed.some(permission => rolePermissions.user.includes(permission))
}

/**
 * What a route needs, in words that are the same for the same need: `public`, `generate or jobs:all`,
 * `users:manage, needsAccount`.
 * @throws for a route that does not say who may call it, or says what contradicts itself: none is open by omission.
 */
export function needOf (method: string, pattern: string, declaration: Declaration): string {
  const refuse = (why: string) => new Error(`The route ${method} ${pattern} ${why}. ${help}.`)
  const isWrong = flags.find(flag => ![undefined, false, true].includes(declaration[flag]))
  if (isWrong !== undefined) {
    throw refuse(`has ${isWrong}: ${JSON.stringify(declaration[isWrong])}, which is neither true nor false`)
  }

  const needed = permissionsOf(declaration)
  if (declaration.permission !== undefined && (!Array.isArray(needed) || needed.length === 0)) {
    throw refuse('names no permission')
  }
  const unknown = needed.find(permission => !permissions.includes(permission))
  if (unknown !== undefined) {
    throw refuse(`needs ${JSON.stringify(unknown)}, which is not one of the permissions ${permissions.join(', ')}`)
  }
  if (!readMethods.includes(method) && needed.some(permission => permission.endsWith(':read'))) {
    throw refuse(`lets ${needed.join(' or ')} call ${method}: a permission to read must not change anything`)
  }

  const said = [...(needed.length > 0 ? ['permission'] : []), ...flags.filter(flag => declaration[flag] === true)]
  if (said.length === 0) throw refuse('does not say who may call it')
  if (!deciders.some(decider => decider.split(' ').sort().join() === [...said].sort().join())) {
    throw refuse(`says ${said.join(' and ')}, which do not go together`)
  }
  return [...(needed.length > 0 ? [needed.join(' or ')] : []), ...said.filter(word => word !== 'permission')].join(', ')
}
