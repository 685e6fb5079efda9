import { execFile } from 'node:child_process'
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import createClient from 'openapi-fetch'
import openapiTS, { astToString } from 'openapi-typescript'
import t, { type Test } from 'tap'
import { packageRoot } from '../lib/util/package-root.ts'
import type { paths } from './fixtures/api-types.d.ts'
import { as, build, password } from './helper.ts'

const golden = join(packageRoot, 'test', 'fixtures', 'openapi.json')
const types = join(packageRoot, 'test', 'fixtures', 'api-types.d.ts')

/** Compares with the copy that is committed, so that a change of the API is seen; UPDATE_OPENAPI=1 writes it anew. */
function compare (t: Test, file: string, text: string): void {
  if (process.env.UPDATE_OPENAPI === '1') writeFileSync(file, text)
  else t.equal(text, readFileSync(file, 'utf8'), `${file} is up to date`)
}

t.test('the document is valid and what the golden copy says', async t => {
  const app = await build(t, { auth: 'jwt' })
  const document = app.swagger() as object as {
    paths: Record<string, Record<string, Operation>>
    components: { schemas: object }
  }
  compare(t, golden, `${JSON.stringify(document, null, 2)}\n`)
  compare(t, types, astToString(await openapiTS(JSON.parse(readFileSync(golden, 'utf8')))))

  const redocly = join(packageRoot, 'node_modules', '.bin', 'redocly')
  const { stdout, stderr } = await promisify(execFile)(redocly, ['lint', golden, '--config', join(packageRoot, 'test', 'fixtures', 'redocly.yaml'), '--format', 'json'], { cwd: packageRoot, env: { ...process.env, REDOCLY_TELEMETRY: 'off' } })
  t.match(JSON.parse(stdout.slice(stdout.indexOf('{'))), { totals: { errors: 0, warnings: 0, ignored: 0 } }, stderr)

  const operations = Object.values(document.paths).flatMap(Object.values<Operation>)
  t.equal(new Set(operations.map(({ operationId }) => operationId)).size, operations.length, 'every operation has an id of its own')
  for (const { operationId, tags, summary, description, ...rest } of operations) {
    t.ok([operationId, summary, description].every(text => typeof text === 'string' && text !== '') && tags?.length === 1, `${operationId} is described`)
    for (const status of ['400', '401', '429', '500', '503']) t.ok(status in rest.responses, `${operationId} tells of ${status}`)
    const { description: answer, content } = Object.entries(rest.responses).find(([status]) => status.startsWith('2'))![1]
    t.not(answer, 'Default Response', `${operationId} says what it answers`)
    const isBinary = Object.keys(content ?? {}).some(type => type.startsWith('image/'))
    t.ok(isBinary || content === undefined || hasExample(rest, document), `${operationId} has an example`)
  }
  const names = Object.keys(document.components.schemas)
  t.notOk(names.some(name => /^(def|schema)-/.test(name)), 'every schema has a name')
})

t.test('the example of an error is one of its own', async t => {
  const app = await build(t)
  const { components } = app.swagger() as unknown as {
    components: {
      responses: Record<string, {
        description: string
        content: Record<string, { example?: { error: { code: string } } }>
      }>
    }
  }
  for (const [name, { description, content }] of Object.entries(components.responses)) {
    const { code } = content['application/json']?.example?.error ?? { code: 'SDR_INVALID_REQUEST' }
    t.ok(description.includes(`\`${code}\``), `${name}: ${code}`)
  }
})

t.test('the examples of requests run as they are', async t => {
  const app = await build(t, { auth: 'none' })
  const { paths } = app.swagger() as {
    paths: Record<string, { post?: { requestBody?: { content: Record<string, { example?: object }> } } }>
  }
  for (const [type, expected] of Object.entries({
    txt2img: 202,
    img2img: 422,
    inpaint: 422,
    controlnet: 422,
    upscale: 404
  })) {
    const url = `/api/generate/${type}`
    const { example } = paths[url]?.post?.requestBody?.content['application/json'] ?? {}
    const { statusCode, body } = await app.inject({ method: 'POST', url, body: example ?? {} })
    t.equal(statusCode, expected, `${type}, as far as the portable engine and the one model can do it: ${body.slice(0, 300)}`)
  }
})

interface Operation {
  operationId?: string
  tags?: string[]
  summary?: string
  description?: string
  responses: Record<string, { description: string, content?: object }>
}

/** Whether there is an example in the value, or in what it refers to. */
function hasExample (value: unknown, document: object, depth = 0): boolean {
  if (typeof value !== 'object' || value === null || depth > 12) return false
  return Object.entries(value).some(([key, part]) => {
    if (key === 'example' || key === 'examples') return true
    if (key !== '$ref') return hasExample(part, document, depth + 1)
    const [, ...path] = (part as string).split('/')
    // Every error has an example; the one of the operation itself is meant.
    return path.at(-1) !== 'Error' && hasExample(path.reduce<any>((node, name) => node[name], document), document, depth + 1)
  })
}

t.test('security schemes follow the method, the public paths and the guests', async t => {
  interface Described {
    security: object[]
    components: { securitySchemes: Record<string, object> }
    paths: Record<string, Record<string, { security?: object[] }>>
  }
  const describe = async (options: object) => (await build(t, options)).swagger() as unknown as Described

  const open = await describe({})
  t.same([open.security, open.components.securitySchemes], [[], {}], 'an open server asks for nothing')

  const { security, paths } = await describe({ auth: 'jwt', 'public-paths': '/api/models' })
  t.same(security, [{ bearer: [] }, { apiKey: [] }])
  t.same(paths['/api/models']?.get?.security, [])
  t.equal(paths['/api/models/refresh']?.post?.security, undefined)
  const publicOnes = Object.entries(paths).flatMap(([path, operations]) =>
    Object.entries(operations).filter(([, { security }]) => security?.length === 0).map(([method]) => `${method} ${path}`))
  t.same(publicOnes.filter(route => !route.includes('/api/models')), [
    'get /api/health', 'get /api/status', 'post /api/auth/login', 'post /api/auth/refresh'
  ], 'and nothing else')

  const keys = await describe({ auth: 'api-key' })
  t.match(keys.components.securitySchemes.bearer, { scheme: 'bearer', description: 'An API key', bearerFormat: undefined })

  const guests = await describe({ auth: 'optional' })
  t.same(guests.paths['/api/models']?.get?.security?.at(-1), {}, 'a guest may look')
  t.equal(guests.paths['/api/generate/txt2img']?.post?.security, undefined, 'and not draw')
  t.equal(guests.paths['/api/auth/sessions']?.get?.security, undefined, 'and has no account')
})

/** Fails to compile when the type is `any`. */
type NotAny<T> = 0 extends 1 & T ? never : T
const typed = <T>(value: NotAny<T>): T => value as T

t.test('a client made from it works, with types', async t => {
  const app = await build(t, { auth: 'jwt' })
  await as(app, 'alice')
  const baseUrl = await app.listen({ host: '127.0.0.1', port: 0 })
  const client = createClient<paths>({ baseUrl })

  const refused = await client.GET('/api/models', { params: {} })
  t.equal(refused.response.status, 401)
  t.equal(typed(refused.error!).error.code, 'SDR_UNAUTHENTICATED')

  const { data: login } = await client.POST('/api/auth/login', { body: { username: 'alice', password } })
  client.use({ onRequest: ({ request }) => { request.headers.set('authorization', `Bearer ${typed(login!).token}`) } })

  const { data: models } = await client.GET('/api/models', { params: {} })
  t.equal(typed(models!).models[0]?.type, 'checkpoint')

  const { data: job, response } = await client.POST('/api/generate/txt2img', {
    params: { query: { wait: 30 } }, body: { prompt: 'a red fox', width: 64, steps: 1, seed: 1 }
  })
  t.equal(response.status, 200)
  t.equal(typed(job!).status, 'completed')
  t.equal(typed(job!).images[0]?.width, 64)

  const { data: image } = await client.GET('/api/queue/job/{id}/images/{index}', {
    params: { path: { id: job!.id, index: 0 } }, parseAs: 'arrayBuffer'
  })
  t.equal(Buffer.from(image as ArrayBuffer).subarray(1, 4).toString(), 'PNG')

  t.equal((await client.GET('/api/users')).error?.error.code, 'SDR_FORBIDDEN')
  t.equal((await client.GET('/api/queue/job/{id}', { params: { path: { id: '0190b5a0-0000-7000-8000-000000000000' } } })).error?.error.code, 'SDR_JOB_NOT_FOUND')
  const lacking = await client.POST('/api/generate/inpaint', { params: {}, body: { prompt: 'a fox', init_image: 'x', mask: 'x' } })
  t.equal(lacking.response.status, 422)
  t.match(typed(lacking.error!).error.message, /inpaint.*portable|portable.*inpaint/)
})

t.test('a client of another generator works, with types', async t => {
  const folder = t.testdir({})
  const bin = (name: string) => join(packageRoot, 'node_modules', '.bin', name)
  const run = promisify(execFile)
  await run(bin('openapi-ts'), ['-i', golden, '-o', join(folder, 'src'), '-c', '@hey-api/client-fetch', '--no-log-file'], { cwd: folder })
  copyFileSync(join(packageRoot, 'test', 'fixtures', 'generated-client', 'consumer.ts'), join(folder, 'src', 'consumer.ts'))
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }')
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({
    compilerOptions: {
      strict: true,
      target: 'ES2023',
      lib: ['ES2023', 'DOM', 'DOM.Iterable'],
      module: 'NodeNext',
      types: ['node'],
      rootDir: 'src',
      outDir: 'out',
      typeRoots: [join(packageRoot, 'node_modules', '@types')]
    },
    include: ['src']
  }))
  const compiled = await run(bin('tsc'), ['-p', folder]).catch((error: { stdout: string }) => error)
  t.equal(compiled.stdout, '', 'it compiles')

  const app = await build(t, { auth: 'jwt', 'rate-limit': '30' })
  await as(app, 'alice')
  const baseUrl = await app.listen({ host: '127.0.0.1', port: 0 })
  const { stdout } = await run(process.execPath, [join(folder, 'out', 'consumer.js'), baseUrl, 'alice', password], { timeout: 60_000 })
  t.same(JSON.parse(stdout), {
    refused: 'SDR_UNAUTHENTICATED',
    models: ['checkpoint'],
    events: true,
    status: 'completed',
    seed: 7,
    image: ['image/webp', 'WEBP'],
    forbidden: 'SDR_FORBIDDEN',
    missing: 'SDR_JOB_NOT_FOUND',
    lacking: [422, 'SDR_UNSUPPORTED_FEATURE'],
    limited: ['SDR_RATE_LIMITED', true]
  })
})

t.test('a client is told when to come back', async t => {
  const app = await build(t, { auth: 'jwt', 'rate-limit': '1' })
  const alice = await as(app, 'alice')
  t.equal((await alice('/api/models')).statusCode, 200)
  const limited = await alice('/api/models')
  t.equal(limited.statusCode, 429)
  t.match(limited.headers['retry-after'], /^\d+$/)
})
