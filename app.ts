import { randomUUID } from 'node:crypto'
import { fastifySSE } from '@fastify/sse'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import Fastify, { LogController, type FastifyBaseLogger, type FastifyInstance } from 'fastify'
import { refuseConnection } from './lib/http/error-answers.ts'
import { addSchemas } from './lib/http/schemas.ts'
import { withoutBasePath } from './lib/http/base-path.ts'
import type { Options } from './lib/options/options.ts'
import { trustedProxies } from './lib/options/trusted-proxies.ts'
import accessLog from './plugins/access-log.ts'
import accounts, { type AccountOptions } from './plugins/accounts.ts'
import answers from './plugins/answers.ts'
import audit from './plugins/audit.ts'
import authApiKey from './plugins/auth-api-key.ts'
import authJwt from './plugins/auth-jwt.ts'
import authNone from './plugins/auth-none.ts'
import authOptional from './plugins/auth-optional.ts'
import authPam from './plugins/auth-pam.ts'
import authUnix from './plugins/auth-unix.ts'
import closeSignal from './plugins/close-signal.ts'
import config from './plugins/config.ts'
import connections, { connectionTimes, type ConnectionTimes } from './plugins/connections.ts'
import documentation from './plugins/documentation.ts'
import engine, { type EngineOptions } from './plugins/engine.ts'
import errors, { sendError } from './plugins/errors.ts'
import goneOwners from './plugins/gone-owners.ts'
import guard from './plugins/guard.ts'
import imageJobs from './plugins/image-jobs.ts'
import images from './plugins/images.ts'
import jobs from './plugins/jobs.ts'
import json from './plugins/json.ts'
import logins from './plugins/logins.ts'
import metrics from './plugins/metrics.ts'
import modelAliases from './plugins/model-aliases.ts'
import models from './plugins/models.ts'
import openapi from './plugins/openapi.ts'
import publicRoutes from './plugins/public-routes.ts'
import rateLimit from './plugins/rate-limit.ts'
import readiness from './plugins/readiness.ts'
import routeNeeds from './plugins/route-needs.ts'
import security from './plugins/security.ts'
import serialization, { type SchemaOptions } from './plugins/serialization.ts'
import store from './plugins/store.ts'
import tokens from './plugins/tokens.ts'
import validation from './plugins/validation.ts'
import a1111Routes, { controlnetRoutes } from './routes/compat/a1111.ts'
import openaiRoutes from './routes/compat/openai.ts'
import authRoutes from './routes/auth.ts'
import generateRoutes from './routes/generate.ts'
import healthRoutes from './routes/health.ts'
import keyRoutes from './routes/keys.ts'
import metricsRoutes from './routes/metrics.ts'
import modelFileRoutes from './routes/model-files.ts'
import modelRoutes from './routes/models.ts'
import parameterRoutes from './routes/parameters.ts'
import signInRoutes from './routes/sign-in.ts'
import queueRoutes from './routes/queue.ts'
import userRoutes from './routes/users.ts'

const authMethods = {
  none: authNone, jwt: authJwt, 'api-key': authApiKey, unix: authUnix, pam: authPam, optional: authOptional
} as const

/** Bytes of a body, where the route does not say: twice the longest valid one, so that a refusal can name the field. */
const bodyLimit = 16 * 1024

export interface AppParts extends AccountOptions, SchemaOptions, EngineOptions {
  logger?: FastifyBaseLogger
  /** Set by `serve` when --tls-cert is given. */
  https?: { cert: Buffer, key: Buffer } | null
  /** Shorter ones are for tests. */
  connectionTimes?: ConnectionTimes
}

/**
 * Builds the server without letting it listen. The order of registration is the order in which a request meets them.
 * @throws {CommandError} when something that the options name is missing, unreadable or wrong.
 */
export async function buildApp (
  options: Options,
  { logger, https = null, connectionTimes: times = connectionTimes, ...parts }: AppParts = {}
): Promise<FastifyInstance> {
  let app: FastifyInstance | undefined
  try {
    app = bareApp(options, { logger, https, times })
    await registerParts(app, options, { times, ...parts })
    return app
  } catch (error) {
    // The caller never sees this app: without this the engine processes would keep the program from ending.
    await Promise.allSettled([app?.close(), parts.engines?.then(async ({ stop }) => stop())])
    throw error
  }
}

function bareApp (
  options: Options,
  { logger, https, times }: Pick<AppParts, 'logger'> & {
    https: NonNullable<AppParts['https']> | null
    times: ConnectionTimes
  }
): FastifyInstance {
  const rewrite = withoutBasePath(options.basePath)
  const app = Fastify({
    ...(options.basePath === undefined ? {} : { rewriteUrl: ({ url = '/' }: { url?: string }) => rewrite(url) }),
    ...(logger === undefined ? { logger: false } : { loggerInstance: logger }),
    https,
    bodyLimit,
    trustProxy: trustedProxies(options.trustProxy),
    genReqId: () => randomUUID(),
    requestIdHeader: false,
    // Health checks come every few seconds; `access` lines (--verbose) and the audit log say what matters.
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'request_id' }),
    connectionTimeout: times.idle,
    requestTimeout: 0, // plugins/connections.ts bounds bodies by their progress; headers have 60 seconds
    // Not ten seconds for each plugin and each hook: a cold scan of many models, an engine whose driver wakes up and
    // the drain of --shutdown-timeout take what they take, and bound themselves.
    pluginTimeout: 0,
    // Clients that follow the running job keep their streams while the server drains; /api/ready tells load balancers.
    return503OnClosing: false,
    keepAliveTimeout: 72_000,
    // As long as a URL can be: the router would say before the guard that there is a route. Schemas are stricter.
    routerOptions: { maxParamLength: 16 * 1024 },
    frameworkErrors: sendError,
    clientErrorHandler: refuseConnection
  }).withTypeProvider<TypeBoxTypeProvider>() as unknown as FastifyInstance

  // Nothing here takes plain text, and a parser for it would turn a wrong Content-Type into a riddle.
  app.removeContentTypeParser('text/plain')

  return app
}

async function registerParts (
  app: FastifyInstance, options: Options,
  { times, compileAtOnce, engines, passwordCost }: AccountOptions & SchemaOptions & EngineOptions & {
    times: ConnectionTimes
  }
): Promise<void> {
  const schemas = { compileAtOnce }
  await app.register(config, { config: options })
  await app.register(routeNeeds)
  await app.register(errors)
  await app.register(connections, { times })
  await app.register(closeSignal)
  await app.register(metrics)
  await app.register(json)
  await app.register(validation, schemas)
  await app.register(serialization, schemas)
  await app.register(security)
  await app.register(rateLimit)
  await app.register(answers)

  await app.register(store)
  await app.register(accounts, { passwordCost })
  await app.register(audit)
  await app.register(publicRoutes)
  await app.register(accessLog)
  await app.register(guard)
  await app.register(tokens)
  await app.register(logins)
  await app.register(authMethods[options.auth])

  await app.register(images)
  await app.register(models)
  await app.register(engine, { engines })
  await app.register(jobs)
  await app.register(imageJobs)
  await app.register(modelAliases)
  await app.register(goneOwners)
  await app.register(readiness)

  await app.register(openapi)
  await app.register(fastifySSE)
  addSchemas(app)
  await app.register(healthRoutes, { prefix: '/api' })
  await app.register(authRoutes, { prefix: '/api/auth' })
  await app.register(keyRoutes, { prefix: '/api/auth/keys' })
  await app.register(userRoutes, { prefix: '/api/users' })
  await app.register(modelRoutes, { prefix: '/api/models' })
  await app.register(modelFileRoutes, { prefix: '/api/models' })
  await app.register(parameterRoutes, { prefix: '/api' })
  await app.register(generateRoutes, { prefix: '/api/generate' })
  await app.register(queueRoutes, { prefix: '/api/queue' })
  await app.register(metricsRoutes)
  if (options.compat.includes('openai')) {
    await app.register(openaiRoutes, { prefix: '/v1', isDocumented: true })
    await app.register(openaiRoutes, { prefix: '/api/v1', isDocumented: false })
  }
  if (options.compat.includes('a1111')) {
    await app.register(a1111Routes, { prefix: '/sdapi/v1' })
    await app.register(controlnetRoutes, { prefix: '/controlnet' })
  }
  await app.register(signInRoutes)
  await app.register(documentation)
}
