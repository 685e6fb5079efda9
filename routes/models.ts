import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { Type, type Static } from '../lib/http/type.ts'
import { apiError } from '../errors.ts'
import { toLoad } from '../lib/generation/run/engine-terms.ts'
import { totalsByType } from '../lib/models/listing.ts'
import { describeModel, type Model } from '../lib/models/model.ts'
import { Remembered } from '../lib/util/remembered.ts'
import { Named, named, None, Nullable } from '../lib/http/schemas.ts'
import { waitBounds } from './schemas/jobs.ts'
import { Model as ModelSchema, modelExample, ModelId, ModelName, ModelPath } from './schemas/models.ts'
import { NextCursor, PageQuery } from './schemas/paging.ts'
import { ModelType } from './schemas/values.ts'

const tags = ['models']
const config = { permission: 'models:read' } as const

const deviceName = { minLength: 1, maxLength: 64, examples: ['cuda0'] }

/** Of what is done between two jobs. */
const Turn = Type.Object({
  wait: Type.Optional(Type.Integer({
    ...waitBounds,
    default: 60,
    description: 'Seconds to wait for the running job to end'
  }))
}, { additionalProperties: false })
const turn = 'Waits for the running job to end, up to `wait` seconds. After these, or when the caller goes, ' +
  'nothing is done and the answer is 503. '

const Warning = Type.Object({ path: Type.Optional(Type.String()), message: Type.String() }, { title: 'ScanWarning' })

const ModelPage = named('ModelPage', Type.Object({
  models: Type.Array(Named(ModelSchema)),
  total: Type.Integer({ description: 'Of all pages' }),
  next_cursor: NextCursor
}, { description: 'A page of models', examples: [{ models: [modelExample], total: 1, next_cursor: null }] }))

const ModelTypes = named('ModelTypes', Type.Object({
  types: Type.Array(Type.Object({
    type: ModelType(),
    count: Type.Integer(),
    size: Type.Integer({ description: 'Bytes' }),
    unusable: Type.Integer({ description: 'Blocked or damaged' })
  }, { title: 'ModelTypeTotal' }))
}, {
  description: 'Number and size of the models of each type',
  examples: [{ types: [{ type: 'checkpoint', count: 3, size: 6398090286, unusable: 1 }] }]
}))

const ModelDirectories = named('ModelDirectories', Type.Object({
  directories: Type.Array(Type.Object({
    name: Type.String(),
    path: Type.Optional(Type.String({ description: 'For those who may manage models' })),
    type: Nullable(ModelType()),
    models: Type.Integer(),
    size: Type.Integer({ description: 'Bytes' }),
    readable: Type.Boolean(),
    warnings: Type.Array(Warning)
  }, { title: 'ModelDirectory' }))
}, {
  description: 'The folders that are searched',
  examples: [{
    directories: [{ name: 'models', type: null, models: 12, size: 31398090286, readable: true, warnings: [] }]
  }]
}))

const Refresh = named('Refresh', Type.Object({
  models: Type.Integer(),
  added: Type.Integer(),
  removed: Type.Integer(),
  changed: Type.Integer(),
  duration_ms: Type.Integer(),
  warnings: Type.Array(Warning)
}, {
  description: 'What a look at the folders found',
  examples: [{ models: 12, added: 1, removed: 0, changed: 0, duration_ms: 35, warnings: [] }]
}))

const routes: FastifyPluginAsyncTypebox = async (app) => {
  const patienceOf = ({ wait }: Static<typeof Turn>, { closeSignal: signal }: FastifyReply) => ({
    timeout: wait! * 1000,
    signal
  })

  /** Where files lie is for those who manage them. */
  const isAdmin = ({ principal }: FastifyRequest) => principal.permissions.includes('models:manage')
  const onWire = (model: Model, request: FastifyRequest) => ({
    ...describeModel(model, { admin: isAdmin(request) }), loaded: app.jobs.loadedModels.includes(model.id)
  })

  // Programs ask for the list over and over, and it hardly ever changes: a page is made into JSON once.
  const pages = new Remembered<string>({
    get version () { return `${app.models.version} ${app.jobs.loadedModels.join()}` }
  }, 20)

  app.get('', {
    config,
    schema: {
      operationId: 'listModels',
      tags,
      summary: 'List models, in the order of their ids',
      description: 'Checkpoints, LoRAs, VAEs and whatever else lies in the models folders, also what is blocked or ' +
        'damaged, with the reason.',
      querystring: Type.Object({
        type: Type.Optional(ModelType()),
        architecture: Type.Optional(Type.String({ maxLength: 64 })),
        search: Type.Optional(Type.String({ maxLength: 255, description: 'Part of the id, name or title' })),
        ...PageQuery
      }, { additionalProperties: false }),
      response: { 200: Named(ModelPage) }
    }
  }, (request, reply) => { // not async: an answer that is sent in a promise is watched to its end, which costs a tenth
    const page = pages.get(`${isAdmin(request)} ${request.url}`, () => {
      const page = app.models.list(request.query)
      return reply.serializeInput({
        ...page,
        models: page.models.map(model => onWire(model, request))
      }, '200') as string
    })
    reply.type('application/json; charset=utf-8').send(page as never)
  })

  app.get('/types', {
    config,
    schema: {
      operationId: 'listModelTypes',
      tags,
      summary: 'Number and size of the models of each type',
      description: 'All types that there are, those without a model too.',
      response: { 200: Named(ModelTypes) }
    }
  }, async () => ({ types: totalsByType(app.models.all()) }))

  app.get('/directories', {
    config,
    schema: {
      operationId: 'listModelDirectories',
      tags,
      summary: 'The folders that are searched',
      description: 'With what was skipped in them, and why.',
      response: { 200: Named(ModelDirectories) }
    }
  }, async request => ({
    directories: app.models.directories().map(({ path, warnings, ...directory }) => isAdmin(request)
      ? { ...directory, path, warnings }
      : { ...directory, warnings: warnings.map(({ message }) => ({ message })) })
  }))

  app.post('/refresh', {
    config: { permission: 'models:manage' },
    schema: {
      operationId: 'refreshModels',
      tags,
      summary: 'Look at the folders again',
      description: 'They are watched, so this is for network file systems, which announce no changes.',
      response: { 200: Named(Refresh) }
    }
  }, async () => app.models.rescan())

  app.post('/load', {
    config: { permission: 'models:manage' },
    schema: {
      operationId: 'loadModel',
      tags,
      summary: 'Load a model into the memory of the engine, so that its next job starts sooner',
      description: `${turn}Jobs load their models by themselves; this is for the first one.`,
      errors: ['SDR_MODEL_NOT_FOUND', 'SDR_UNSUPPORTED_MODEL', 'SDR_DRAINING'],
      querystring: Turn,
      body: Type.Object({
        model: ModelName,
        device: Type.Optional(Type.String({
          ...deviceName,
          description: 'Where, as --devices names it; one that has room when absent'
        }))
      }, { additionalProperties: false, examples: [{ model: 'checkpoint/sd15.safetensors' }] }),
      response: { 200: Named(ModelSchema) }
    }
  }, async (request, reply) => {
    const model = app.models.resolve(request.body.model)
    await app.jobs.loadModel(model.id, ({ name, engine }) => toLoad(model, {
      catalog: app.models, engine, options: { ...app.config, device: name }
    }), request.body.device, patienceOf(request.query, reply))
    return onWire(model, request)
  })

  app.post('/unload', {
    config: { permission: 'models:manage' },
    schema: {
      operationId: 'unloadModel',
      tags,
      summary: 'Free the memory of the loaded model',
      description: `${turn}The next job loads its model again.`,
      errors: ['SDR_DRAINING'],
      querystring: Turn,
      body: Nullable(Type.Object({
        device: Type.Optional(Type.String({
          ...deviceName,
          description: 'Where, as --devices names it; everywhere when absent'
        }))
      }, { additionalProperties: false, examples: [{}] })),
      response: { 204: None }
    }
  }, async (request, reply) => {
    await app.jobs.unloadModel(request.body?.device, patienceOf(request.query, reply))
    return reply.code(204).send(null)
  })

  const getModel = async (request: FastifyRequest, reply: FastifyReply, id: string) => {
    const model = app.models.get(id)
    if (model !== undefined) return onWire(model, request)
    // No id is like this, so it is the URL that has a slash too many: /api/models/
    if (id.split('/').includes('')) return reply.callNotFound() as never
    throw apiError('SDR_MODEL_NOT_FOUND')
  }
  const details = {
    config,
    schema: {
      operationId: 'getModel',
      tags,
      summary: 'Get a model',
      description: 'What its header tells, and what a request that leaves these out gets.',
      errors: ['SDR_MODEL_NOT_FOUND'] as const,
      response: { 200: Named(ModelSchema) }
    }
  }
  app.get('/:id', {
    ...details, schema: { ...details.schema, params: ModelId }
  }, async (request, reply) => await getModel(request, reply, request.params.id))
  app.get('/*', {
    ...details, schema: { hide: true, params: ModelPath, response: { 200: Named(ModelSchema) } }
  }, async (request, reply) => await getModel(request, reply, request.params['*']))
}

export default routes
