import t from 'tap'
import { resolvePublicRoutes, type RouteFacts } from '../../lib/public-paths.ts'

const route = (method: string, pattern: string, facts: Partial<RouteFacts> = {}): RouteFacts =>
  ({ method, pattern, isFlagged: false, neverPublic: false, ...facts })

const routes = [
  route('GET', '/api/health', { isFlagged: true }),
  route('HEAD', '/api/health', { isFlagged: true }),
  route('GET', '/api/status', { isFlagged: true }),
  route('POST', '/api/auth/login', { isFlagged: true }),
  route('GET', '/api/auth/me', { neverPublic: true }),
  route('GET', '/api/users', { neverPublic: true }),
  route('GET', '/api/models'),
  route('GET', '/api/models/types'),
  route('GET', '/api/models/:id'),
  route('GET', '/api/models/*'),
  route('GET', '/api/modelsx'),
  route('POST', '/api/models/refresh'),
  route('GET', '/api/queue/job/:id'),
  route('GET', '/api/queue/job/:id/images/:index'),
  route('POST', '/api/generate/txt2img')
]
const flagged = ['GET /api/health', 'GET /api/status', 'POST /api/auth/login']
const opened = (...entries: string[]) => [...resolvePublicRoutes(routes, entries).open].filter(key => !flagged.includes(key)).sort()

t.test('without entries only the flagged routes are public', async t => {
  t.same([...resolvePublicRoutes(routes, []).open].sort(), flagged)
})

t.test('an entry opens its path and what lies below, on segment boundaries, for GET', async t => {
  t.same(opened('/api/models'), ['GET /api/models', 'GET /api/models/*', 'GET /api/models/:id', 'GET /api/models/types'])
  t.same(opened('/api/models/'), opened('/api/models'), 'a trailing slash means the same')
  t.same(opened('/api/models/types'), ['GET /api/models/types'])
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

t.test('/ opens everything except account, key and administration routes, with a warning', async t => {
  const { open, warnings } = resolvePublicRoutes(routes, ['/'])
  t.notOk(open.has('GET /api/users'))
  t.notOk(open.has('GET /api/auth/me'))
  t.notOk(open.has('POST /api/generate/txt2img'))
  t.ok(open.has('GET /api/queue/job/:id'))
  t.match(warnings, [/opens every GET route/])
})

t.test('!path closes, whatever the order', async t => {
  t.notOk(resolvePublicRoutes(routes, ['!/api/status']).open.has('GET /api/status'))
  for (const entries of [['/api/models', '!/api/models/types'], ['!/api/models/types', '/api/models']]) {
    t.notOk(resolvePublicRoutes(routes, entries).open.has('GET /api/models/types'))
  }
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
    ['/API/models', /matches no GET route/],
    ['/api/generate/txt2img', /did you mean "POST:\/api\/generate\/txt2img"/],
    ['FETCH:/api/models', /unknown method/],
    ['HEAD:/api/models', /HEAD follows GET/],
    ['/api/users', /cannot be public/],
    ['/api/auth/me', /cannot be public/]
  ] as const) {
    t.throws(() => resolvePublicRoutes(routes, [entry]), { name: 'CommandError', exitCode: 2, message }, entry)
  }
})
