import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type, type Static, type TSchema } from '../lib/http/type.ts'
import { isRequired, requestParameters } from '../lib/generation/request-schema.ts'
import { Named, named, Nullable, OneOf } from '../lib/http/schemas.ts'
import { Capability, ImageType } from './schemas/values.ts'

const tags = ['models']
const config = { permission: 'models:read' } as const

const Names = Type.Array(Type.String())

const Setting = {
  name: Type.String(),
  type: OneOf(['string', 'integer', 'number', 'boolean', 'array', 'object']),
  description: Type.String(),
  default: Type.Optional(Type.Unknown()),
  minimum: Type.Optional(Type.Number()),
  maximum: Type.Optional(Type.Number()),
  multiple_of: Type.Optional(Type.Number()),
  max_length: Type.Optional(Type.Number({ description: 'Characters' })),
  max_items: Type.Optional(Type.Number()),
  values: Type.Optional(Names)
}

const Parameter = Type.Object({
  ...Setting,
  required_by: Type.Array(ImageType(), { description: 'Types of jobs that do not go without it' }),
  used_by: Type.Array(ImageType(), { description: 'Types of jobs that take it' }),
  feature: Nullable(Capability({ description: 'What the engine has to be able to do' })),
  available: Type.Boolean({ description: 'Whether the running engine takes it' }),
  parts: Type.Optional(Type.Array(Type.Object(Setting, { title: 'RequestParameterPart' }), {
    description: 'Fields of an object, or of each entry of a list'
  }))
}, { title: 'RequestParameter' })

const Limits = Type.Object({
  max_pixels: Type.Integer({ description: 'Width × height of one image' }),
  max_work: Type.Integer({ description: 'Width × height × steps × images of one job, in millions' }),
  max_upload_bytes: Type.Integer({ description: 'Bytes of an image that is sent' }),
  max_upload_pixels: Type.Integer({ description: 'Width × height of an image that is sent' }),
  max_upscaled_pixels: Type.Integer({ description: 'Width × height of an upscaled image' })
}, { title: 'RequestLimits', description: 'Bounds that no single parameter has' })

const Samplers = named('Samplers', Type.Object({ samplers: Names }, {
  description: 'Names of samplers', examples: [{ samplers: ['euler', 'euler_a', 'dpm++2m'] }]
}))

const Schedulers = named('Schedulers', Type.Object({ schedulers: Names }, {
  description: 'Names of schedulers', examples: [{ schedulers: ['discrete', 'karras'] }]
}))

const Parameters = named('Parameters', Type.Object({
  engine: OneOf(['native', 'portable']),
  capabilities: Type.Array(Capability(), { description: 'What the running engine can do' }),
  limits: Limits,
  parameters: Type.Array(Parameter)
}, {
  description: 'What a request can say',
  examples: [{
    engine: 'portable',
    capabilities: ['txt2img', 'img2img'],
    limits: {
      max_pixels: 4194304,
      max_work: 1000,
      max_upload_bytes: 20971520,
      max_upload_pixels: 33554432,
      max_upscaled_pixels: 67108864
    },
    parameters: [{
      name: 'steps',
      type: 'integer',
      description: 'Sampling steps',
      minimum: 1,
      maximum: 150,
      required_by: [],
      used_by: ['txt2img', 'img2img'],
      feature: null,
      available: true
    }]
  }]
}))

const routes: FastifyPluginAsyncTypebox = async (app) => {
  app.get('/samplers', {
    config,
    schema: {
      operationId: 'listSamplers',
      tags,
      summary: 'Samplers of the running engine',
      description: 'What `sampler` of a request may be.',
      response: { 200: Named(Samplers) }
    }
  }, async () => ({ samplers: app.engineInfo.samplers }))

  app.get('/schedulers', {
    config,
    schema: {
      operationId: 'listSchedulers',
      tags,
      summary: 'Schedulers of the running engine',
      description: 'What `scheduler` of a request may be.',
      response: { 200: Named(Schedulers) }
    }
  }, async () => ({ schedulers: app.engineInfo.schedulers }))

  app.get('/parameters', {
    config,
    schema: {
      operationId: 'listParameters',
      tags,
      summary: 'What a request can say, with ranges and defaults',
      description: 'For programs that show a form: every parameter, which types of jobs take it, ' +
        'and whether the running engine does.',
      response: { 200: Named(Parameters) }
    }
  }, async () => {
    const { config: options, engineInfo: { engine, capabilities } } = app
    const parameters = Object.entries(requestParameters(options, app.engineInfo))
    return {
      engine,
      capabilities,
      limits: {
        max_pixels: options.maxPixels,
        max_work: options.maxWork,
        max_upload_bytes: options.maxUploadSize * 1024 * 1024,
        max_upload_pixels: options.maxUploadPixels,
        max_upscaled_pixels: options.maxUpscaledPixels
      },
      parameters: parameters.map(([name, { schema, types, feature }]) => ({
        ...describe(name, schema),
        required_by: types.filter(type => isRequired(type, name)),
        used_by: [...types],
        feature: feature ?? null,
        available: (feature === undefined ? types : [feature]).some(needed => capabilities.includes(needed)),
        parts: partsOf(schema)
      }))
    }
  })
}

/** What of JSON Schema the parameters use. */
interface Schema {
  type: Static<typeof Setting.type>
  description: string
  default?: unknown
  minimum?: number
  maximum?: number
  multipleOf?: number
  maxLength?: number
  maxItems?: number
  enum?: string[]
  properties?: Record<string, Schema>
  items?: Schema
}

function describe (name: string, schema: TSchema) {
  const { type, description, default: standard, minimum, maximum, enum: values, ...bounds } =
    schema as unknown as Schema
  return {
    name,
    type,
    description,
    default: standard,
    minimum,
    maximum,
    multiple_of: bounds.multipleOf,
    max_length: bounds.maxLength,
    max_items: bounds.maxItems,
    values
  }
}

function partsOf (schema: TSchema) {
  const { properties, items } = schema as unknown as Schema
  const parts = properties ?? items?.properties
  return parts && Object.entries(parts).map(([name, part]) => describe(name, part as unknown as TSchema))
}

export default routes
