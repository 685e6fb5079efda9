import { execFile } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import createClient from 'openapi-fetch'
import openapiTS, { astToString } from 'openapi-typescript'
import t, { type Test } from 'tap'
import { packageRoot } from '../lib/package-root.ts'
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
  const document = app.swagger()
  compare(t, golden, `${JSON.stringify(document, null, 2)}\n`)
  compare(t, types, astToString(await openapiTS(JSON.parse(readFileSync(golden, 'utf8')))))

  const redocly = join(packageRoot, 'node_modules', '.bin', 'redocly')
  const { stdout, stderr } = await promisify(execFile)(redocly, ['lint', golden, '--format', 'json'], { cwd: packageRoot, env: { ...process.env, REDOCLY_TELEMETRY: 'off' } })
  t.match(JSON.parse(stdout.slice(stdout.indexOf('{'))), { totals: { errors: 0, warnings: 0, ignored: 0 } }, stderr)

  const operations = Object.values(document.paths as Record<string, Record<string, { operationId?: string, tags?: string[], summary?: string, responses: Record<string, object> }>>).flatMap(Object.values)
  t.equal(new Set(operations.map(({ operationId }) => operationId)).size, operations.length, 'every operation has an id of its own')
  for (const { operationId, tags, summary, responses } of operations) {
    t.ok(operationId !== undefined && summary !== undefined && tags?.length === 1, operationId)
    for (const status of ['400', '401', '429', '500', '503']) t.ok(status in responses, `${operationId} tells of ${status}`)
  }
})

t.test('security schemes follow the method and the public paths', async t => {
  const open = (await build(t)).swagger() as unknown as { security: object[] }
  t.same(open.security, [], 'an open server asks for nothing')
  const app = await build(t, { auth: 'jwt', 'public-paths': '/api/models' })
  const { security, paths } = app.swagger() as unknown as { security: object[], paths: Record<string, Record<string, { security?: object[] }>> }
  t.same(security, [{ token: [] }, { apiKey: [] }])
  t.same(paths['/api/models']?.get?.security, [])
  t.equal(paths['/api/models/refresh']?.post?.security, undefined)
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

t.test('a client is told when to come back', async t => {
  const app = await build(t, { auth: 'jwt', 'rate-limit': '1' })
  const alice = await as(app, 'alice')
  t.equal((await alice('/api/models')).statusCode, 200)
  const limited = await alice('/api/models')
  t.equal(limited.statusCode, 429)
  t.match(limited.headers['retry-after'], /^\d+$/)
})
