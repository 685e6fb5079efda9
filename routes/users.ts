import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { examplePassword } from '../lib/accounts/passwords.ts'
import { Type } from '../lib/http/type.ts'
import { Id, Located, Named, named, None } from '../lib/http/schemas.ts'
import { NewPassword, User, userExample, Username } from './schemas/accounts.ts'
import { NextCursor, PageQuery } from './schemas/paging.ts'
import { AccountRole } from './schemas/values.ts'

const tags = ['users']
const config = { permission: 'users:manage', needsAccount: true } as const
const changing = { ...config, isLasting: true } as const

const UserPage = named('UserPage', Type.Object({
  users: Type.Array(Named(User)),
  next_cursor: NextCursor
}, { description: 'A page of accounts', examples: [{ users: [userExample], next_cursor: null }] }))

const UserId = Type.Object({ id: Id('Id of the account') })

const routes: FastifyPluginAsyncTypebox = async (app) => {
  app.get('', {
    config,
    schema: {
      operationId: 'listUsers',
      tags,
      summary: 'List the accounts, in the order of their names',
      description: 'Local ones, and those of the operating system that have logged in.',
      querystring: Type.Object(PageQuery, { additionalProperties: false }),
      response: { 200: Named(UserPage) }
    }
  }, async request => app.store.accounts.list(request.query))

  app.post('', {
    config: changing,
    schema: {
      operationId: 'createUser',
      tags,
      summary: 'Make an account',
      description: 'A local one, which logs in with this password. Not with an API key that expires.',
      errors: ['SDR_CONFLICT'],
      body: Type.Object({
        username: Username,
        password: NewPassword,
        role: Type.Optional(AccountRole({ default: 'user' }))
      }, { additionalProperties: false, examples: [{ username: 'alice', password: examplePassword, role: 'user' }] }),
      response: { 201: Located(Named(User, 'The account was made'), 'the account') }
    }
  }, async (request, reply) => {
    const { username, password, role = 'user' } = request.body
    const user = await app.accounts.create({ username, password, role }, request.principal)
    await app.audit(request, { event: 'user.create', subject: username, reason: `role ${role}` })
    return reply.code(201).header('location', `${app.config.basePath ?? ''}/api/users/${user.id}`).send(user)
  })

  app.get('/:id', {
    config,
    schema: {
      operationId: 'getUser',
      tags,
      summary: 'Get an account',
      description: 'Its role, its state and when it last logged in.',
      errors: ['SDR_USER_NOT_FOUND'],
      params: UserId,
      response: { 200: Named(User) }
    }
  }, async request => app.store.accounts.get(request.params.id))

  app.patch('/:id', {
    config: changing,
    schema: {
      operationId: 'updateUser',
      tags,
      summary: 'Change the role of an account, disable it, enable it, or give it a new password',
      description: 'A new password and disabling end the sessions of the account at once, disabling also cancels its ' +
        'jobs. The last administrator stays one. Not with an API key that expires.',
      errors: ['SDR_USER_NOT_FOUND', 'SDR_CONFLICT'],
      params: UserId,
      body: Type.Object({
        role: Type.Optional(AccountRole()),
        disabled: Type.Optional(Type.Boolean()),
        password: Type.Optional(NewPassword)
      }, { additionalProperties: false, minProperties: 1, examples: [{ disabled: true }] }),
      response: { 200: Named(User) }
    }
  }, async request => {
    const user = await app.accounts.update(request.params.id, request.body, request.principal)
    const { password, ...shown } = request.body
    const changes = Object.entries(shown).map(([field, value]) => `${field} ${value}`)
    await app.audit(request, {
      event: 'user.update',
      subject: user.username,
      reason: [...changes, ...(password === undefined ? [] : ['password'])].join(', ')
    })
    if (user.disabled) await app.cancelJobsOfGone()
    return user
  })

  app.delete('/:id', {
    config: changing,
    schema: {
      operationId: 'deleteUser',
      tags,
      summary: 'Remove an account with its sessions and keys',
      description: 'Its waiting and running jobs are cancelled; ended ones and their images stay until they are old ' +
        'enough to go. The last administrator cannot be removed. Not with an API key that expires.',
      errors: ['SDR_USER_NOT_FOUND', 'SDR_CONFLICT'],
      params: UserId,
      response: { 204: None }
    }
  }, async (request, reply) => {
    const { username } = await app.store.accounts.remove(request.params.id, request.principal)
    await app.audit(request, { event: 'user.remove', subject: username })
    await app.cancelJobsOfGone()
    return reply.code(204).send(null)
  })
}

export default routes
