import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from '../lib/http/type.ts'
import { apiError } from '../errors.ts'
import type { LaneStatus } from '../lib/jobs/schedule/lane.ts'
import { version } from '../lib/util/version.ts'
import { Named, named, Nullable, OneOf, Time } from '../lib/http/schemas.ts'
import { AuthMethod } from './schemas/values.ts'

const Health = named('Health', Type.Object({
  status: Type.Literal('ok'),
  timestamp: Time('The time of the server'),
  version: Type.String()
}, {
  description: 'The server is up',
  examples: [{ status: 'ok', timestamp: '2026-08-01T12:00:00.000Z', version }]
}))

const Ready = named('Ready', Type.Object({ status: Type.Literal('ready') }, {
  description: 'Work may be sent here', examples: [{ status: 'ready' }]
}))

const Process = {
  pid: Type.Optional(Nullable(Type.Integer())),
  restarts: Type.Optional(Type.Integer()),
  last_crash: Type.Optional(Nullable(Type.Object({
    reason: Type.String(),
    at: Time('When')
  }, { title: 'EngineCrash' }))),
  model: Type.Optional(Nullable(Type.String({ description: 'Id of the model in memory' }))),
  residency: Type.Optional(Nullable(Type.Object({
    loaded_at: Time('When the model was loaded'),
    idle_since: Nullable(Time('When it was last needed; null while it is')),
    size: Nullable(Type.Integer({ description: 'Bytes of its files' }))
  }, { title: 'ModelResidency', description: 'Of the model in memory; --idle-unload frees it' })))
}

const Status = named('Status', Type.Object({
  status: OneOf(['ok', 'degraded', 'draining'], { description: 'degraded while the engine cannot be started' }),
  version: Type.String(),
  uptime_seconds: Type.Integer(),
  queue: Type.Object({ queued: Type.Integer(), running: Type.Integer() }),
  engine: Type.Object({
    name: OneOf(['native', 'portable']),
    state: Type.String(),
    version: Type.Optional(Type.String()),
    device: Type.Optional(Type.String({ description: 'In the words of the engine' })),
    ...Process
  }, { description: 'The one of the first device. Only name and state for callers without credentials' }),
  engines: Type.Optional(Type.Array(Type.Object({
    device: Type.String({ description: 'As --device or --devices names it' }),
    state: Type.String(),
    ...Process
  }, { title: 'DeviceEngine' }), { description: 'One for each device; absent for callers without credentials' })),
  models: Type.Object({ total: Type.Integer() }),
  auth: AuthMethod({ description: 'The authentication method' })
}, {
  description: 'What the server is doing',
  examples: [{
    status: 'ok',
    version,
    uptime_seconds: 3600,
    queue: { queued: 2, running: 1 },
    engine: {
      name: 'native',
      state: 'busy',
      device: 'CUDA0',
      restarts: 0,
      last_crash: null,
      model: 'checkpoint/sd15.safetensors'
    },
    engines: [{
      device: 'cuda0',
      state: 'busy',
      pid: 4711,
      restarts: 0,
      last_crash: null,
      model: 'checkpoint/sd15.safetensors'
    }],
    models: { total: 12 },
    auth: 'jwt'
  }]
}))

const routes: FastifyPluginAsyncTypebox = async (app) => {
  const memoryOf = ({ loaded_model: model, residency }: LaneStatus) => ({
    model, residency: residency && { ...residency, size: app.models.get(model ?? '')?.size ?? null }
  })

  app.get('/health', {
    schema: {
      public: true,
      operationId: 'getHealth',
      tags: ['server'],
      summary: 'Is the server up?',
      description: 'For monitoring: 503 once the server has been told to shut down.',
      errors: ['SDR_DRAINING'],
      response: { 200: Named(Health) }
    }
  }, async () => {
    if (app.jobs.isDraining) throw apiError('SDR_DRAINING')
    return { status: 'ok' as const, timestamp: new Date().toISOString(), version }
  })

  app.get('/ready', {
    config: { anyCaller: true },
    schema: {
      operationId: 'getReadiness',
      tags: ['server'],
      summary: 'Should work be sent here?',
      description: 'For load balancers: 503 while the server drains, its engine is down or its data folder cannot be ' +
        'written to; `error.code` and `error.details[0].reason` say which. Any valid credentials will do, or ' +
        '--public-paths /api/ready.',
      errors: ['SDR_DRAINING', 'SDR_UNAVAILABLE'],
      response: { 200: Named(Ready) }
    }
  }, async request => {
    const error = await app.readiness(request.principal)
    if (error !== undefined) throw error
    return { status: 'ready' as const }
  })

  app.get('/status', {
    schema: {
      public: true,
      operationId: 'getStatus',
      tags: ['server'],
      summary: 'What the server is doing',
      description: 'Counts of the queue and the models, and the state of the engine; callers with credentials see ' +
        'more of the engine, and with the permission `system:read` why it crashed.',
      response: { 200: Named(Status) }
    }
  }, async request => {
    const { queued, running, scheduler: { lanes } } = await app.jobs.status()
    const engines = app.devices.map(({ name: device, engine: { status: { engine: name, ...status }, info } }) => ({
      name, device, info, status: { ...status, ...memoryOf(lanes.find(lane => lane.device === device)!) }
    }))
    if (!request.principal.permissions.includes('system:read')) {
      // The last words of an engine name files of this machine.
      for (const { status } of engines) {
        if (status.last_crash !== null) {
          status.last_crash = { ...status.last_crash, reason: 'The engine crashed.' }
        }
      }
    }
    const [{ name, info, status: { state, ...details } }] = engines as [typeof engines[number]]
    const isDegraded = engines.some(({ status: { state } }) => state === 'backing_off')
    const status = app.jobs.isDraining ? 'draining' as const : isDegraded ? 'degraded' as const : 'ok' as const
    const isKnown = request.principal.via !== 'guest'
    return {
      status,
      version,
      uptime_seconds: Math.floor(process.uptime()),
      queue: { queued, running },
      engine: {
        name,
        state,
        ...(isKnown && { version: info?.version, device: info?.device, ...details })
      },
      ...(isKnown && { engines: engines.map(({ device, status }) => ({ device, ...status })) }),
      models: { total: app.models.size },
      auth: app.config.auth
    }
  })
}

export default routes
