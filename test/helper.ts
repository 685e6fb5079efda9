import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { FastifyInstance, InjectOptions, LightMyRequestResponse } from 'fastify'
import type { Test } from 'tap'
import { buildApp, type AppParts } from '../app.ts'
import type { ErrorCode } from '../errors.ts'
import type { Options } from '../lib/options/options.ts'
import { resolveOptions } from '../lib/options/resolve.ts'
import type { AccountRole } from '../lib/options/permissions.ts'
import { writeCheckpoint } from '../bin/support/demo-model/checkpoints.ts'

/** Log₂ of scrypt's N in tests: the algorithm is the same, only the waiting is shorter. */
export const testPasswordCost = 10

export const password = 'correct horse battery staple'

/** A folder for one test, removed afterwards, with `models/minit2i.safetensors` in it when `models` is asked for. */
export function workspace (t: Test, { models = true } = {}): { folder: string, models: string, data: string } {
  const folder = mkdtempSync(join(tmpdir(), 'sdrest-test-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const paths = { folder, models: join(folder, 'models'), data: join(folder, 'data') }
  mkdirSync(paths.models)
  if (models) writeCheckpoint('minit2i', join(paths.models, 'minit2i.safetensors'))
  return paths
}

/** Builds the real application on a folder of its own. */
export async function build (
  t: Test,
  options: Partial<Record<string, unknown>> = {},
  { models = true, ...parts }: AppParts & { models?: boolean } = {}
): Promise<FastifyInstance> {
  const { models: modelsDir, data } = workspace(t, { models })
  const app = await buildApp(testOptions({ 'models-dir': [modelsDir], 'data-dir': data, ...options }), {
    passwordCost: testPasswordCost,
    ...parts
  })
  t.teardown(() => app.close())
  await app.ready()
  holdToDocument(t, app)
  return app
}

/** Fails the test when a route answers with a status, or a Location, that the OpenAPI document does not list for it. */
function holdToDocument (t: Test, app: FastifyInstance): void {
  const { paths } = app.swagger() as unknown as {
    paths: Record<string, Record<string, {
      operationId: string
      responses: Record<string, { headers?: object }>
    }>>
  }
  const routes = Object.entries(paths).map(([path, operations]) => ({
    operations, pattern: new RegExp(`^${path.replaceAll(/\{\w+\}/g, '[^/]+')}$`)
  })).sort((a, b) => b.pattern.source.length - a.pattern.source.length)
  const inject = app.inject.bind(app) as (request: InjectOptions | string) => Promise<LightMyRequestResponse>
  app.inject = (async (request: InjectOptions | string) => {
    const response = await inject(request)
    const { method = 'GET', url = request } = typeof request === 'string' ? {} : request
    const path = String(url).split('?', 1)[0]!
    const operation = routes.find(({ pattern }) => pattern.test(path))?.operations[method.toLowerCase()]
    if (operation === undefined) return response
    const foreseen = operation.responses[response.statusCode]
    // What is answered before there is a route is said once for all operations.
    if (foreseen === undefined && [408, 414, 421, 431].includes(response.statusCode)) return response
    if (foreseen === undefined) t.fail(`The document says of ${operation.operationId} nothing of ${response.statusCode}: ${response.body.slice(0, 500)}`)
    else if ('location' in response.headers && !('Location' in (foreseen.headers ?? {}))) {
      t.fail(`The document says nothing of the Location of ${operation.operationId}, ${response.statusCode}`)
    }
    return response
  }) as typeof app.inject
}

export function testOptions (options: Record<string, unknown>): Options {
  return resolveOptions({ commandLine: { threads: '1', engine: 'portable', 'shutdown-timeout': '5', ...options } })
}

/** Makes an account and logs it in; the returned function sends requests as that account. */
export async function as (app: FastifyInstance, username: string, role: AccountRole = 'user') {
  if (await app.store.accounts.find(username) === undefined) await app.accounts.create({ username, password, role })
  const { token, refresh_token: refreshToken, user } = (await app.inject({
    method: 'POST', url: '/api/auth/login', body: { username, password }
  })).json<{ token: string, refresh_token: string, user: { id: string } }>()
  const send = (request: InjectOptions | string) => app.inject(withHeaders(request, { authorization: `Bearer ${token}` }))
  return Object.assign(send, { token, refreshToken, id: user.id })
}

function withHeaders (request: InjectOptions | string, headers: Record<string, string>): InjectOptions {
  return typeof request === 'string' ? { url: request, headers } : { ...request, headers: { ...headers, ...request.headers } }
}

/** Checks status, code and shape of an error. */
export function expectError (
  t: Test, response: LightMyRequestResponse, status: number, code: ErrorCode, message?: RegExp
): void {
  t.equal(response.statusCode, status, response.body)
  t.match(response.json(), { error: { code, message: message ?? String, request_id: String } })
}
