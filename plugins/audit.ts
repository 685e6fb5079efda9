import fp from 'fastify-plugin'
import { AuditLog, printable } from '../lib/accounts/audit.ts'
import type { AuditEntry } from '../lib/accounts/store/store.ts'

declare module 'fastify' {
  interface FastifyInstance {
    auditLog: AuditLog
    /**
     * Records what a request did; actor and address are the request's own unless the entry says otherwise. A success is
     * on the disk when this is fulfilled. Never rejected.
     */
    audit: (
      request: FastifyRequest, entry: Omit<AuditEntry, 'actor' | 'address' | 'outcome'> & Partial<AuditEntry>
    ) => Promise<void>
  }
}

/** Every login, refusal, key, session and administration event: a line in the log and a row in the audit table. */
export default fp(async (app) => {
  const auditLog = new AuditLog(app.store.audit, app.onRecordError)
  app.decorate('auditLog', auditLog)
  app.addHook('onClose', async () => auditLog.close())
  app.decorate('audit', async (request, entry) => {
    const record = printable<AuditEntry>({
      outcome: 'success', actor: request.principal?.username ?? '', address: request.ip, ...entry
    })
    app.metrics.audited(record.event, record.outcome)
    app.log[record.outcome === 'success' ? 'info' : 'warn']({ ...record, request_id: request.id }, 'audit')
    await auditLog.record(record)
  })
}, { name: 'audit', dependencies: ['store', 'metrics'] })
