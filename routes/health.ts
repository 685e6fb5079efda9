import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from 'typebox'
import { apiError } from '../errors.ts'
import { version } from '../lib/version.ts'
import { OneOf, Time } from './schemas.ts'

const Status = Type.Object({
  status: OneOf(['ok', 'degraded', 'draining']),
  version: Type.String(),
  uptime_seconds: Type.Integer(),
  queue: Type.Object({ queued: Type.Integer(), running: Type.Integer() }),
  engine: Type.Object({
    name: OneOf(['native', 'portable']),
    state: Type.String(),
    version: Type.Optional(Type.String()),
    device: Type.Optional(Type.String()),
    pid: Type.Optional(Type.Union([Type.Integer(), Type.Null()])),
    restarts: Type.Optional(Type.Integer()),
    last_crash: Type.Optional(Type.Union([Type.Object({ reason: Type.String(), at: Time('When') }), Type.Null()])),
    model: Type.Optional(Type.Union([Type.String(), Type.Null()], { description: 'Id of the model in memory' }))
  }, { description: 'Only name and state for callers without credentials' }),
  models: Type.Object({ total: Type.Integer() }),
  auth: Type.String({ description: 'The authentication method' })
})

const routes: FastifyPluginAsyncTypebox = async (app) => {
  const isDraining = () => app.jobs.status.scheduler.state === 'draining'

  app.get('/health', {
    schema: {
      public: true,
      operationId: 'getHealth',
      tags: ['server'],
      summary: 'Is the server up?',
      response: {
        200: Type.Object({ status: Type.Literal('ok'), timestamp: Time('The time of the server'), version: Type.String() })
      }
    }
  }, async () => {
    if (isDraining()) throw apiError('SDR_DRAINING')
    return { status: 'ok' as const, timestamp: new Date().toISOString(), version }
  })

  app.get('/status', {
    schema: {
      public: true,
      operationId: 'getStatus',
      tags: ['server'],
      summary: 'What the server is doing',
      response: { 200: Status }
    }
  }, async request => {
    const { queued, running, scheduler } = app.jobs.status
    const { engine: name, state, ...details } = app.engine.status
    const status = isDraining() ? 'draining' as const : state === 'backing_off' ? 'degraded' as const : 'ok' as const
    const isKnown = request.principal.via !== 'guest'
    return {
      status,
      version,
      uptime_seconds: Math.floor(process.uptime()),
      queue: { queued, running },
      engine: {
        name,
        state,
        ...(isKnown ? { version: app.engine.info?.version, device: app.engine.info?.device, ...details, model: scheduler.loaded_model } : {})
      },
      models: { total: app.models.size },
      auth: app.config.auth
    }
  })
}

export default routes
