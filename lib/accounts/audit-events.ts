export const auditEvents = [
  'login', 'refresh', 'logout', 'access', 'session.end',
  'user.create', 'user.update', 'user.password', 'user.remove',
  'key.create', 'key.revoke',
  'model.pull', 'model.convert', 'model.remove'
] as const
export type AuditEvent = typeof auditEvents[number]

export const auditOutcomes = ['success', 'failure'] as const
export type AuditOutcome = typeof auditOutcomes[number]

/** Only records of one kind push each other out: what administers accounts and models stays apart from all else. */
export const auditKinds = ['administration', 'use', 'failure'] as const
export type AuditKind = typeof auditKinds[number]
