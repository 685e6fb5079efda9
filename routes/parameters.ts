import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type, type Static } from 'typebox'
import { capabilityNames, type Capability } from '../lib/engine/engine.ts'
import { requestParameters } from '../lib/generation/parameters.ts'
import { OneOf } from './schemas.ts'

const tags = ['models']
const config = { permission: 'models:read' } as const

const Names = Type.Array(Type.String())

const Parameter = Type.Object({
  name: Type.String(),
  type: OneOf(['string', 'integer', 'number', 'boolean', 'array', 'object']),
  description: Type.String(),
  required: Type.Boolean(),
  default: Type.Optional(Type.Unknown()),
  minimum: Type.Optional(Type.Number()),
  maximum: Type.Optional(Type.Number()),
  multiple_of: Type.Optional(Type.Number()),
  max_length: Type.Optional(Type.Number()),
  values: Type.Optional(Names)
})

const routes: FastifyPluginAsyncTypebox = async (app) => {
  app.get('/samplers', {
    config,
    schema: { operationId: 'listSamplers', tags, summary: 'Samplers of the running engine', response: { 200: Type.Object({ samplers: Names }) } }
  }, async () => ({ samplers: app.engineInfo.samplers }))

  app.get('/schedulers', {
    config,
    schema: { operationId: 'listSchedulers', tags, summary: 'Schedulers of the running engine', response: { 200: Type.Object({ schedulers: Names }) } }
  }, async () => ({ schedulers: app.engineInfo.schedulers }))

  app.get('/parameters', {
    config,
    schema: {
      operationId: 'listParameters',
      tags,
      summary: 'What a request can say, with ranges and defaults',
      response: {
        200: Type.Object({
          engine: OneOf(['native', 'portable']),
          capabilities: Type.Unsafe<Capability[]>({ type: 'array', items: { type: 'string', enum: [...capabilityNames] }, description: 'What the running engine can do' }),
          parameters: Type.Array(Parameter)
        })
      }
    }
  }, async () => ({
    engine: app.engineInfo.engine,
    capabilities: app.engineInfo.capabilities,
    parameters: Object.entries(requestParameters(app.config, app.engineInfo)).map(([name, schema]) => describe(name, schema))
  }))
}

function describe (name: string, schema: object): Static<typeof Parameter> {
  const { type, description, default: standard, minimum, maximum, multipleOf, maxLength, enum: values } =
    schema as Static<typeof Parameter> & { multipleOf?: number, maxLength?: number, enum?: string[] }
  return {
    name,
    type,
    description,
    required: name === 'prompt',
    default: standard,
    minimum,
    maximum,
    multiple_of: multipleOf,
    max_length: maxLength,
    values
  }
}

export default routes
