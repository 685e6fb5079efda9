import fp from 'fastify-plugin'
import { printable, type AuditEntry } from '../lib/accounts/audit.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** Records what a request did; actor and address are the request's own unless the entry says otherwise. */
    audit: (
      request: FastifyRequest, entry: Omit<AuditEntry, 'actor' | 'address' | 'outcome'> & Partial<AuditEntry>
    ) => void
  }
}

/** Every login, refusal, key, session and administration event: a line in the log and a row in the audit table. */
export default fp(async (app) => {
  app.decorate('audit', (request, entry) => {
    const record = printable<AuditEntry>({
      outcome: 'success', actor: request.principal?.username ?? '', address: request.ip, ...entry
    })
    app.auditLog.record(record)
    app.metrics.audited(record.event, record.outcome)
    app.log[record.outcome === 'success' ? 'info' : 'warn']({ ...record, request_id: request.id }, 'audit')
  })
}, { name: 'audit', dependencies: ['store', 'metrics'] })
