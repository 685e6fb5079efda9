import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyRequest } from 'fastify'
import { Type } from '../lib/http/type.ts'
import { apiError } from '../errors.ts'
import { keyNamePattern } from '../lib/accounts/api-keys.ts'
import { permissions } from '../lib/options/permissions.ts'
import { Named, named, None } from '../lib/http/schemas.ts'
import { Key, keyExample, NewKey } from './schemas/accounts.ts'
import { NextCursor, PageQuery } from './schemas/paging.ts'
import { Permission } from './schemas/values.ts'

const tags = ['authentication']
const config = { needsAccount: true } as const

const KeyPage = named('KeyPage', Type.Object({
  keys: Type.Array(Named(Key)),
  next_cursor: NextCursor
}, { description: 'A page of API keys', examples: [{ keys: [keyExample], next_cursor: null }] }))

/** Callers with users:manage may see and revoke every key, others only their own. */
function keysOf ({ principal }: FastifyRequest): string | undefined {
  return principal.permissions.includes('users:manage') ? undefined : principal.id
}

const routes: FastifyPluginAsyncTypebox = async (app) => {
  app.get('', {
    config,
    schema: {
      operationId: 'listKeys',
      tags,
      summary: 'List your API keys; administrators see all',
      description: 'The newest first, without their secrets; expired and revoked ones are gone.',
      querystring: Type.Object(PageQuery, { additionalProperties: false }),
      response: { 200: Named(KeyPage) }
    }
  }, async request => app.store.keys.list({ ...request.query, userId: keysOf(request) }))

  app.post('', {
    config,
    schema: {
      operationId: 'createKey',
      tags,
      summary: 'Make an API key of your account',
      description: 'The key is in this answer and never shown again. It can do no more than its owner.',
      errors: ['SDR_CONFLICT'],
      body: Type.Object({
        name: Type.String({
          maxLength: 64,
          pattern: keyNamePattern,
          description: 'What it is for',
          examples: ['laptop']
        }),
        permissions: Type.Optional(Type.Array(Permission(), {
          maxItems: permissions.length,
          uniqueItems: true,
          description: 'All of the owner when absent'
        })),
        expires_at: Type.Optional(Type.String({
          format: 'date-time',
          maxLength: 40,
          description: 'Never when absent; a key that was made with a key ends with it at the latest'
        }))
      }, { additionalProperties: false, examples: [{ name: 'laptop' }] }),
      response: {
        201: Named(NewKey, 'The key was made')
      }
    }
  }, async (request, reply) => {
    const { id: userId, via, keyExpiresAt: latest = null } = request.principal
    if (via !== 'jwt' && via !== 'api-key') {
      throw apiError('SDR_FORBIDDEN', 'API keys belong to accounts; log in first.')
    }
    const { name, permissions, expires_at: expiry } = request.body
    // A key for an hour must not be able to make itself one for ever.
    const expiresAt = expiry === undefined ? latest ?? undefined : Date.parse(expiry)
    if (latest !== null && expiresAt! > latest) {
      throw apiError('SDR_FORBIDDEN', 'A key that is made with a key ends with it at the latest.')
    }
    const key = await app.keys.create({ userId, name, permissions, expiresAt }, request.principal)
    await app.audit(request, { event: 'key.create', subject: key.id, reason: `${name}: ${key.permissions.join(' ')}` })
    return reply.code(201).send(key)
  })

  app.delete('/:id', {
    config,
    schema: {
      operationId: 'revokeKey',
      tags,
      summary: 'Revoke an API key; it stops working at once',
      description: 'Administrators may revoke the keys of others.',
      errors: ['SDR_KEY_NOT_FOUND'],
      params: Type.Object({
        id: Type.String({
          pattern: '^[0-9a-f]{16}$',
          description: 'Id of the key',
          examples: ['9f86d081884c7d65']
        })
      }),
      response: { 204: None }
    }
  }, async (request, reply) => {
    await app.store.keys.revoke(request.params.id, keysOf(request))
    await app.audit(request, { event: 'key.revoke', subject: request.params.id })
    return reply.code(204).send(null)
  })
}

export default routes
