/** The values of options that say who may do what, and what they mean. */

export const authMethods = ['none', 'jwt', 'api-key', 'unix', 'pam', 'optional'] as const
export type AuthMethod = typeof authMethods[number]

/** Roles that an account can be given. */
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
