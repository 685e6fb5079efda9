import { randomBytes, timingSafeEqual } from 'node:crypto'
import { apiError } from '../../errors.ts'
import { rolePermissions, type Permission } from '../options/permissions.ts'
import { chain, type Maybe } from '../util/maybe.ts'
import { quoted } from '../util/text.ts'
import { apiKeyPrefix, type Credential } from './credentials.ts'
import type { Principal } from './principals.ts'
import { sha256 } from './secrets.ts'
import type { Actor, ApiKey, KeyRecords, KnownKey } from './store/store.ts'

/** What the name of a key may be: printable, because it is shown in terminals. */
export const keyNamePattern = '^[^\\p{C}\\p{Zl}\\p{Zp}]{1,64}$'

/** Milliseconds between two writes of a key's last use, so that a busy key does not write at every request. */
const lastUseResolution = 60_000

/** API keys `sdr_<id>_<secret>`. The secret is 256 random bits, so a SHA-256 of it is all that is kept. */
export class ApiKeys {
  readonly #records: KeyRecords

  constructor (records: KeyRecords) {
    this.#records = records
  }

  /**
   * @param by who must still be allowed to when the key is stored
   * @returns the key with its text, which is shown this once.
   * @throws SDR_FORBIDDEN when it would have a permission that its owner lacks; SDR_INVALID_REQUEST; what
   * `KeyRecords.add` throws.
   */
  async create ({ userId, name, permissions, expiresAt }: {
    userId: string, name: string, permissions?: readonly Permission[], expiresAt?: number
  }, by?: Actor): Promise<ApiKey & { key: string }> {
    if (!new RegExp(keyNamePattern, 'u').test(name)) {
      throw apiError('SDR_INVALID_REQUEST',
        `Expected 1 to 64 printable characters for name but received ${quoted(name)}`)
    }
    if (expiresAt !== undefined && !(expiresAt > Date.now())) {
      throw apiError('SDR_INVALID_REQUEST', 'Expected a time in the future for expires_at')
    }
    const id = randomBytes(8).toString('hex')
    const key = `${apiKeyPrefix}${id}_${randomBytes(32).toString('base64url')}`
    const added = await this.#records.add({ id, userId, name, hash: sha256(key), expiresAt }, role => {
      const owned = rolePermissions[role]
      const granted = [...new Set(permissions ?? owned)]
      const excess = granted.filter(permission => !owned.includes(permission))
      if (excess.length === 0) return granted
      throw apiError('SDR_FORBIDDEN',
        `A key cannot have more permissions than its owner; the owner lacks ${excess.join(', ')}.`)
    }, by)
    return { ...added, key }
  }

  /**
   * Who an API key acts for, with the permissions that it and its owner both have now; undefined for another kind of
   * credential.
   * @throws {ApiError} SDR_INVALID_TOKEN
   */
  readonly identify = ({ kind, value }: Credential): Maybe<Principal> | undefined => {
    if (kind !== 'api-key') return undefined
    const [, id] = /^sdr_([0-9a-f]{16})_[\w-]{43}$/.exec(value) ?? []
    return chain(id === undefined ? undefined : this.#records.find(id), found => {
      if (id === undefined || !isValid(found) || !timingSafeEqual(sha256(value), found.hash)) {
        throw apiError('SDR_INVALID_TOKEN', 'The API key is not valid, has expired or was revoked.')
      }
      // A clock that was set back leaves a time that is yet to come.
      if (found.lastUsedAt === null || Math.abs(Date.now() - found.lastUsedAt) > lastUseResolution) {
        this.#records.touch(id)
      }
      return toPrincipal(id, found)
    })
  }

  /** Who a key that was good acts for now; undefined when it is so no longer. */
  principalOf (id: string): Maybe<Principal | undefined> {
    return chain(this.#records.find(id), found => isValid(found) ? toPrincipal(id, found) : undefined)
  }
}

function isValid (key: KnownKey | undefined): key is KnownKey {
  return key !== undefined && (key.expiresAt === null || key.expiresAt > Date.now())
}

function toPrincipal (keyId: string, { user, permissions: granted, expiresAt: keyExpiresAt }: KnownKey): Principal {
  const { id, username, role, source } = user
  const permissions = granted.filter(permission => rolePermissions[role].includes(permission))
  return { id, username, role, source, permissions, via: 'api-key', keyId, keyExpiresAt }
}
