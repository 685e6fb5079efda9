import { exampleTime, named, Nullable, Time } from '../../lib/http/schemas.ts'
import { Type } from '../../lib/http/type.ts'
import { ModelType } from './values.ts'

export const ModelName = Type.String({
  minLength: 1,
  maxLength: 512,
  description: 'Id or name',
  examples: ['checkpoint/sd15.safetensors']
})

/** An id has slashes; clients that encode them and people who do not both get their model. */
export const ModelId = Type.Object({
  id: Type.String({
    maxLength: 1024,
    description: 'Id of the model, its slashes as %2F or as they are',
    examples: ['checkpoint/sd15.safetensors']
  })
})
export const ModelPath = Type.Object({ '*': Type.String({ maxLength: 1024 }) })

const Side = { width: Type.Integer(), height: Type.Integer() }

export const modelExample = {
  id: 'checkpoint/sd15.safetensors',
  type: 'checkpoint',
  name: 'sd15',
  format: 'safetensors',
  size: 2132696762,
  architecture: 'sd1',
  variant: null,
  quantization: 'F16',
  parameters: 1066235307,
  prediction: null,
  resolution: 512,
  sha256: null,
  modified_at: exampleTime,
  blocked: null,
  error: null,
  defaults: { width: 512, height: 512, steps: 20, cfg_scale: 7 },
  limits: { min_side: 64, max_side: 2048, multiple_of: 64, square_only: false },
  trigger_words: [],
  metadata: {},
  loaded: true
}

export const Model = named('ModelFile', Type.Object({
  id: Type.String({ description: 'type/relative/path' }),
  type: ModelType(),
  name: Type.String(),
  format: Type.String({ description: 'safetensors, gguf, bundle for models of several files…' }),
  size: Type.Integer({ description: 'Bytes' }),
  architecture: Nullable(Type.String()),
  variant: Nullable(Type.String()),
  quantization: Nullable(Type.String({ description: 'Data type of most weights, or mixed' })),
  parameters: Nullable(Type.Integer({ description: 'Number of weights' })),
  prediction: Nullable(Type.String()),
  resolution: Nullable(Type.Integer({ description: 'Pixels of one side that it was trained for' })),
  sha256: Nullable(Type.String({ description: 'Known once it was asked for' })),
  modified_at: Time('When the file was changed'),
  blocked: Nullable(Type.String({ description: 'Why it is never loaded' })),
  error: Nullable(Type.String({ description: 'Why it cannot be loaded as it is' })),
  defaults: Nullable(Type.Object({
    ...Type.Partial(Type.Object({
      ...Side,
      steps: Type.Integer(),
      cfg_scale: Type.Number(),
      guidance: Type.Number(),
      sampler: Type.String(),
      scheduler: Type.String()
    })).properties
  }, { description: 'What a request that leaves these out gets' })),
  limits: Nullable(Type.Object({
    min_side: Type.Integer(),
    max_side: Type.Integer(),
    multiple_of: Type.Integer(),
    square_only: Type.Boolean()
  })),
  trigger_words: Type.Array(Type.String()),
  metadata: Type.Record(Type.String(), Type.String()),
  loaded: Type.Boolean({ description: 'In the memory of the engine' }),
  path: Type.Optional(Type.String({ description: 'For those who may manage models' }))
}, {
  description: 'A model file, or several that make one',
  examples: [modelExample]
}))
