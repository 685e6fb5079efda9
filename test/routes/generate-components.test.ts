import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import sharp from 'sharp'
import t, { type Test } from 'tap'
import { residentOf, type Job } from '../../lib/jobs/job.ts'
import { writeCheckpoint } from '../../bin/support/demo-model/checkpoints.ts'
import { safetensors } from '../fixtures/headers.ts'
import { writeSplitCheckpoint } from '../fixtures/split-checkpoint.ts'
import { build, expectError, workspace } from '../helper.ts'

/** Models that a request puts together of several files. */

t.setTimeout(300_000)

async function start (t: Test) {
  const { models, data } = workspace(t)
  writeCheckpoint('sd1', join(models, 'sd1.safetensors'))
  for (const kind of ['minit2i', 'sd1'] as const) writeSplitCheckpoint(kind, models, 1)
  writeFileSync(join(models, 'taesd.safetensors'), safetensors({ 'decoder.layers.0.weight': { shape: [64, 4, 3, 3] } }))
  writeFileSync(join(models, 'vision.safetensors'), safetensors({ 'vision_model.embeddings.class_embedding': { shape: [8] } }))
  const app = await build(t, { 'models-dir': [models], 'data-dir': data }, { models: false })
  const post = (body: object, type = 'txt2img') =>
    app.inject({ method: 'POST', url: `/api/generate/${type}?wait=120`, body: { ...small, ...body } })
  const draw = async (t: Test, body: object, type?: string) => {
    const response = await post(body, type)
    const job = response.json<Job>()
    t.equal(job.status, 'completed', response.body.slice(0, 500))
    return { job, bytes: (await app.inject(job.images[0]!.url)).rawPayload }
  }
  return { app, post, draw }
}

const small = { prompt: 'a fox', width: 64, height: 64, steps: 1, seed: 5 }
const mini = { diffusion: 'minit2i-diffusion', t5xxl: 'minit2i-t5xxl' }

t.test('a model of several files', async t => {
  const { app, post, draw } = await start(t)
  const loaded = async () => (await app.jobs.status()).scheduler.loaded_model

  t.test('draws, is repeated, and is another one than its parts', async t => {
    const { steps, ...unhurried } = small
    const whole = await draw(t, { model: 'checkpoint/minit2i.safetensors' })
    const first = await draw(t, { components: mini })
    t.match(first.job, {
      model: 'diffusion/minit2i-diffusion.safetensors',
      parameters: {
        model: 'diffusion/minit2i-diffusion.safetensors',
        components: { t5xxl: 'text_encoder/minit2i-t5xxl.safetensors' },
        sampler: 'euler'
      }
    })
    t.notSame(first.bytes, whole.bytes, 'with the weights of its own files')
    t.equal(await loaded(), residentOf(first.job))
    t.match(await loaded(), /^diffusion\/minit2i-diffusion\.safetensors\+[0-9a-f]{12}$/)
    const { models } = (await app.inject('/api/models')).json<{ models: Array<{ loaded: boolean }> }>()
    t.same(models.filter(({ loaded }) => loaded), [], 'it is none of the listed models')
    const byModel = await draw(t, { model: 'minit2i-diffusion', components: { t5xxl: 'minit2i-t5xxl' } })
    t.same(byModel.bytes, first.bytes, 'the diffusion model may be the model')
    const { pid } = app.devices[0]!.engine.status
    const again = await draw(t, first.job.parameters)
    t.same(again.bytes, first.bytes)
    t.same(again.job.parameters, first.job.parameters)
    t.equal(app.devices[0]!.engine.status.pid, pid)
    t.equal((await app.inject({ method: 'POST', url: '/api/generate/txt2img?wait=60', body: unhurried })).json<Job>().model,
      'checkpoint/minit2i.safetensors', 'a request without a model means a listed one')
    t.same((await draw(t, { model: 'checkpoint/minit2i.safetensors' })).bytes, whole.bytes, 'and it leaves nothing behind')
  })

  t.test('another VAE for a checkpoint, also for img2img', async t => {
    const init_image = (await sharp({ create: { width: 64, height: 64, channels: 3, background: '#4080c0' } })
      .png().toBuffer()).toString('base64')
    for (const [type, body] of [['txt2img', { clip_skip: 11 }], ['img2img', { clip_skip: 11, init_image, steps: 2 }]] as const) {
      const own = await draw(t, { model: 'sd1', ...body }, type)
      const other = await draw(t, { model: 'sd1', components: { vae: 'sd1-vae' }, ...body }, type)
      t.match(other.job.parameters, { model: 'checkpoint/sd1.safetensors', components: { vae: 'vae/sd1-vae.safetensors' } })
      t.notSame(other.bytes, own.bytes, type)
      t.ok(other.bytes.includes(Buffer.from('VAE: sd1-vae')), 'the image says so')
      t.same((await draw(t, { ...other.job.parameters, ...body }, type)).bytes, other.bytes)
    }
  })

  t.test('what does not fit is refused, and the field is named', async t => {
    for (const [change, status, message] of [
      [{ components: 'sd1' }, 400, /components but/],
      [{ components: { vae: 1 } }, 400, /components\.vae/],
      [{ components: { vea: 'sd1-vae' } }, 400, /did you mean vae\?\) for components\.vea/],
      [{ components: { vae: '' } }, 400, /components\.vae/],
      [{ components: { path: '/etc/passwd' } }, 400, /components\.path/],
      [{ model: 'sd1', components: { diffusion: 'minit2i-diffusion' } }, 400, /^Expected nothing.*components\.diffusion/],
      [{ model: 'sd1', components: { vae: 'sd2-vae' } }, 404, /^components\.vae: .*Did you mean vae\/sd1-vae/],
      [{ model: 'sd1', components: { vae: '../../etc/passwd' } }, 404, /^components\.vae: /],
      [{ model: 'sd1', components: { vae: 'checkpoint/sd1.safetensors' } }, 422, /^components\.vae: .*is of type checkpoint/],
      [{ model: 'sd1', components: { t5xxl: 'sd1-clip_l' } }, 422, /^components\.t5xxl: .*is clip_l; this needs t5xxl/],
      [{ components: { diffusion: 'minit2i-diffusion' } }, 422, /^components: .*needs t5xxl beside it/],
      [{ components: { diffusion: 'minit2i-diffusion', vae: 'sd1-vae' } }, 422, /^components: .*needs t5xxl/],
      [{ components: { diffusion: 'sd1-diffusion', clip_l: 'sd1-clip_l', vae: 'sd1-vae' } }, 422, /^components: .*whole checkpoints only/],
      [{ model: 'minit2i-diffusion' }, 422, /^model: .*needs t5xxl.*`components`/],
      [{ model: 'sd1-diffusion' }, 422, /^model: .*whole checkpoints only/],
      [{ model: 'sd1', components: { clip_l: 'sd1-clip_l' } }, 422, /portable engine lacks text_encoder_swap, which components needs/],
      [{ model: 'sd1', components: { taesd: 'taesd' } }, 422, /portable engine lacks taesd/],
      [{ model: 'sd1', components: { clip_vision: 'vision' } }, 422, /portable engine lacks clip_vision/]
    ] as const) {
      const response = await post(change)
      t.equal(response.statusCode, status, JSON.stringify(change))
      t.match(response.json(), { error: { message } })
    }
    expectError(t, await post({ init_image: 'aaaa', components: { vae: 'sd1-vae' } }, 'upscale'), 400, 'SDR_INVALID_REQUEST')
  })

  t.test('is among the parameters', async t => {
    const { parameters } = (await app.inject('/api/parameters')).json<{ parameters: Array<{ name: string }> }>()
    t.match(parameters.find(({ name }) => name === 'components'), {
      type: 'object',
      used_by: ['txt2img', 'img2img', 'inpaint', 'controlnet'],
      available: true,
      parts: [{ name: 'diffusion', type: 'string', max_length: 512 }]
    })
  })
})

t.test('what is to be in memory', async t => {
  const of = (components?: object) => residentOf({ model: 'checkpoint/a', parameters: { ...(components && { components }) } })
  t.equal(of(), 'checkpoint/a')
  t.equal(of({ vae: 'vae/b', clip_l: 'c' }), of({ clip_l: 'c', vae: 'vae/b' }), 'the order means nothing')
  t.not(of({ vae: 'vae/b' }), of({ taesd: 'vae/b' }))
  t.not(of({ vae: 'vae/b' }), of({ vae: 'vae/c' }))
})
