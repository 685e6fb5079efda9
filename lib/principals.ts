/** Who a request acts for and what that one may do. */

export const authMethods = ['none', 'jwt', 'api-key', 'unix', 'pam', 'optional'] as const
export type AuthMethod = typeof authMethods[number]

export const roles = ['admin', 'user', 'guest'] as const
export type Role = typeof roles[number]

/** Roles that an account can be given; `guest` is what a caller without an account is. */
export const accountRoles = ['admin', 'user'] as const
export type AccountRole = typeof accountRoles[number]

export const permissions = [
  'models:read', 'models:manage', 'generate', 'queue:read', 'jobs:all', 'users:manage', 'system:read'
] as const
export type Permission = typeof permissions[number]

export const rolePermissions: Readonly<Record<AccountRole, readonly Permission[]>> = {
  admin: permissions,
  user: ['models:read', 'generate', 'queue:read']
}

export interface Principal {
  /** Owns jobs and keys; stays the same when the account is renamed. */
  id: string
  username: string
  role: Role
  permissions: readonly Permission[]
  /** What proved it: `none`, `jwt`, `api-key` or `guest`. */
  via: 'none' | 'jwt' | 'api-key' | 'guest'
  /** The session of a token, so that logout ends the right one. */
  sessionId?: string
  keyId?: string
}

/** With `--auth none` everybody is the operator of the machine. */
export const operator: Principal = Object.freeze({
  id: 'operator', username: 'operator', role: 'admin', permissions, via: 'none'
})

/** The principal of a caller without credentials, where guests are let in. */
export function guestPrincipal (allowed: readonly Permission[]): Principal {
  return Object.freeze({ id: 'guest', username: 'guest', role: 'guest', permissions: allowed, via: 'guest' })
}

/** `jobs:all` sees every job; everybody else their own. Undefined means all. */
export function visibleOwner (principal: Principal): string | undefined {
  return principal.permissions.includes('jobs:all') ? undefined : principal.id
}
