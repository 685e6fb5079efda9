import { capabilityNames } from '../../lib/engine/engine.ts'
import { roles } from '../../lib/accounts/principals.ts'
import { OneOf } from '../../lib/http/schemas.ts'
import { imageTypes, jobStatuses, jobTypes } from '../../lib/jobs/job.ts'
import { modelTypes } from '../../lib/models/types.ts'
import { accountRoles, authMethods, permissions } from '../../lib/options/permissions.ts'

/** Lists of values that have a name in the OpenAPI document. */

const listed = <const Values extends readonly string[]>(title: string, values: Values) =>
  (options: Record<string, unknown> = {}) => OneOf(values, { title, ...options })

export const AccountRole = listed('AccountRole', accountRoles)
export const AuthMethod = listed('AuthMethod', authMethods)
export const Capability = listed('Capability', capabilityNames)
export const ImageType = listed('ImageType', imageTypes)
export const JobStatus = listed('JobStatus', jobStatuses)
export const JobType = listed('JobType', jobTypes)
export const ModelType = listed('ModelType', modelTypes)
export const Permission = listed('Permission', permissions)
export const Role = listed('Role', roles)
