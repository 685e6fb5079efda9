import { execFile } from 'node:child_process'
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import SwaggerParser from '@apidevtools/swagger-parser'
import { Spectral } from '@stoplight/spectral-core'
import { oas } from '@stoplight/spectral-rulesets'
import t from 'tap'
import { toOpenApi30 } from '../lib/http/openapi-30.ts'
import { packageRoot } from '../lib/util/package-root.ts'
import { as, build, password } from './helper.ts'

const golden = join(packageRoot, 'test', 'fixtures', 'openapi.json')

async function lint (file: string, more: readonly string[]): Promise<unknown> {
  const redocly = join(packageRoot, 'node_modules', '.bin', 'redocly')
  const { stdout } = await promisify(execFile)(redocly, ['lint', file, '--config', join(packageRoot, 'test', 'fixtures', 'redocly.yaml'), '--format', 'json', ...more],
    { cwd: packageRoot, env: { ...process.env, REDOCLY_TELEMETRY: 'off' } }).catch((error: { stdout: string }) => error)
  return JSON.parse(stdout.slice(stdout.indexOf('{')))
}

t.test('the document is valid and what the golden copy says', async t => {
  const app = await build(t, { auth: 'jwt' })
  const document = app.swagger() as object as {
    paths: Record<string, Record<string, Operation>>
    components: { schemas: object }
  }
  // A change of the API is seen in the copy that is committed; UPDATE_OPENAPI=1 writes it anew.
  const copy = `${JSON.stringify(document, null, 2)}\n`
  if (process.env.UPDATE_OPENAPI === '1') writeFileSync(golden, copy)
  else t.equal(copy, readFileSync(golden, 'utf8'), `${golden} is up to date`)

  const spectral = new Spectral()
  spectral.setRuleset({ extends: [[oas, 'recommended']] } as never)
  const older = join(t.testdir(), 'openapi-3.0.json')
  const document30 = toOpenApi30(document)
  writeFileSync(older, JSON.stringify(document30))
  for (const [file, ...more] of [[golden], [older, '--skip-rule', 'no-invalid-schema-examples']] as const) {
    // The linter takes an `id` in an example of 3.0 for one of the schema; they are the examples of 3.1.
    t.match(await lint(file, more), { totals: { errors: 0, warnings: 0, ignored: 0 } })
    await t.resolves(SwaggerParser.validate(JSON.parse(readFileSync(file, 'utf8'))))
    t.same(await spectral.run(readFileSync(file, 'utf8')), [])
  }

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
  t.same(inlineObjects(document), [], 'and so has every object')
  const text = JSON.stringify(document)
  for (const word of ['\\\\p{', '"anyOf"', '"oneOf"', '"allOf"']) t.notOk(text.includes(word), `nothing that generators stumble over: ${word}`)
})

t.test('the document is served with the address of the request, in both versions', async t => {
  const app = await build(t, { auth: 'jwt' })
  const alice = await as(app, 'alice')
  for (const [url, version] of [['/api/openapi.json', '3.1.0'], ['/api/openapi-3.0.json', '3.0.3'], ['/api/docs/json', '3.1.0']] as const) {
    const document = (await alice({ url, headers: { host: 'draw.example:8443' } })).json()
    t.same([document.openapi, document.servers[0].url], [version, 'http://draw.example:8443'], url)
  }
  t.equal((app.swagger() as { servers?: Array<{ url: string }> }).servers?.[0]?.url, 'http://127.0.0.1:8080', 'where there is no request')
})

t.test('under a method without logins the document has none', async t => {
  for (const auth of ['api-key', 'none'] as const) {
    const { paths, info } = (await build(t, { auth })).swagger() as { paths: object, info: { description: string } }
    t.same(Object.keys(paths).filter(path => path.startsWith('/api/auth/')).sort(), ['/api/auth/keys', '/api/auth/keys/{id}', '/api/auth/me', '/api/auth/validate'])
    t.notMatch(info.description, /Log in/)
  }
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

/** Where objects stand that are no components. */
function inlineObjects (document: object): string[] {
  const found: string[] = []
  const look = (value: unknown, path: string[]): void => {
    if (typeof value !== 'object' || value === null) return
    const isComponent = path.length === 3 && path[1] === 'schemas'
    if ('properties' in value && path.at(-1) !== 'properties' && !isComponent) found.push(path.join('/'))
    for (const [key, part] of Object.entries(value)) if (!['example', 'examples'].includes(key)) look(part, [...path, key])
  }
  look(document, [])
  return found
}

/** Whether there is an example in the value, or in what it refers to. */
function hasExample (value: unknown, document: object, depth = 0): boolean {
  if (typeof value !== 'object' || value === null || depth > 12) return false
  return Object.entries(value).some(([key, part]) => {
    if (key === 'example' || key === 'examples') return true
    if (key !== '$ref') return hasExample(part, document, depth + 1)
    const [, ...path] = (part as string).split('/')
    // Every error has an example; the one of the operation itself is meant.
    return path.at(-1) !== 'ErrorAnswer' && hasExample(path.reduce<any>((node, name) => node[name], document), document, depth + 1)
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
  t.same(security, [{ bearer: [] }, { apiKey: [] }, { password: [] }])
  t.same(paths['/api/models']?.get?.security, [])
  t.equal(paths['/api/models/refresh']?.post?.security, undefined)
  const publicOnes = Object.entries(paths).flatMap(([path, operations]) =>
    Object.entries(operations).filter(([, { security }]) => security?.length === 0).map(([method]) => `${method} ${path}`))
  t.same(publicOnes.filter(route => !route.includes('/api/models')), [
    'get /api/health', 'get /api/status', 'post /api/auth/login', 'post /api/auth/token', 'post /api/auth/refresh',
    'get /v1/images/files/{name}'
  ], 'and nothing else')

  const keys = await describe({ auth: 'api-key' })
  t.match(keys.components.securitySchemes.bearer, { scheme: 'bearer', description: 'An API key', bearerFormat: undefined })

  const guests = await describe({ auth: 'optional' })
  t.same(guests.paths['/api/models']?.get?.security?.at(-1), {}, 'a guest may look')
  t.equal(guests.paths['/api/generate/txt2img']?.post?.security, undefined, 'and not draw')
  t.equal(guests.paths['/api/auth/sessions']?.get?.security, undefined, 'and has no account')
})

t.test('clients of two generators work, with types', async t => {
  const folder = t.testdir({ 'package.json': '{ "type": "module" }' })
  const run = promisify(execFile)
  const runTool = async (name: string, ...parameters: string[]) =>
    await run(join(packageRoot, 'node_modules', '.bin', name), parameters, { cwd: folder })
  await Promise.all([
    runTool('openapi-ts', '-i', golden, '-o', 'src', '-c', '@hey-api/client-fetch', '--no-log-file'),
    runTool('openapi-typescript', golden, '-o', 'api-types.d.ts')
  ])
  // The first generator clears its folder.
  copyFileSync(join(folder, 'api-types.d.ts'), join(folder, 'src', 'api-types.d.ts'))
  for (const name of ['hey-api.ts', 'openapi-fetch.ts']) {
    copyFileSync(join(packageRoot, 'test', 'fixtures', 'generated-clients', name), join(folder, 'src', name))
  }
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
  const compiled = await runTool('tsc', '-p', '.').catch((error: { stdout: string }) => error)
  t.equal(compiled.stdout, '', 'they compile')

  const app = await build(t, { auth: 'jwt', 'rate-limit': '30' })
  const baseUrl = await app.listen({ host: '127.0.0.1', port: 0 })
  const outputOf = async (name: string, username: string): Promise<unknown> => {
    await as(app, username)
    const { stdout } = await run(process.execPath, [join(folder, 'out', name), baseUrl, username, password], { timeout: 60_000 })
    return JSON.parse(stdout)
  }
  t.match(await outputOf('openapi-fetch.js', 'bob'), {
    refused: [401, 'SDR_UNAUTHENTICATED'],
    model: 'checkpoint',
    job: [200, 'completed', 64],
    image: 'PNG',
    forbidden: 'SDR_FORBIDDEN',
    missing: 'SDR_JOB_NOT_FOUND',
    lacking: [422, /inpaint.*portable|portable.*inpaint/]
  })
  t.same(await outputOf('hey-api.js', 'alice'), {
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
