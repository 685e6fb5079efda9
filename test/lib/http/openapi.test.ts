import t from 'tap'
import { toOpenApi30 } from '../../../lib/http/openapi-30.ts'
import { nameSchemas, sayDefaults, spellOut } from '../../../lib/http/openapi-schemas.ts'

t.test('names what has no name, by title or by place, once', t => {
  const size = { type: 'object', title: 'Size', properties: { width: { type: 'integer' } } }
  const schemas: Record<string, any> = {
    Job: {
      type: 'object',
      properties: {
        images: { type: 'array', items: { type: 'object', properties: { size: { ...size, description: 'Of the image' } } } },
        progress: { type: ['object', 'null'], properties: { size } },
        state: { type: 'string', title: 'State', enum: ['a', 'b'], description: 'Now' },
        before: { type: ['string', 'null'], title: 'State', enum: ['a', 'b', null] },
        metadata: { type: 'object', additionalProperties: { type: 'string' } }
      }
    }
  }
  const operation = {
    operationId: 'generateImage',
    requestBody: { content: { 'application/json': { schema: { type: 'object', properties: {} } } } },
    responses: {}
  }
  const document = { components: { schemas }, paths: { '/x': { post: operation } } }
  nameSchemas(document)
  t.same(Object.keys(document.components.schemas), ['ImageRequest', 'Job', 'JobImage', 'JobProgress', 'Size', 'State'])
  const { Job, JobImage, Size } = document.components.schemas
  t.same(Job.properties.images, { type: 'array', items: { $ref: '#/components/schemas/JobImage' } })
  t.same(Job.properties.state, { $ref: '#/components/schemas/State', description: 'Now' })
  t.same(Job.properties.before, { type: ['string', 'null'], enum: ['a', 'b', null] }, 'a list with null stays')
  t.same(JobImage.properties.size, { $ref: '#/components/schemas/Size' })
  t.notOk('title' in Size)
  t.same(operation.requestBody.content['application/json'].schema, { $ref: '#/components/schemas/ImageRequest' })

  const other = { type: 'object', title: 'Size', properties: { height: { type: 'integer' } } }
  t.throws(() => nameSchemas({ components: { schemas: { A: { type: 'object', properties: { size, other } } } } }), /the name Size/)
  t.end()
})

t.test('says what 64 bits, defaults and classes of characters are', t => {
  const schema = {
    type: 'object',
    properties: {
      size: { type: ['integer', 'null'] },
      seed: { type: 'integer', maximum: 2 ** 53 - 1, default: -1, description: 'Seed' },
      steps: { type: 'integer', maximum: 150 },
      name: { type: 'string', pattern: '^[^\\p{C}\\p{Zl}\\p{Zp}]{1,64}$', default: '' }
    },
    example: { type: 'integer' }
  }
  spellOut(schema)
  sayDefaults(schema)
  t.same(schema, {
    type: 'object',
    properties: {
      size: { type: ['integer', 'null'], format: 'int64' },
      seed: { type: 'integer', maximum: 2 ** 53 - 1, format: 'int64', description: 'Seed; -1 when absent' },
      steps: { type: 'integer', maximum: 150 },
      name: { type: 'string', pattern: '^[^\\u0000-\\u001F\\u007F-\\u009F\\u2028\\u2029]{1,64}$', description: 'empty when absent' }
    },
    example: { type: 'integer' }
  })
  t.end()
})

t.test('3.0 has what 3.1 has', t => {
  t.same(toOpenApi30({
    openapi: '3.1.0',
    info: { title: 'x', license: { name: 'MIT', identifier: 'MIT' } },
    components: {
      schemas: {
        A: { type: ['object', 'null'], properties: { type: { type: ['string', 'null'], enum: ['x', null], examples: ['x'] }, const: { type: 'string', const: 'x' } } },
        B: { $ref: '#/components/schemas/A', description: 'lost' }
      }
    },
    paths: { '/x': { get: { responses: { 200: { content: { 'application/json': { example: { type: ['kept'], const: 1 } } } } } } } }
  }), {
    openapi: '3.0.3',
    info: { title: 'x', license: { name: 'MIT', url: 'https://spdx.org/licenses/MIT.html' } },
    components: {
      schemas: {
        A: { type: 'object', nullable: true, properties: { type: { type: 'string', nullable: true, enum: ['x', null], example: 'x' }, const: { type: 'string', enum: ['x'] } } },
        B: { $ref: '#/components/schemas/A' }
      }
    },
    paths: { '/x': { get: { responses: { 200: { content: { 'application/json': { example: { type: ['kept'], const: 1 } } } } } } } }
  })
  t.end()
})
