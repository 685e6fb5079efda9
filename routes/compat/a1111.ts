import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { ErrorCode } from '../../errors.ts'
import { describeCheckpoint, idle, infoOf, progressOf } from '../../lib/compat/a1111/answer.ts'
import { a1111Errors } from '../../lib/compat/a1111/errors.ts'
import { drawingsOf, modelOf, objectOf, textOf } from '../../lib/compat/a1111/request.ts'
import { samplerTitles, schedulerTitles } from '../../lib/generation/run/generation-text.ts'
import { hiresMethods } from '../../lib/generation/request-schema.ts'
import type { Drawing } from '../../lib/generation/request.ts'
import { badValue } from '../../lib/http/request-errors.ts'
import { callerOf } from '../../lib/http/rate-limits.ts'
import { Named, named } from '../../lib/http/schemas.ts'
import { Type } from '../../lib/http/type.ts'
import { abandon } from '../../lib/jobs/awaited-job.ts'
import type { Job } from '../../lib/jobs/job.ts'
import { readText } from '../../lib/media/png.ts'
import type { ModelCatalog } from '../../lib/models/catalog.ts'
import { unusableReason, type Model } from '../../lib/models/model.ts'
import { drawingTypes, type ModelType } from '../../lib/models/types.ts'

/** Callers whose choice of a model is remembered; the one that chose first is forgotten first. */
const mostChoices = 10_000
/** Images that extra-batch-images takes. */
const mostBatched = 16

const drawErrors: readonly ErrorCode[] = [
  'SDR_MODEL_NOT_FOUND', 'SDR_UNSUPPORTED_FEATURE', 'SDR_UNSUPPORTED_MODEL', 'SDR_QUEUE_FULL', 'SDR_JOB_FAILED',
  'SDR_JOB_CANCELLED', 'SDR_DRAINING', 'SDR_STORAGE_FULL', 'SDR_IMAGE_NOT_FOUND'
]

const A1111Error = named('A1111Error', Type.Object({
  error: Type.String(), detail: Type.String(), body: Type.String(), errors: Type.String(), message: Type.String()
}, {
  description: 'An error as AUTOMATIC1111 has it',
  examples: [{
    error: 'SDR_MODEL_NOT_FOUND',
    detail: 'Sampler not found',
    body: '',
    errors: 'Sampler not found',
    message: 'Sampler not found'
  }]
}))

const A1111Images = named('A1111Images', Type.Object({
  images: Type.Array(Type.String({ description: 'PNG in base64, with the generation data in its text' })),
  parameters: Type.Record(Type.String(), Type.Unknown()),
  info: Type.String({ description: 'JSON: seeds, names and infotexts' })
}, {
  description: 'Images as AUTOMATIC1111 answers them',
  examples: [{ images: ['iVBORw0KGgo…'], parameters: { prompt: 'a red fox' }, info: '{"seed": 42}' }]
}))

/** Bodies say 40 and more fields; what is known of them is bounded where it becomes a job. */
const Body = (example: object) => Type.Record(Type.String({ maxLength: 200 }), Type.Unknown(), { examples: [example] })

/** Lists of what there is not. */
const absent = [
  'hypernetworks', 'face-restorers', 'realesrgan-models', 'prompt-styles', 'extensions', 'script-info'
]

/** A request that is being drawn. */
interface Active {
  jobs: Job[]
  names: unknown[]
  preview: string | null
}

/** The API of AUTOMATIC1111's web UI, for clients that speak it. */
const routes: FastifyPluginAsyncTypebox = async (app) => {
  const { config, engineInfo: engine, models: catalog, modelAliases: aliases, imageJobs } = app
  const { parameters, bodyLimits, holdRoom } = imageJobs
  /** Models that callers chose by POST options; they are forgotten when the server ends. */
  const choices = new Map<string, string>()
  const active = new Map<string, Set<Active>>()
  app.shapeErrors(app, a1111Errors)

  // Some clients send JSON without saying so, others say so and send nothing.
  app.addHook('onRequest', ({ raw: { headers } }, _reply, done) => {
    const isEmpty = (headers['content-length'] ?? '0') === '0' && headers['transfer-encoding'] === undefined
    if (isEmpty) delete headers['content-type']
    else headers['content-type'] ??= 'application/json'
    done()
  })

  const read = { permission: 'models:read' } as const
  const hidden = { errorSchema: A1111Error }
  const usable = (types: readonly ModelType[]) => usableModels(catalog, types)

  function checkpoints (): Model[] {
    const loaded = app.jobs.loadedModels
    return usable(drawingTypes).sort((a, b) => Number(loaded.includes(b.id)) - Number(loaded.includes(a.id)))
  }

  function titleFor (request: FastifyRequest): string {
    const chosen = catalog.get(choices.get(callerOf(request)) ?? '') ?? checkpoints()[0]
    return chosen === undefined ? '' : describeCheckpoint(chosen).title
  }

  const lists: Record<string, () => unknown> = {
    'sd-models': () => checkpoints().map(describeCheckpoint),
    samplers: () => engine.samplers.map(name => ({ name: samplerTitles[name] ?? name, aliases: [name], options: {} })),
    schedulers: () => ['automatic', ...engine.schedulers].map(name => [name, schedulerTitles[name] ?? name])
      .map(([name, label]) => ({ name, label, aliases: null, default_rho: -1, need_inner_model: false })),
    upscalers: () => [
      { name: 'None', model_name: null, model_path: null, model_url: null, scale: 1 },
      ...usable(['upscaler']).map(({ name, id }) =>
        ({ name, model_name: id, model_path: null, model_url: null, scale: 4 }))
    ],
    'latent-upscale-modes': () => hiresMethods.filter(name => name.startsWith('Latent')).map(name => ({ name })),
    loras: () => usable(['lora']).map(({ name, id }) => ({ name, alias: name, path: id, metadata: {} })),
    'sd-vae': () => usable(['vae']).map(({ name, id }) => ({ model_name: name, filename: id })),
    embeddings: () => ({
      loaded: Object.fromEntries(usable(['embedding']).map(({ name }) =>
        [name, { step: null, sd_checkpoint: null, sd_checkpoint_name: null, shape: 0, vectors: 0 }])),
      skipped: {}
    }),
    memory: () => ({ ram: {}, cuda: {} }),
    'cmd-flags': () => ({}),
    scripts: () => {
      const names = engine.capabilities.includes('controlnet') ? ['controlnet'] : []
      return { txt2img: names, img2img: names }
    },
    ...Object.fromEntries(absent.map(name => [name, () => []]))
  }
  for (const [name, list] of Object.entries(lists)) {
    app.get(`/${name}`, { config: read, schema: hidden }, async () => list())
  }

  app.get('/options', { config: read, schema: hidden }, async request => ({
    samples_format: 'png',
    sd_model_checkpoint: titleFor(request),
    sd_checkpoint_hash: '',
    sd_vae: 'Automatic',
    CLIP_stop_at_last_layers: 1
  }))

  app.post('/options', {
    config: { permission: 'generate' }, schema: { ...hidden, body: Body({ sd_model_checkpoint: 'sd15.safetensors' }) }
  }, async (request, reply) => {
    const name = modelOf([request.body.sd_model_checkpoint], { catalog, aliases })
    if (name !== undefined) {
      const caller = callerOf(request)
      choices.delete(caller)
      if (choices.size >= mostChoices) choices.delete(choices.keys().next().value!)
      choices.set(caller, catalog.resolve(name).id)
    }
    return reply.send(null)
  })

  for (const kind of ['txt2img', 'img2img'] as const) {
    app.post(`/${kind}`, {
      config: { permission: 'generate', json: { ...bodyLimits.json, longFields: ['init_images', 'mask', 'image'] } },
      bodyLimit: bodyLimits.withImages(kind === 'txt2img' ? 1 : 3),
      preParsing: [holdRoom],
      schema: {
        operationId: `a1111${kind === 'txt2img' ? 'Txt2Img' : 'Img2Img'}`,
        tags: ['a1111'],
        summary: `${kind} as AUTOMATIC1111 has it`,
        description: 'Answers when the images are there; a client that leaves cancels them, unless ' +
          '--keep-abandoned-jobs. Fields that this server does not know are ignored; null, 0 and -1 mean absent.',
        errors: drawErrors,
        errorSchema: A1111Error,
        body: Body({ prompt: 'a red fox', steps: 20 }),
        response: { 200: Named(A1111Images) }
      }
    }, async (request, reply) => {
      const { send_images: sends, genkey, force_task_id: task } = request.body
      const drawings = drawingsOf(kind, request.body, {
        catalog, aliases, engine, limits: config, parameters, chosenModel: choices.get(callerOf(request))
      })
      const { finished, images } = await draw(request, reply, drawings, [genkey, task], sends !== false)
      return { images, parameters: finished[0]!.parameters, info: infoOf(finished) }
    })
  }

  for (const [name, most] of [['extra-single-image', 1], ['extra-batch-images', mostBatched]] as const) {
    app.post(`/${name}`, {
      config: { permission: 'generate', json: { ...bodyLimits.json, longFields: ['image', 'data'] } },
      bodyLimit: bodyLimits.withImages(most),
      preParsing: [holdRoom],
      schema: { ...hidden, body: Body({ image: 'iVBORw0KGgo…', upscaler_1: 'ESRGAN' }) }
    }, async (request, reply) => {
      const { body } = request
      const sent = most === 1
        ? [body.image]
        : (Array.isArray(body.imageList) ? body.imageList : []).map(entry => objectOf(entry).data)
      if (sent.length > most) throw badValue('imageList', `at most ${most} images`, sent.length)
      const drawings = sent.map((image): Drawing => {
        const given = textOf(image)
        if (given === undefined) throw badValue(most === 1 ? 'image' : 'imageList', 'an image in base64', 'nothing')
        const upscaler = textOf(body.upscaler_1)
        const model = upscaler === undefined || upscaler === 'None' ? {} : { model: upscaler }
        return { type: 'upscale', request: model, attachments: { init_image: given } }
      })
      if (drawings.length === 0) throw badValue('imageList', 'a list of images', 'nothing')
      const { images } = await draw(request, reply, drawings, [], true)
      return most === 1 ? { image: images[0], html_info: '' } : { images, html_info: '' }
    })
  }

  app.post('/png-info', {
    config: { ...read, permission: 'generate', json: { ...bodyLimits.json, longFields: ['image'] } },
    bodyLimit: bodyLimits.withImages(1),
    preParsing: [holdRoom],
    schema: { ...hidden, body: Body({ image: 'iVBORw0KGgo…' }) }
  }, async request => {
    const image = textOf(request.body.image)
    if (image === undefined) throw badValue('image', 'a PNG in base64', 'nothing')
    const info = readText(Buffer.from(image.slice(image.indexOf(',') + 1), 'base64'), 'parameters') ?? ''
    return { info, items: info === '' ? {} : { parameters: info }, parameters: {} }
  })

  app.get('/progress', { config: { permission: 'queue:read' }, schema: hidden }, async request => {
    const { genkey, id_task: task, skip_current_image: skips } = request.query as Record<string, unknown>
    const wanted = [genkey, task].filter(name => name !== undefined)
    const one = [...active.get(callerOf(request)) ?? []].find(({ names }) =>
      wanted.length === 0 || wanted.some(name => names.includes(name)))
    if (one === undefined) return idle
    const jobs = await Promise.all(one.jobs.map(async ({ id }) => app.jobs.get(id)))
    return progressOf(jobs, skips === 'true' ? null : one.preview)
  })

  for (const [name, answer] of [['interrupt', {}], ['skip', null]] as const) {
    app.post(`/${name}`, { config: { permission: 'generate' }, schema: hidden }, async (request, reply) => {
      for (const { jobs } of active.get(callerOf(request)) ?? []) {
        for (const { id } of jobs) await abandon(app.jobs, id, app)
      }
      return reply.send(answer)
    })
  }

  app.post('/refresh-checkpoints', {
    config: { permission: 'models:manage' }, schema: hidden
  }, async (_request, reply) => {
    await catalog.rescan()
    return reply.send(null)
  })
  app.post('/unload-checkpoint', {
    config: { permission: 'models:manage' }, schema: hidden
  }, async (_request, reply) => {
    await app.jobs.unloadModel(undefined, { timeout: 60_000, signal: reply.closeSignal })
    return reply.send({})
  })

  /** Draws, and lets `progress` and `interrupt` of the same caller know of it meanwhile. */
  async function draw (
    request: FastifyRequest, reply: FastifyReply, drawings: Drawing[], names: unknown[], sends: boolean
  ): Promise<{ finished: Job[], images: string[] }> {
    const caller = callerOf(request)
    const jobs = await imageJobs.submit(request, reply, drawings)
    const known = names.filter(name => typeof name === 'string' && name.length <= 200)
    const one: Active = { jobs, names: known, preview: null }
    const own = active.get(caller) ?? new Set()
    active.set(caller, own.add(one))
    try {
      const shows = engine.capabilities.includes('previews')
      const finished = await imageJobs.finish(request, reply, jobs, shows
        ? ({ name, data }) => { if (name === 'preview') one.preview = textOf(objectOf(data).image) ?? null }
        : undefined)
      const images: string[] = []
      for (const job of sends ? finished : []) {
        for (const { index } of job.images) {
          const image = await app.jobs.openImage(job, index)
          images.push((await image.bytes()).toString('base64'))
        }
      }
      return { finished, images }
    } finally {
      own.delete(one)
      if (own.size === 0) active.delete(caller)
    }
  }
}

/** What the extension for ControlNet answers, which clients of A1111 ask for what there is. */
export const controlnetRoutes: FastifyPluginAsyncTypebox = async (app) => {
  const route = { config: { permission: 'models:read' }, schema: { errorSchema: A1111Error } } as const
  app.shapeErrors(app, a1111Errors)
  app.get('/version', route, async () => ({ version: 2 }))
  app.get('/model_list', route, async () =>
    ({ model_list: usableModels(app.models, ['controlnet']).map(({ id }) => id) }))
  app.get('/module_list', route, async () => ({ module_list: ['none'] }))
}

function usableModels (catalog: ModelCatalog, types: readonly ModelType[]): Model[] {
  return catalog.all().filter(model => types.includes(model.type) && unusableReason(model) === undefined)
}

export default routes
