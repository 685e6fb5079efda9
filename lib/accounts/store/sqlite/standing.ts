import { apiError } from '../../../../errors.ts'
import type { Database } from '../../../storage/database.ts'
import { rolePermissions, type AccountRole, type Permission } from '../../../options/permissions.ts'
import type { Actor } from '../store.ts'

/**
 * Requires that an actor may still make its change; see `AccountRecords`. Called in the transaction of the change.
 * @throws SDR_INVALID_TOKEN, SDR_FORBIDDEN
 */
export function requireStanding (database: Database, actor: Actor | undefined, permission?: Permission): void {
  if (actor === undefined) return
  const { id, sessionId = null, keyId = null } = actor
  if (sessionId === null && keyId === null) return // --auth none: there is nothing that could have ended
  const found = database.prepare(`
    SELECT role FROM users WHERE id = $id AND disabled = 0
      AND ($session IS NULL OR EXISTS (
        SELECT 1 FROM sessions WHERE id = $session AND user_id = $id AND expires_at > $now))
      AND ($key IS NULL OR EXISTS (
        SELECT 1 FROM api_keys WHERE id = $key AND user_id = $id AND ifnull(expires_at, $now + 1) > $now))`)
    .get({ id, session: sessionId, key: keyId, now: Date.now() }) as { role: AccountRole } | undefined
  if (found === undefined) throw apiError('SDR_INVALID_TOKEN', 'The session or key of this request has ended.')
  if (permission !== undefined && !rolePermissions[found.role].includes(permission)) {
    throw apiError('SDR_FORBIDDEN',
      `This needs the permission ${permission}, which this account does not have any more.`)
  }
}
