import Fastify, { type FastifyInstance, type HTTPMethods, type RouteOptions } from 'fastify'
import t, { type Test } from 'tap'
import { buildApp } from '../../app.ts'
import { needOf, type Declaration } from '../../lib/http/route-needs.ts'
import routeNeeds from '../../plugins/route-needs.ts'
import { as, build, testOptions, workspace } from '../helper.ts'

/** Every route with what it needs. A new one belongs here, after a look at who may call it under each method below. */
const routes: Record<string, string> = {
  'OPTIONS *': 'anyCaller, neverPublic',
  'GET /sdapi/v1/sd-models': 'models:read',
  'GET /sdapi/v1/samplers': 'models:read',
  'GET /sdapi/v1/schedulers': 'models:read',
  'GET /sdapi/v1/upscalers': 'models:read',
  'GET /sdapi/v1/latent-upscale-modes': 'models:read',
  'GET /sdapi/v1/loras': 'models:read',
  'GET /sdapi/v1/sd-vae': 'models:read',
  'GET /sdapi/v1/embeddings': 'models:read',
  'GET /sdapi/v1/memory': 'models:read',
  'GET /sdapi/v1/cmd-flags': 'models:read',
  'GET /sdapi/v1/scripts': 'models:read',
  'GET /sdapi/v1/hypernetworks': 'models:read',
  'GET /sdapi/v1/face-restorers': 'models:read',
  'GET /sdapi/v1/realesrgan-models': 'models:read',
  'GET /sdapi/v1/prompt-styles': 'models:read',
  'GET /sdapi/v1/extensions': 'models:read',
  'GET /sdapi/v1/script-info': 'models:read',
  'GET /sdapi/v1/options': 'models:read',
  'POST /sdapi/v1/options': 'generate',
  'POST /sdapi/v1/txt2img': 'generate',
  'POST /sdapi/v1/img2img': 'generate',
  'POST /sdapi/v1/extra-single-image': 'generate',
  'POST /sdapi/v1/extra-batch-images': 'generate',
  'POST /sdapi/v1/png-info': 'generate',
  'GET /sdapi/v1/progress': 'queue:read',
  'POST /sdapi/v1/interrupt': 'generate',
  'POST /sdapi/v1/skip': 'generate',
  'POST /sdapi/v1/refresh-checkpoints': 'models:manage',
  'POST /sdapi/v1/unload-checkpoint': 'models:manage',
  'GET /controlnet/version': 'models:read',
  'GET /controlnet/model_list': 'models:read',
  'GET /controlnet/module_list': 'models:read',
  'GET /': 'anyCaller',
  'POST /sign-in': 'public, carriesCredentials',
  'GET /api/health': 'public',
  'GET /api/ready': 'anyCaller',
  'GET /api/status': 'public',
  'POST /api/auth/login': 'public, carriesCredentials',
  'POST /api/auth/token': 'public, carriesCredentials',
  'POST /api/auth/refresh': 'public, carriesCredentials',
  'POST /api/auth/logout': 'needsAccount',
  'POST /api/auth/password': 'needsAccount',
  'GET /api/auth/sessions': 'needsAccount',
  'DELETE /api/auth/sessions/:id': 'needsAccount',
  'GET /api/auth/me': 'anyCaller, neverPublic',
  'GET /api/auth/validate': 'anyCaller, neverPublic',
  'GET /api/auth/keys': 'needsAccount',
  'POST /api/auth/keys': 'needsAccount',
  'DELETE /api/auth/keys/:id': 'needsAccount',
  'GET /api/users': 'users:manage, needsAccount',
  'POST /api/users': 'users:manage, needsAccount',
  'GET /api/users/:id': 'users:manage, needsAccount',
  'PATCH /api/users/:id': 'users:manage, needsAccount',
  'DELETE /api/users/:id': 'users:manage, needsAccount',
  'GET /api/models': 'models:read',
  'GET /api/models/types': 'models:read',
  'GET /api/models/directories': 'models:read',
  'POST /api/models/refresh': 'models:manage',
  'POST /api/models/load': 'models:manage',
  'POST /api/models/unload': 'models:manage',
  'GET /api/models/:id': 'models:read',
  'GET /api/models/*': 'models:read',
  'POST /api/models/hash': 'models:manage',
  'POST /api/models/convert': 'models:manage',
  'POST /api/models/pull': 'models:manage',
  'DELETE /api/models/:id': 'models:manage',
  'DELETE /api/models/*': 'models:manage',
  'GET /api/samplers': 'models:read',
  'GET /api/schedulers': 'models:read',
  'GET /api/parameters': 'models:read',
  'POST /api/generate/txt2img': 'generate',
  'POST /api/generate/txt2img/form': 'generate',
  'POST /api/generate/img2img': 'generate',
  'POST /api/generate/img2img/form': 'generate',
  'POST /api/generate/inpaint': 'generate',
  'POST /api/generate/inpaint/form': 'generate',
  'POST /api/generate/controlnet': 'generate',
  'POST /api/generate/controlnet/form': 'generate',
  'POST /api/generate/upscale': 'generate',
  'POST /api/generate/upscale/form': 'generate',
  'GET /api/queue/status': 'queue:read',
  'GET /api/queue/jobs': 'queue:read',
  'GET /api/queue/job/:id': 'queue:read',
  'DELETE /api/queue/job/:id': 'generate or models:manage or jobs:all',
  'GET /api/queue/job/:id/events': 'queue:read',
  'GET /api/queue/job/:id/images/:index': 'queue:read',
  'GET /metrics': 'system:read',
  'GET /v1/models': 'models:read',
  'GET /v1/models/:id': 'models:read',
  'GET /v1/models/*': 'models:read',
  'OPTIONS /v1/images/generations': 'anyCaller, neverPublic',
  'POST /v1/images/generations': 'generate',
  'POST /v1/images/edits': 'generate',
  'POST /v1/images/variations': 'generate',
  'GET /v1/images/files/:name': 'public, carriesCredentials',
  'GET /api/v1/models': 'models:read',
  'GET /api/v1/models/:id': 'models:read',
  'GET /api/v1/models/*': 'models:read',
  'OPTIONS /api/v1/images/generations': 'anyCaller, neverPublic',
  'POST /api/v1/images/generations': 'generate',
  'POST /api/v1/images/edits': 'generate',
  'POST /api/v1/images/variations': 'generate',
  'GET /api/v1/images/files/:name': 'public, carriesCredentials',
  'GET /api/docs': 'models:read',
  'GET /api/docs/': 'models:read',
  'GET /api/docs/json': 'models:read',
  'GET /api/docs/yaml': 'models:read',
  'GET /api/docs/static/*': 'models:read',
  'GET /api/docs/static/index.html': 'models:read',
  'GET /api/docs/static/swagger-initializer.js': 'models:read',
  'GET /api/docs/static/theme/theme.css': 'models:read',
  'GET /api/openapi.json': 'models:read',
  'GET /api/openapi-3.0.json': 'models:read'
}

/** Status of the refusal, or 0 for callers that are let in. */
interface Outcomes {
  /** No credentials. */
  stranger: number
  /** No credentials, where guests are let in. */
  guest: number
  /** No credentials, with `--public-paths /`. */
  visitor: number
  /** An API key without permissions. */
  emptyKey: number
  user: number
  admin: number
}

const outcomes: Record<string, Outcomes> = {
  public: { stranger: 0, guest: 0, visitor: 0, emptyKey: 0, user: 0, admin: 0 },
  'public, carriesCredentials': { stranger: 0, guest: 0, visitor: 0, emptyKey: 0, user: 0, admin: 0 },
  anyCaller: { stranger: 401, guest: 0, visitor: 0, emptyKey: 0, user: 0, admin: 0 },
  'anyCaller, neverPublic': { stranger: 401, guest: 0, visitor: 401, emptyKey: 0, user: 0, admin: 0 },
  needsAccount: { stranger: 401, guest: 401, visitor: 401, emptyKey: 403, user: 0, admin: 0 },
  'users:manage, needsAccount': { stranger: 401, guest: 401, visitor: 401, emptyKey: 403, user: 403, admin: 0 },
  'models:read': { stranger: 401, guest: 0, visitor: 0, emptyKey: 403, user: 0, admin: 0 },
  'models:manage': { stranger: 401, guest: 403, visitor: 401, emptyKey: 403, user: 403, admin: 0 },
  generate: { stranger: 401, guest: 403, visitor: 0, emptyKey: 403, user: 0, admin: 0 },
  'generate or models:manage or jobs:all': { stranger: 401, guest: 403, visitor: 0, emptyKey: 403, user: 0, admin: 0 },
  'queue:read': { stranger: 401, guest: 0, visitor: 0, emptyKey: 403, user: 0, admin: 0 },
  'system:read': { stranger: 401, guest: 403, visitor: 401, emptyKey: 403, user: 403, admin: 0 }
}

const options = { 'cors-origins': 'https://ui.example', 'rate-limit': '100000', 'login-rate-limit': '100000' }

t.test('every route is in the table, and every entry of the table is a route', async t => {
  const app = await build(t, { auth: 'jwt', ...options })
  t.same(Object.fromEntries([...app.routeNeeds].map(([key, { need }]) => [key, need])), routes)
})

type Caller = { name: keyof Outcomes, headers: Record<string, string> }

async function expectOutcomes (t: Test, app: FastifyInstance, { name, headers }: Caller) {
  const [found, expected]: Array<Record<string, number>> = [{}, {}]
  // Last, because it ends the session of a token.
  for (const [key, need] of Object.entries(routes).sort(([a], [b]) => Number(a.endsWith('/logout')) - Number(b.endsWith('/logout')))) {
    const [method, pattern] = key.split(' ') as [HTTPMethods, string]
    const url = pattern.replace('*', pattern === '*' ? '/x' : 'x').replace(pattern.includes('/keys/') ? ':id' : '', pattern.includes('/keys/') ? '0123456789abcdef' : '')
      .replace(':id', '0190b5a0-0000-7000-8000-000000000000').replace(':index', '0')
    for (const one of method === 'GET' ? ['GET', 'HEAD'] as const : [method]) {
      const { statusCode } = await app.inject({ method: one as 'GET', url, headers })
      found![`${one} ${pattern}`] = [401, 403, 500].includes(statusCode) ? statusCode : 0
      expected![`${one} ${pattern}`] = outcomes[need]![name]
    }
  }
  t.same(found, expected, name)
}

for (const auth of ['jwt', 'optional', 'api-key'] as const) {
  t.test(`who may call what with --auth ${auth}`, async t => {
    const app = await build(t, { auth, ...options })
    const key = async (username: string, role: 'admin' | 'user', permissions?: []) => {
      const { id } = await app.store.accounts.find(username) ?? await app.accounts.create({ username, password: 'correct horse battery staple', role })
      return { 'x-api-key': (await app.keys.create({ userId: id, name: permissions === undefined ? 'all' : 'none', permissions })).key }
    }
    await expectOutcomes(t, app, { name: auth === 'optional' ? 'guest' : 'stranger', headers: {} })
    await expectOutcomes(t, app, { name: 'emptyKey', headers: await key('alice', 'admin', []) })
    await expectOutcomes(t, app, { name: 'user', headers: await key('bob', 'user') })
    await expectOutcomes(t, app, { name: 'admin', headers: await key('alice', 'admin') })
    if (auth === 'api-key') return
    for (const [name, username] of [['user', 'bob'], ['admin', 'alice']] as const) {
      await expectOutcomes(t, app, { name, headers: { authorization: `Bearer ${(await as(app, username)).token}` } })
    }
  })
}

t.test('who may call what with --auth none', async t => {
  await expectOutcomes(t, await build(t, options), { name: 'admin', headers: {} })
})

t.test('who may call what with --public-paths /', async t => {
  await expectOutcomes(t, await build(t, { auth: 'jwt', 'public-paths': '/', ...options }), { name: 'visitor', headers: {} })
})

t.test('a route that does not say who may call it keeps the server from starting', async t => {
  const { models, data } = workspace(t)
  const app = await buildApp(testOptions({ 'models-dir': [models], 'data-dir': data, auth: 'optional' }))
  t.teardown(() => app.close())
  app.delete('/api/new', async () => 'reached')
  await t.rejects(async () => await app.ready(), { message: /^The route DELETE \/api\/new does not say who may call it\. Write one of: schema\.public/ })

  const start = async (...added: Array<Partial<RouteOptions>>) => {
    const bare = Fastify()
    await bare.register(routeNeeds)
    for (const route of added) bare.route({ method: 'GET', url: '/new', handler: async () => 'reached', ...route } as RouteOptions)
    await bare.ready()
    return [...bare.routeNeeds.keys()]
  }
  await t.rejects(start({ method: ['POST', 'DELETE'], config: {}, schema: {} }), { message: /^The route POST \/new does not say/ })
  await t.rejects(start({ config: { needsAccount: true }, schema: { public: true } }), { message: /says public and needsAccount, which do not go together/ })
  await t.rejects(start({ config: { anyCaller: true } }, { method: 'HEAD', url: '/other' }), { message: /HEAD \/other does not say/ })
  t.same(await start({ config: { anyCaller: true } }), ['GET /new'])
  // Opened and closed together, so one may not hide behind the other.
  const administration = { config: { permission: 'system:read' } } as const
  await t.rejects(start({ exposeHeadRoute: false, schema: { public: true } }, { method: 'HEAD', ...administration }), { message: /HEAD \/new needs "system:read", but GET \/new needs "public"/ })
  await t.rejects(start({ schema: { public: true } }, { constraints: { host: 'a.example' }, ...administration }), { message: /GET \/new needs "system:read", but/ })
})

t.test('what a declaration may say', async t => {
  const need = (declaration: object, method = 'GET') => needOf(method, '/x', declaration as Declaration)
  for (const [declaration, words] of [
    [{ public: true }, 'public'], [{ public: true, carriesCredentials: true }, 'public, carriesCredentials'], [{ anyCaller: true, public: false }, 'anyCaller'],
    [{ permission: 'models:read' }, 'models:read'], [{ permission: ['models:read', 'jobs:all'], neverPublic: true }, 'models:read or jobs:all, neverPublic'],
    [{ needsAccount: true }, 'needsAccount'], [{ needsAccount: true, permission: 'users:manage' }, 'users:manage, needsAccount']
  ] as const) t.equal(need(declaration), words)
  for (const declaration of [
    {}, { public: false }, { neverPublic: true }, { carriesCredentials: true }, { public: true, permission: 'models:read' }, { public: true, neverPublic: true }, { public: true, anyCaller: true },
    { needsAccount: true, anyCaller: true }, { needsAccount: true, carriesCredentials: true }, { permission: 'models:read', anyCaller: true }, { permission: 'models:read', carriesCredentials: true },
    { permission: 'models:read', needsAccount: true, neverPublic: true }, { permission: 'models:write' }, { permission: [] }, { permission: '' }, { permission: ['models:read', 'x'] },
    { permission: 1 }, { permission: null }, { permission: { models: 'read' } }, { public: 'true' }, { needsAccount: 1 }, { anyCaller: null }
  ]) t.throws(() => need(declaration), /^The route GET \/x .*Write one of/s, JSON.stringify(declaration))
  for (const method of ['POST', 'PUT', 'PATCH', 'DELETE']) {
    t.throws(() => need({ permission: 'queue:read' }, method), /a permission to read must not change anything/)
    t.throws(() => need({ permission: ['generate', 'queue:read'] }, method), /a permission to read must not change anything/)
  }
})
