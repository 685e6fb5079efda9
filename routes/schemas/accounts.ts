import { passwordLength } from '../../lib/accounts/passwords.ts'
import { usernamePattern } from '../../lib/accounts/accounts.ts'
import { rolePermissions } from '../../lib/options/permissions.ts'
import { exampleId, exampleTime, Named, named, Nullable, OneOf, Time } from '../../lib/http/schemas.ts'
import { Type, type Static } from '../../lib/http/type.ts'
import { AccountRole, Permission, Role } from './values.ts'

const Permissions = Type.Unsafe<ReadonlyArray<Static<ReturnType<typeof Permission>>>>(Type.Array(Permission()))

const Principal = {
  id: Type.String(),
  username: Type.String(),
  permissions: Permissions
}

const alice = { id: exampleId, username: 'alice', permissions: rolePermissions.user }

export const userExample = {
  id: exampleId,
  username: 'alice',
  source: 'local',
  role: 'user',
  disabled: false,
  created_at: exampleTime,
  last_login_at: null
}

export const keyExample = {
  id: '9f86d081884c7d65',
  name: 'laptop',
  user_id: exampleId,
  username: 'alice',
  permissions: rolePermissions.user,
  created_at: exampleTime,
  expires_at: null,
  last_used_at: null
}

const sessionExample = {
  id: exampleId,
  address: '192.0.2.7',
  user_agent: 'Mozilla/5.0',
  current: true,
  created_at: exampleTime,
  last_used_at: exampleTime,
  expires_at: '2026-08-31T12:00:00.000Z'
}

export const Login = named('Login', Type.Object({
  token: Type.String({ description: 'Access token: Authorization: Bearer <token>' }),
  token_type: Type.Literal('Bearer'),
  expires_at: Time('When the access token expires'),
  refresh_token: Type.String({ description: 'Good for one POST /api/auth/refresh' }),
  user: Type.Object({ ...Principal, role: AccountRole() })
}, {
  description: 'A session: an access token and the refresh token that gets the next one',
  examples: [{
    token: 'eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9…',
    token_type: 'Bearer',
    expires_at: exampleTime,
    refresh_token: 'sdrr_0Rz5…',
    user: { ...alice, role: 'user' }
  }]
}))

export const Token = named('Token', Type.Object({
  access_token: Type.String({ description: 'Authorization: Bearer <access_token>' }),
  token_type: Type.Literal('Bearer'),
  expires_in: Type.Integer({ description: 'Seconds that the access token has left' }),
  refresh_token: Type.String({ description: 'Good for one grant_type=refresh_token' })
}, {
  description: 'The same as Login, in the words of OAuth 2.0',
  examples: [{
    access_token: 'eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9…',
    token_type: 'Bearer',
    expires_in: 3600,
    refresh_token: 'sdrr_0Rz5…'
  }]
}))

export const Me = named('Me', Type.Object({
  ...Principal,
  role: Role(),
  via: OneOf(['none', 'jwt', 'api-key', 'guest'], { description: 'What proved it' })
}, {
  description: 'Who the request acts for', examples: [{ ...alice, role: 'user', via: 'jwt' }]
}))

export const Validation = named('Validation', Type.Object({
  valid: Type.Literal(true, { description: 'Credentials that are not are answered with 401' }),
  user: Type.Object({ ...Principal, role: Role() }, { title: 'Caller' }),
  ...Me.properties
}, {
  description: 'Who valid credentials belong to; the fields of `user` stand beside it too',
  examples: [{ valid: true, user: { ...alice, role: 'user' }, ...alice, role: 'user', via: 'jwt' }]
}))

export const User = named('User', Type.Object({
  id: Type.String(),
  username: Type.String(),
  source: OneOf(['local', 'unix', 'pam'], { description: 'Where the password is checked' }),
  role: AccountRole(),
  disabled: Type.Boolean(),
  created_at: Time('When it was made'),
  last_login_at: Nullable(Time('When it last logged in'))
}, {
  description: 'An account',
  examples: [userExample]
}))

export const Key = named('Key', Type.Object({
  id: Type.String(),
  name: Type.String(),
  user_id: Type.String(),
  username: Type.String(),
  permissions: Permissions,
  created_at: Time('When it was made'),
  expires_at: Nullable(Time('When it stops working')),
  last_used_at: Nullable(Time('When it was last used, to the minute'))
}, {
  description: 'An API key, without its secret',
  examples: [keyExample]
}))

export const NewKey = named('NewKey', Type.Object({
  ...Key.properties,
  key: Type.String({ description: 'The secret; shown this once' })
}, {
  description: 'A new API key, with its secret',
  examples: [{ ...keyExample, key: 'sdr_9f86d081884c7d65_…' }]
}))

export const Session = named('Session', Type.Object({
  id: Type.String(),
  address: Type.String({ description: 'Where the login came from' }),
  user_agent: Type.String(),
  current: Type.Boolean({ description: 'The one of this request' }),
  created_at: Time('When the login was'),
  last_used_at: Time('When its token was last refreshed'),
  expires_at: Time('When it ends unless it is refreshed')
}, {
  description: 'A login',
  examples: [sessionExample]
}))

export const SessionList = named('SessionList', Type.Object({ sessions: Type.Array(Named(Session)) }, {
  description: 'Sessions of an account, the last used first', examples: [{ sessions: [sessionExample] }]
}))

export const Username = Type.String({
  pattern: usernamePattern,
  maxLength: 64,
  description: 'Letters, digits and . _ - @',
  examples: ['alice']
})
export const Password = Type.String({
  minLength: 1,
  maxLength: passwordLength.maximum,
  description: 'Password',
  writeOnly: true
})

export const NewPassword = Type.String({
  minLength: passwordLength.minimum,
  maxLength: passwordLength.maximum,
  description: 'A new password',
  writeOnly: true
})
