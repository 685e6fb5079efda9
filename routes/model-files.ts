import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { callerOf } from '../lib/http/rate-limits.ts'
import { Type } from '../lib/http/type.ts'
import type { NewJob } from '../lib/jobs/job.ts'
import { prepareConvert, prepareHash, preparePull } from '../lib/models/jobs.ts'
import { longestSource } from '../lib/models/pull/source.ts'
import { removeModel } from '../lib/models/files/remove.ts'
import { None } from '../lib/http/schemas.ts'
import { jobResponses, Wait } from './schemas/jobs.ts'
import { ModelId, ModelName, ModelPath } from './schemas/models.ts'
import { ModelType } from './schemas/values.ts'

const tags = ['models']
const config = { permission: 'models:manage' } as const

const overwrite = Type.Optional(Type.Boolean({ description: 'Replace a file of that name; it is refused unless said' }))

const routes: FastifyPluginAsyncTypebox = async (app) => {
  async function submit (
    request: FastifyRequest, reply: FastifyReply, job: Pick<NewJob, 'type' | 'model' | 'parameters'>
  ) {
    const accepted = await app.jobs.submit({ ...job, owner: request.principal.id, caller: callerOf(request) })
    return await app.answerJob(request, reply, accepted)
  }

  app.post('/hash', {
    config,
    schema: {
      operationId: 'hashModel',
      tags,
      summary: 'Find the SHA-256 of a model\'s file',
      description: 'A job, because the whole file is read. Afterwards GET /api/models/{id} shows it, ' +
        'until the file changes.',
      errors: ['SDR_MODEL_NOT_FOUND', 'SDR_UNSUPPORTED_MODEL', 'SDR_QUEUE_FULL', 'SDR_DRAINING', 'SDR_STORAGE_FULL'],
      querystring: Wait,
      body: Type.Object({ model: ModelName }, {
        additionalProperties: false, examples: [{ model: 'checkpoint/sd15.safetensors' }]
      }),
      response: jobResponses
    }
  }, async (request, reply) => submit(request, reply, prepareHash(request.body, app.models)))

  app.post('/convert', {
    config,
    schema: {
      operationId: 'convertModel',
      tags,
      summary: 'Write a model anew as GGUF, with weights of another type',
      description: 'A job of an engine, the native one. The new file lies beside the old one and is a model ' +
        'as soon as it is whole.',
      errors: [
        'SDR_MODEL_NOT_FOUND', 'SDR_CONFLICT', 'SDR_UNSUPPORTED_MODEL', 'SDR_UNSUPPORTED_FEATURE', 'SDR_QUEUE_FULL',
        'SDR_DRAINING', 'SDR_STORAGE_FULL'
      ],
      querystring: Wait,
      body: Type.Object({
        model: ModelName,
        weight_type: Type.String({
          minLength: 1,
          maxLength: 32,
          description: 'One that the engine knows',
          examples: ['q8_0']
        }),
        name: Type.Optional(Type.String({
          minLength: 1,
          maxLength: 255,
          description: 'File name, ends in .gguf; NAME-TYPE.gguf when absent',
          examples: ['sd15-q8_0.gguf']
        })),
        overwrite
      }, { additionalProperties: false, examples: [{ model: 'checkpoint/sd15.safetensors', weight_type: 'q8_0' }] }),
      response: jobResponses
    }
  }, async (request, reply) => {
    const job = await prepareConvert(request.body, app.models, app.engineInfo)
    await app.audit(request, { event: 'model.convert', subject: job.model })
    return submit(request, reply, job)
  })

  app.post('/pull', {
    config,
    schema: {
      operationId: 'pullModel',
      tags,
      summary: 'Fetch a model from the web',
      description: 'A job. It goes on where a broken connection or a restart interrupted it; the file is a model ' +
        'once it is found to be whole. Tokens are options of the server and go to their own host only.',
      errors: ['SDR_CONFLICT', 'SDR_QUEUE_FULL', 'SDR_DRAINING', 'SDR_STORAGE_FULL'],
      querystring: Wait,
      body: Type.Object({
        source: Type.String({
          minLength: 1,
          maxLength: longestSource,
          description: 'An https URL, or hf:owner/repository[@revision]/path/file',
          examples: ['hf:madebyollin/taesd/taesd_decoder.safetensors']
        }),
        type: Type.Optional(ModelType({
          description: 'Chooses the folder; without it the file goes into the first --models-dir',
          examples: ['taesd']
        })),
        folder: Type.Optional(Type.String({
          minLength: 1,
          maxLength: 255,
          description: 'Folder below that, made when it is missing',
          examples: ['style/new']
        })),
        name: Type.Optional(Type.String({
          minLength: 1,
          maxLength: 255,
          description: 'File name; that at the end of the source when absent',
          examples: ['taesd.safetensors']
        })),
        sha256: Type.Optional(Type.String({ pattern: '^[0-9a-fA-F]{64}$', description: 'That the file must have' })),
        overwrite
      }, {
        additionalProperties: false,
        examples: [{ source: 'hf:madebyollin/taesd/taesd_decoder.safetensors', type: 'taesd' }]
      }),
      response: jobResponses
    }
  }, async (request, reply) => {
    const job = await preparePull(request.body, app.puller)
    await app.audit(request, { event: 'model.pull', subject: job.model })
    return submit(request, reply, job)
  })

  const remove = async (request: FastifyRequest, reply: FastifyReply, id: string) => {
    await removeModel(id, app.models, app.jobs.inUse)
    await app.audit(request, { event: 'model.remove', subject: id })
    return reply.code(204).send(null)
  }
  const deletion = {
    operationId: 'removeModel',
    tags,
    summary: 'Delete a model',
    description: 'Its file, or the link that it is listed by. Of a model made of several files only the description ' +
      'goes, the files stay. Refused while it is in memory, a job works with it, or another model is made of it.',
    errors: ['SDR_MODEL_NOT_FOUND', 'SDR_CONFLICT'] as const,
    response: { 204: None }
  }
  app.delete('/:id', {
    config,
    schema: { ...deletion, params: ModelId }
  }, async (request, reply) => remove(request, reply, request.params.id))
  app.delete('/*', {
    config, schema: { hide: true, params: ModelPath, response: { 204: None } }
  }, async (request, reply) => remove(request, reply, request.params['*']))
}

export default routes
