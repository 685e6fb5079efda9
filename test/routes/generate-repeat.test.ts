import { join } from 'node:path'
import sharp from 'sharp'
import t, { type Test } from 'tap'
import type { Job, JobType } from '../../lib/jobs/job.ts'
import { writeCheckpoint } from '../../bin/support/demo-model/checkpoints.ts'
import { build, workspace } from '../helper.ts'

/** What a job tells of itself makes the same images again; every sampler, scheduler and cache of the engine draws. */

t.setTimeout(300_000)

async function start (t: Test) {
  const { models, data } = workspace(t)
  for (const kind of ['sdxs', 'lora', 'esrgan'] as const) writeCheckpoint(kind, join(models, `${kind}.safetensors`))
  const app = await build(t, { 'models-dir': [models], 'data-dir': data, 'rate-limit': '100000' }, { models: false })
  const draw = async (t: Test, type: JobType, body: object) => {
    const response = await app.inject({ method: 'POST', url: `/api/generate/${type}?wait=120`, body })
    const { id, status } = response.json<Job>()
    t.equal(status, 'completed', response.body.slice(0, 500))
    const job = (await app.inject(`/api/queue/job/${id}`)).json<Job>()
    return { job, images: await Promise.all(job.images.map(async ({ url }) => (await app.inject(url)).rawPayload)) }
  }
  return { app, draw }
}

t.test('jobs and drawing', async t => {
  const { app, draw } = await start(t)
  const colour = await sharp({ create: { width: 90, height: 60, channels: 3, background: '#4080c0' } }).png().toBuffer()
  const init_image = colour.toString('base64')
  const small = { model: 'sdxs', prompt: 'a fox, für 狐狸', width: 64, height: 64, steps: 2, clip_skip: 11 }

  for (const [what, type, body, files] of [
    ['nothing but a prompt', 'txt2img', { prompt: 'a fox', steps: 1 }, {}],
    ['a LoRA in the prompt', 'txt2img', { ...small, prompt: 'a fox <lora:lora>' }, {}],
    ['a batch', 'txt2img', { ...small, batch_count: 3 }, {}],
    ['an image', 'img2img', { ...small, width: undefined, height: undefined, strength: 0.5 }, { init_image }],
    [
      'everything', 'img2img',
      {
        ...small,
        prompt: 'a fox <lora:lora:1>',
        negative_prompt: 'a cat',
        batch_count: 2,
        cfg_scale: 2.5,
        guidance: 3,
        eta: 0.3,
        clip_skip: 2,
        sampler: 'euler_a',
        scheduler: 'karras',
        vae_tiling: { tile_size_x: 16, tile_size_y: 16, target_overlap: 0.25 },
        cache: { mode: 'easycache', reuse_threshold: 0.2 }
      },
      { init_image }
    ],
    ['an image to enlarge', 'upscale', {}, { init_image: (await sharp(colour).resize(8, 8).png().toBuffer()).toString('base64') }]
  ] as const) {
    t.test(what, async t => {
      const first = await draw(t, type, { ...body, ...files })
      const again = await draw(t, type, { ...first.job.parameters, ...files })
      t.equal(again.images.length, first.images.length)
      for (const [index, image] of first.images.entries()) t.ok(again.images[index]!.equals(image), `image ${index}, byte by byte`)
      t.same(again.job.parameters, first.job.parameters)
      t.not(again.job.id, first.job.id)
    })
  }

  const { parameters } = (await app.inject('/api/parameters'))
    .json<{ parameters: Array<{ name: string, values?: string[], parts?: Array<{ values?: string[] }> }> }>()
  const named = (name: string) => parameters.find(parameter => parameter.name === name)!
  const one = { model: 'minit2i', prompt: 'a fox', width: 64, height: 64, steps: 3, seed: 5 }

  t.test('every sampler', async t => {
    const { samplers } = (await app.inject('/api/samplers')).json<{ samplers: string[] }>()
    t.same(named('sampler').values, samplers)
    const drawn = new Set<string>()
    for (const sampler of samplers) {
      const { job, images } = await draw(t, 'txt2img', { ...one, sampler })
      t.match(job.parameters, { sampler })
      drawn.add((await sharp(images[0]).raw().toBuffer()).toString('base64'))
    }
    t.ok(drawn.size > samplers.length / 2, `${drawn.size} of ${samplers.length} draw something else`)
  })

  t.test('every scheduler', async t => {
    const { schedulers } = (await app.inject('/api/schedulers')).json<{ schedulers: string[] }>()
    t.same(named('scheduler').values, schedulers)
    for (const scheduler of schedulers) t.match((await draw(t, 'txt2img', { ...one, scheduler })).job.parameters, { scheduler })
  })

  t.test('every cache', async t => {
    const modes = named('cache').parts![0]!.values!
    t.ok(modes.includes('disabled') && modes.length > 3)
    for (const mode of modes) t.match((await draw(t, 'txt2img', { ...small, seed: 5, cache: { mode } })).job.parameters, { cache: { mode } })
  })
})
