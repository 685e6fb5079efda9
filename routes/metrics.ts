import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from '../lib/http/type.ts'

const example = '# HELP sdrest_queue_capacity Jobs that may wait\n' +
  '# TYPE sdrest_queue_capacity gauge\n' +
  'sdrest_queue_capacity 1000\n'

const routes: FastifyPluginAsyncTypebox = async (app) => {
  app.get('/metrics', {
    config: { permission: 'system:read' },
    schema: {
      operationId: 'getMetrics',
      tags: ['server'],
      summary: 'Metrics for Prometheus',
      description: 'In the text format of Prometheus. The permission is that of administrators, ' +
        'or of an API key made for it.',
      response: {
        200: {
          description: 'The metrics',
          content: { 'text/plain': { schema: Type.String({ examples: [example] }) } }
        }
      }
    }
  }, async (_request, reply) => reply.type(app.metrics.contentType).send(await app.metrics.text()))
}

export default routes
