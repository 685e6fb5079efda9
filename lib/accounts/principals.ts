import {
  accountRoles, permissions, rolePermissions, type AccountRole, type AuthMethod, type Permission
} from '../options/permissions.ts'

/** Who a request acts for and what that one may do. */

export const roles = [...accountRoles, 'guest'] as const
type Role = typeof roles[number]

export const accountSources = ['local', 'unix', 'pam'] as const
/** Where an account lives: here, or in the system, which checks its password. */
export type AccountSource = typeof accountSources[number]

/** The sources whose accounts count under a method: a system account only while that system is asked. */
export function sourcesOf (method: AuthMethod): AccountSource[] {
  return method === 'unix' || method === 'pam' ? ['local', method] : ['local']
}

export interface Principal {
  /** Owns jobs and keys; stays the same when the account is renamed. */
  id: string
  username: string
  role: Role
  permissions: readonly Permission[]
  /** What proved it: `none`, `jwt`, `api-key` or `guest`. */
  via: 'none' | 'jwt' | 'api-key' | 'guest'
  /** Of an account. */
  source?: AccountSource
  /** The session of a token, so that logout ends the right one. */
  sessionId?: string
  keyId?: string
  /** When the key that proved it expires, in milliseconds since 1970; null is never. */
  keyExpiresAt?: number | null
}

/** Whether it is an API key that may do less than its owner. Such a key must not reach what manages the account. */
export function isNarrowKey ({ via, role, permissions: held }: Principal): boolean {
  return via === 'api-key' && rolePermissions[role as AccountRole].some(permission => !held.includes(permission))
}

/** Whether it is an API key that expires. Such a key must not make anything that gives power for longer. */
export function isExpiringKey ({ via, keyExpiresAt }: Principal): boolean {
  return via === 'api-key' && keyExpiresAt !== null
}

/** With `--auth none` every caller is the operator of the machine. */
export const operator: Principal = Object.freeze({
  id: 'operator', username: 'operator', role: 'admin', permissions, via: 'none'
})

/** The principal of a caller without credentials, where guests are let in. */
export function guestPrincipal (allowed: readonly Permission[]): Principal {
  return Object.freeze({ id: 'guest', username: 'guest', role: 'guest', permissions: allowed, via: 'guest' })
}

/** With `jobs:all` a caller sees every job, without it only its own. Undefined means all. */
export function visibleOwner (principal: Principal): string | undefined {
  return principal.permissions.includes('jobs:all') ? undefined : principal.id
}

/** One text for all spellings of a name that a directory may take for the same. */
export function foldedName (username: string): string {
  return username.normalize('NFKC').trim().toLowerCase()
}
