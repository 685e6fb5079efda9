import t from 'tap'
import { resolvePublicRoutes, type RouteFacts } from '../../../lib/http/public-paths.ts'
import { needOf, type Declaration } from '../../../lib/http/route-needs.ts'

const route = (method: string, pattern: string, declaration: Declaration = { permission: method === 'GET' ? 'models:read' : 'generate' }): RouteFacts =>
  ({ method, pattern, declaration, need: needOf(method, pattern, declaration) })

const account: Declaration = { needsAccount: true }
const routes = [
  route('GET', '/api/health', { public: true }),
  route('GET', '/api/status', { public: true }),
  route('POST', '/api/auth/login', { public: true, carriesCredentials: true }),
  route('GET', '/api/auth/me', { anyCaller: true, neverPublic: true }),
  route('POST', '/api/auth/logout', account),
  route('GET', '/api/users', { permission: 'users:manage', needsAccount: true }),
  route('POST', '/api/users', { permission: 'users:manage', needsAccount: true }),
  route('GET', '/api/models'),
  route('GET', '/api/models/types'),
  route('GET', '/api/models/:id'),
  route('GET', '/api/models/*'),
  route('DELETE', '/api/models/:id', { permission: 'models:manage' }),
  route('GET', '/api/modelsx'),
  route('POST', '/api/models/refresh', { permission: 'models:manage' }),
  route('GET', '/api/queue/job/:id'),
  route('DELETE', '/api/queue/job/:id', { permission: ['generate', 'models:manage', 'jobs:all'] }),
  route('GET', '/api/queue/job/:id/images/:index'),
  route('POST', '/api/generate/txt2img'),
  route('GET', '/metrics', { permission: 'system:read' })
]
const flagged = ['GET /api/health', 'GET /api/status', 'POST /api/auth/login']
const opened = (...entries: string[]) => [...resolvePublicRoutes(routes, entries).open]
  .filter(key => !flagged.includes(key))
  .sort()

t.test('without entries only the flagged routes are public', async t => {
  t.same([...resolvePublicRoutes(routes, []).open].sort(), flagged)
})

t.test('an entry opens its path and what lies below, on segment boundaries, for GET', async t => {
  t.same(opened('/api/models'), ['GET /api/models', 'GET /api/models/*', 'GET /api/models/:id', 'GET /api/models/types'])
  t.same(opened('/api/models/'), opened('/api/models'), 'a trailing slash means the same')
  t.same(opened('/api/models/types'), ['GET /api/models/types'])
  t.same(opened('/api').filter(key => !key.startsWith('GET ')), [])
})

t.test('METHOD:/path opens another method and only that', async t => {
  t.same(opened('POST:/api/generate/txt2img'), ['POST /api/generate/txt2img'])
  t.same(opened('POST:/api/models'), ['POST /api/models/refresh'])
})

t.test('{id} stands for a parameter, and a literal segment never does', async t => {
  t.same(opened('/api/queue/job/{id}/images'), ['GET /api/queue/job/:id/images/:index'])
  t.same(opened('/api/models/{id}'), ['GET /api/models/*', 'GET /api/models/:id'])
  t.throws(() => opened('/api/queue/job/0190'), /matches no GET route/)
})

t.test('/ opens every method of everything except account, key and administration routes, with a warning', async t => {
  t.same(opened('/'), routes.filter(({ need }) => /^(models:read|generate)/.test(need)).map(({ method, pattern }) => `${method} ${pattern}`).sort())
  t.ok(opened('/').includes('POST /api/generate/txt2img'))
  t.match(resolvePublicRoutes(routes, ['/']).warnings, [/opens every method of every route except .*: without credentials, callers can draw images/])
  t.same(opened('GET:/'), opened('/').filter(key => key.startsWith('GET ')), 'unless it names a method')
  t.match(resolvePublicRoutes(routes, ['GET:/']).warnings, [/opens every GET route except account, key and administration routes$/])
  t.same(opened('POST:/'), ['POST /api/generate/txt2img'])
})

t.test('administration is opened only by an entry that names it, with a warning', async t => {
  t.same(opened('DELETE:/api'), ['DELETE /api/queue/job/:id'])
  t.same(opened('POST:/api'), ['POST /api/generate/txt2img'])
  t.same(opened('/metrics'), ['GET /metrics'])
  const { open, warnings } = resolvePublicRoutes(routes, ['DELETE:/api/models'])
  t.ok(open.has('DELETE /api/models/:id'))
  t.match(warnings, [/"DELETE:\/api\/models" lets callers without credentials administer the server: DELETE \/api\/models\/\{id\}$/])
  t.same(resolvePublicRoutes(routes, ['/api/models']).warnings, [])
})

t.test('!path closes every method, whatever the order', async t => {
  t.notOk(resolvePublicRoutes(routes, ['!/api/status']).open.has('GET /api/status'))
  for (const entries of [['/api/models', '!/api/models/types'], ['!/api/models/types', '/api/models']]) {
    t.notOk(resolvePublicRoutes(routes, entries).open.has('GET /api/models/types'))
  }
  t.same(opened('/', '!/api/queue', '!/api/generate'), opened('GET:/').filter(key => !key.includes('/queue')))
  t.same(opened('/', '!DELETE:/api/queue'), opened('/').filter(key => !key.startsWith('DELETE')), 'unless it names one')
  t.same([...resolvePublicRoutes(routes, ['!/']).open], ['POST /api/auth/login'], 'a login stays possible')
  t.throws(() => opened('!POST:/api/auth/login'), /carry their own credentials, which cannot be closed/)
})

t.test('a wrong entry is an error that names it and the nearest route', async t => {
  for (const [entry, message] of [
    ['api/models', /must begin with "\/": "\/api\/models"/],
    ['', /must begin with "\/"/],
    ['/api/../api/models', /must not contain "\.\."/],
    ['/api/models?x=1', /must not contain "\?"/],
    ['/api/models#x', /must not contain "#"/],
    ['/api/*', /must not contain "\*"/],
    ['/api\\models', /must not contain/],
    ['/api/mo dels', /must not contain " "/],
    ['/api/%6dodels', /must not contain "%"/],
    ['/api//models', /empty segment/],
    ['/api/model', /matches no GET route; the nearest is "\/api\/models"/],
    ['!/api/model', /matches no route; the nearest is "\/api\/models"/],
    ['/API/models', /matches no GET route/],
    ['/api/generate/txt2img', /did you mean "POST:\/api\/generate\/txt2img"/],
    ['FETCH:/api/models', /unknown method/],
    ['HEAD:/api/models', /HEAD follows GET/],
    ['/api/users', /cannot be public/],
    ['POST:/api/users', /cannot be public/],
    ['/api/auth/me', /cannot be public/]
  ] as const) {
    t.throws(() => resolvePublicRoutes(routes, [entry]), { name: 'CommandError', exitCode: 2, message }, entry)
  }
})
