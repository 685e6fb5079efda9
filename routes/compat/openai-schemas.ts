import { Named, named, Nullable } from '../../lib/http/schemas.ts'
import { Type } from '../../lib/http/type.ts'

/** The schemas of the images API of OpenAI. */

export const OpenAIError = named('OpenAIError', Type.Object({
  error: Type.Object({
    message: Type.String({ description: 'For people: what was expected, what came, what to do next' }),
    type: Type.String({ description: 'invalid_request_error, rate_limit_error, server_error…' }),
    param: Nullable(Type.String({ description: 'The field that was refused' })),
    code: Nullable(Type.String({ description: 'For programs' }))
  })
}, {
  description: 'An error as OpenAI has it; x-should-retry is false where a repetition cannot help',
  examples: [{
    error: {
      message: 'Expected an integer from 1 to 10 for n but received 11',
      type: 'invalid_request_error',
      param: 'n',
      code: 'invalid_request'
    }
  }]
}))

const model = {
  id: 'checkpoint/sd15.safetensors',
  object: 'model',
  created: 1785585600,
  owned_by: 'stable-diffusion-rest',
  labels: ['image', 'edit']
}

export const Model = named('OpenAIModel', Type.Object({
  id: Type.String({ description: 'Id of a model, or an alias' }),
  object: Type.String({ description: 'Always model' }),
  created: Type.Integer({ description: 'When its file was last changed, in seconds since 1970' }),
  owned_by: Type.String(),
  labels: Type.Array(Type.String(), { description: 'image, and edit where it takes images' })
}, { description: 'A model as OpenAI has it', examples: [model] }))

export const ModelList = named('OpenAIModelList', Type.Object({
  object: Type.String({ description: 'Always list' }),
  data: Type.Array(Named(Model))
}, { description: 'Models as OpenAI has them', examples: [{ object: 'list', data: [model] }] }))

export const ImagesAnswer = named('OpenAIImages', Type.Object({
  created: Type.Integer({ description: 'Seconds since 1970' }),
  background: Type.String(),
  output_format: Type.String(),
  quality: Type.String(),
  size: Type.String({ description: 'What was drawn, WIDTHxHEIGHT in pixels' }),
  data: Type.Array(Type.Object({
    b64_json: Type.Optional(Type.String({ description: 'The image in base64' })),
    url: Type.Optional(Type.String({ description: 'A link to the image' })),
    seed: Type.Integer({ description: 'Draws the same image again' })
  })),
  usage: Type.Object({
    total_tokens: Type.Integer(),
    input_tokens: Type.Integer(),
    output_tokens: Type.Integer(),
    input_tokens_details: Type.Object({ text_tokens: Type.Integer(), image_tokens: Type.Integer() })
  }, { description: 'Zeros: nothing is counted in tokens' })
}, {
  description: 'Images as OpenAI answers them',
  examples: [{
    created: 1785585600,
    background: 'opaque',
    output_format: 'png',
    quality: 'auto',
    size: '1024x1024',
    data: [{ b64_json: 'iVBORw0KGgo…', seed: 42 }],
    usage: {
      total_tokens: 0, input_tokens: 0, output_tokens: 0, input_tokens_details: { text_tokens: 0, image_tokens: 0 }
    }
  }]
}))
