import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from 'typebox'
import { requestParameters } from '../lib/generation/parameters.ts'
import { prepareTxt2Img } from '../lib/generation/prepare.ts'
import { Job, Named } from './schemas.ts'

/** Longest `?wait=` in seconds; proxies and clients give up not much later. */
const longestWait = 600

const routes: FastifyPluginAsyncTypebox = async (app) => {
  const { prompt, ...optional } = requestParameters(app.config, app.engineInfo)

  app.post('/txt2img', {
    config: { permission: 'generate' },
    schema: {
      operationId: 'generateTxt2Img',
      tags: ['generate'],
      summary: 'Draw an image from a text',
      description: 'Answers 202 with the job at once, or with ?wait= the finished job when it ends in time. A job that was ' +
        'accepted survives a restart of the server.',
      headers: Type.Object({
        'idempotency-key': Type.Optional(Type.String({ minLength: 1, maxLength: 255, description: 'Makes a retry return the first job' }))
      }),
      querystring: Type.Object({
        wait: Type.Optional(Type.Integer({ minimum: 0, maximum: longestWait, description: 'Seconds to wait for the end of the job' }))
      }, { additionalProperties: false }),
      body: Type.Object({ prompt, ...Type.Partial(Type.Object(optional)).properties }, { additionalProperties: false }),
      response: {
        200: Named(Job, 'The job has ended within ?wait='),
        202: Named(Job, 'The job is accepted; Location says where to follow it')
      }
    }
  }, async (request, reply) => {
    const newJob = prepareTxt2Img(request.body, {
      catalog: app.models, engine: app.engineInfo, loadedModel: app.jobs.status.scheduler.loaded_model
    })
    const accepted = await app.jobs.submit({
      ...newJob, owner: request.principal.id, idempotencyKey: request.headers['idempotency-key']
    })
    reply.header('location', `/api/queue/job/${accepted.id}`)
    const { wait = 0 } = request.query
    const job = wait === 0 ? accepted : await app.jobs.waitFor(accepted.id, wait * 1000, { signal: request.signal })
    return reply.code(job.finished_at === null ? 202 : 200).send(job)
  })
}

export default routes
