import { jobPhases } from '../../lib/jobs/job.ts'
import {
  exampleId, exampleTime, laterTime, Located, named, Named, Nullable, OneOf, Time
} from '../../lib/http/schemas.ts'
import { Type } from '../../lib/http/type.ts'
import { JobStatus, JobType } from './values.ts'

/** Of `?wait=` in seconds; proxies and clients give up not much later. */
export const waitBounds = { minimum: 0, maximum: 600 }

export const Wait = Type.Object({
  wait: Type.Optional(Type.Integer({ ...waitBounds, description: 'Seconds to wait for the end of the job' }))
}, { additionalProperties: false })

export const jobExample = {
  id: exampleId,
  type: 'txt2img',
  status: 'completed',
  owner: exampleId,
  model: 'checkpoint/sd15.safetensors',
  position: null,
  priority: 0,
  progress: null,
  parameters: { prompt: 'a red fox in the snow', width: 512, height: 512, steps: 20, cfg_scale: 7, seed: 42 },
  images: [{
    index: 0,
    url: `/api/queue/job/${exampleId}/images/0`,
    width: 512,
    height: 512,
    format: 'png',
    bytes: 421337,
    seed: 42
  }],
  result: null,
  error: null,
  attempts: 1,
  created_at: exampleTime,
  started_at: exampleTime,
  finished_at: laterTime
}

export const Job = named('Job', Type.Object({
  id: Type.String({ description: 'UUID version 7' }),
  type: JobType(),
  status: JobStatus(),
  owner: Type.String({ description: 'Id of the account that submitted it' }),
  model: Type.String({ description: 'Id of the model; of a pull its source' }),
  position: Nullable(Type.Integer({ description: 'Place in the queue, 1 is next; null when not queued' })),
  priority: Type.Integer({ description: 'Higher runs first' }),
  progress: Nullable(Type.Object({
    phase: OneOf(jobPhases),
    step: Type.Integer({ description: 'Of work on files: mebibytes' }),
    steps: Type.Integer({ description: '0 when it is not known how many' }),
    eta_seconds: Nullable(Type.Number({ description: 'Seconds to go, from measured step times' }))
  })),
  parameters: Type.Record(Type.String(), Type.Unknown(), {
    description: 'Everything needed to repeat it, the seed included'
  }),
  images: Type.Array(Type.Object({
    index: Type.Integer(),
    url: Type.String({ description: 'Path of the image on this server' }),
    width: Type.Integer(),
    height: Type.Integer(),
    format: Type.String(),
    bytes: Type.Integer(),
    seed: Type.Integer()
  })),
  result: Nullable(Type.Record(Type.String(), Type.Unknown(), {
    description: 'Of hash, pull and convert: model, size and sha256; of an image job `notices`, a list of sentences ' +
      'about what had an effect only in part, or null'
  })),
  error: Nullable(Type.Object({ code: Type.String(), message: Type.String() })),
  attempts: Type.Integer({ description: 'How often it was begun' }),
  created_at: Time('When it was accepted'),
  started_at: Nullable(Time('When an engine began')),
  finished_at: Nullable(Time('When it ended'))
}, {
  description: 'A request and what came of it',
  examples: [jobExample]
}))

/** What a request that becomes a job is answered. */
export const jobResponses = {
  200: Located(Named(Job, 'The job has ended within ?wait='), 'the job'),
  202: Located(Named(Job, 'The job is accepted; Location says where to follow it'), 'the job')
}
