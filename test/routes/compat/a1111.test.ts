import { join } from 'node:path'
import sharp from 'sharp'
import t from 'tap'
import { writeCheckpoint } from '../../../bin/support/demo-model/checkpoints.ts'
import { as, build } from '../../helper.ts'
import { until } from '../../server-process.ts'
import { buildScripted } from './scripted.ts'

t.setTimeout(180_000)

const tiny = { prompt: 'a red fox', width: 64, height: 64, steps: 1, seed: 5 }

async function open (t: Parameters<typeof build>[0], options: object = {}) {
  const app = await build(t, { auth: 'jwt', 'rate-limit': '10000', ...options })
  const alice = await as(app, 'alice', 'admin')
  const get = async (path: string, send = alice) => await send(`/sdapi/v1/${path}`)
  const post = async (path: string, body: object, send = alice) => await send({ method: 'POST', url: `/sdapi/v1/${path}`, body })
  return { app, alice, get, post }
}

t.test('txt2img draws what web UIs ask for', async t => {
  const { post } = await open(t, { 'max-batch': '2' })
  const drawn = await post('txt2img', tiny)
  t.equal(drawn.statusCode, 200, drawn.body.slice(0, 300))
  const { images, parameters, info } = drawn.json()
  t.equal(images.length, 1)
  const png = Buffer.from(images[0], 'base64')
  t.match(await sharp(png).metadata(), { format: 'png', width: 64, height: 64 })
  t.match(parameters, { prompt: 'a red fox', seed: 5, sampler: 'euler' })
  t.match(JSON.parse(info), { seed: 5, all_seeds: [5], width: 64, height: 64, steps: 1, sampler_name: 'Euler', infotexts: [/^a red fox\n.*Steps: 1, Sampler: Euler/], extra_generation_params: { 'Schedule type': String }, clip_skip: 1 })
  t.match((await post('png-info', { image: images[0] })).json(), { info: /^a red fox\n/, items: { parameters: /Seed: 5/ } })
  t.match((await post('png-info', { image: `data:image/png;base64,${images[0]}` })).json(), { info: /Seed: 5/ })

  // Forty fields of webuiapi and SillyTavern, which say nothing, and what must not come back.
  const wordy = await post('txt2img', {
    ...tiny,
    url: 'http://x',
    auth: 'alice:secret',
    styles: [],
    subseed: -1,
    subseed_strength: 0,
    seed_resize_from_h: 0,
    n_iter: 1,
    batch_size: 1,
    restore_faces: false,
    tiling: false,
    eta: 0,
    denoising_strength: null,
    s_churn: 0,
    s_tmax: 0,
    s_noise: 1,
    hr_checkpoint_name: null,
    hr_second_pass_steps: 0.5,
    enable_hr: false,
    override_settings: { sd_vae: 'Automatic', CLIP_stop_at_last_layers: 1, sd_model_checkpoint: '' },
    override_settings_restore_afterwards: true,
    script_args: [],
    alwayson_scripts: {},
    sampler_index: 'Euler',
    scheduler: 'automatic',
    firstphase_width: 0,
    clip_skip: 1,
    model: null,
    save_images: false,
    send_images: true,
    refiner_checkpoint: ''
  })
  t.equal(wordy.statusCode, 200, wordy.body.slice(0, 300))
  t.notMatch(wordy.body, 'secret')
  t.same(wordy.json().images, images, 'and the image is the same')

  for (const [sampler, expected] of [
    ['Euler a', { sampler: 'euler_a' }], ['DPM++ 2M', { sampler: 'dpm++2m' }], ['DPM++ 2M Karras', { sampler: 'dpm++2m', scheduler: 'karras' }], ['k_euler_a', { sampler: 'euler_a' }], ['dpmpp_2m_karras', { sampler: 'dpm++2m', scheduler: 'karras' }], ['LCM', { sampler: 'lcm' }], ['DDIM', { sampler: 'ddim_trailing' }]
  ] as const) t.match((await post('txt2img', { ...tiny, sampler_name: sampler })).json().parameters, expected, sampler)
  t.match((await post('txt2img', { ...tiny, sampler_index: 'Heun', scheduler: 'Karras' })).json().parameters, { sampler: 'heun', scheduler: 'karras' })

  const many = (await post('txt2img', { ...tiny, batch_size: 3, n_iter: 1 })).json()
  t.equal(many.images.length, 3)
  t.same(JSON.parse(many.info).all_seeds, [5, 6, 7], 'seeds go on over jobs')
  t.same((await post('txt2img', { ...tiny, send_images: false })).json().images, [])
})

t.test('a body without Content-Type is JSON, and errors have the shape of A1111', async t => {
  const { app, alice, post } = await open(t)
  const bare = await app.inject({ method: 'POST', url: '/sdapi/v1/txt2img', headers: { authorization: `Bearer ${alice.token}` }, payload: Buffer.from(JSON.stringify(tiny)) })
  t.equal(bare.statusCode, 200, bare.body.slice(0, 300))
  for (const [body, status, message] of [
    [{ sampler_name: 'nope' }, 404, /Sampler not found/], [{ scheduler: 'nope' }, 400, /one of .*for scheduler/], [{ model: 'nope' }, 404, /no model/i], [{ steps: 100_000 }, 400, /for steps/],
    [{ prompt: 'x'.repeat(9000) }, 400, /for prompt/], [{ batch_size: 50, n_iter: 50 }, 400, /at most 100 images/], [{ prompt: '<sd_cpp_extra_args>{}</sd_cpp_extra_args>' }, 400, /sd_cpp_extra_args/],
    [{ enable_hr: true, hr_scale: 2 }, 422, /hires/], [{ alwayson_scripts: { controlnet: { args: [{ image: 'x' }, { image: 'y' }] } } }, 400, /one enabled unit/], [{ alwayson_scripts: { controlnet: { args: [{ enabled: true, image: 'x' }] } } }, 422, /controlnet/]
  ] as const) {
    const response = await post('txt2img', { ...tiny, ...body })
    t.equal(response.statusCode, status, response.body.slice(0, 300))
    const error = response.json()
    t.match(error, { error: /^SDR_/, detail: message, errors: message, message, body: '' })
  }
  const stranger = await app.inject({ url: '/sdapi/v1/options', headers: { authorization: '' } })
  t.match(stranger, { statusCode: 401, headers: { 'www-authenticate': /^Basic / } })
  t.match(stranger.json(), { error: 'SDR_UNAUTHENTICATED' }, 'an empty header is no credential, not a wrong one')
  t.match((await alice('/sdapi/v1/interrogate')).json(), { error: 'SDR_NOT_FOUND' })
  const { key } = (await alice({ method: 'POST', url: '/api/auth/keys', body: { name: 'ui' } })).json()
  const basic = `Basic ${Buffer.from(`anyone:${key}`).toString('base64')}`
  t.equal((await app.inject({ url: '/sdapi/v1/options', headers: { authorization: basic } })).statusCode, 200)
})

t.test('lists, and a choice of the caller alone', async t => {
  const { app, get, post } = await open(t)
  writeCheckpoint('minit2i', join(app.config.modelsDir[0]!, 'other.safetensors'), { seed: 2 })
  writeCheckpoint('esrgan', join(app.config.modelsDir[0]!, 'esrgan.safetensors'))
  await app.models.rescan()
  const models = (await get('sd-models')).json()
  t.match(models, [{ title: 'minit2i.safetensors', model_name: 'minit2i', filename: String }, { title: 'other.safetensors' }])
  t.match((await get('samplers')).json()[0], { name: 'Euler', aliases: ['euler'] })
  t.match((await get('schedulers')).json()[0], { name: 'automatic' })
  t.match((await get('upscalers')).json(), [{ name: 'None' }, { name: 'esrgan', scale: 4 }])
  for (const name of ['loras', 'sd-vae', 'hypernetworks', 'face-restorers', 'prompt-styles', 'realesrgan-models']) t.same((await get(name)).json(), [], name)
  t.same((await get('embeddings')).json(), { loaded: {}, skipped: {} })
  t.same((await get('scripts')).json(), { txt2img: [], img2img: [] })
  t.ok((await get('latent-upscale-modes')).json().length > 0)
  t.match((await get('memory')).json(), { ram: {}, cuda: {} })

  const options = (await get('options')).json()
  t.match(options, { samples_format: 'png', sd_model_checkpoint: models[0].title })
  const bob = await as(app, 'bob')
  const chosen = await post('options', { ...options, sd_model_checkpoint: 'other.safetensors', unknown: 1 })
  t.same([chosen.statusCode, chosen.json()], [200, null])
  t.match((await get('options')).json(), { sd_model_checkpoint: 'other.safetensors' })
  t.match((await get('options', bob)).json(), { sd_model_checkpoint: 'minit2i.safetensors' }, 'not the choice of others')
  t.match((await post('txt2img', tiny)).json().parameters, { model: 'checkpoint/other.safetensors' })
  t.match((await post('txt2img', { ...tiny, override_settings: { sd_model_checkpoint: 'minit2i [0123456789]' } })).json().parameters, { model: 'checkpoint/minit2i.safetensors' })
  t.match((await post('txt2img', { ...tiny, model: 'other', override_settings: { sd_model_checkpoint: 'minit2i' } })).json().parameters, { model: 'checkpoint/other.safetensors' })
  t.equal((await post('options', { sd_model_checkpoint: 'nope' })).statusCode, 404)
  t.equal((await post('refresh-checkpoints', {})).json(), null)
  t.equal((await post('refresh-checkpoints', {}, bob)).statusCode, 403)
  t.match((await post('extra-single-image', { image: (await sharp({ create: { width: 16, height: 16, channels: 3, background: 'red' } }).png().toBuffer()).toString('base64'), upscaler_1: 'esrgan' })).json(), { image: /^iVBOR/, html_info: '' })
  t.equal((await post('extra-single-image', { image: '' })).statusCode, 400)
})

t.test('progress and interrupt are of the caller alone', async t => {
  const { app, alice, get, post } = await open(t)
  const bob = await as(app, 'bob')
  t.match((await get('progress')).json(), { progress: 0, eta_relative: 0, state: { job: '', job_count: 0 }, current_image: null })
  const drawing = post('txt2img', { ...tiny, steps: 150, batch_size: 8, n_iter: 2, genkey: 'k1' })
  let seen
  for (let tries = 0; tries < 400 && seen?.state.sampling_step === undefined; tries++) {
    const { state, ...rest } = (await get('progress?skip_current_image=true')).json()
    if (state.sampling_step > 0) seen = { state, ...rest }
    await new Promise(resolve => setTimeout(resolve, 10))
  }
  t.match(seen, { state: { job: 'scripts_txt2img', job_count: 2, sampling_steps: 150 }, current_image: null })
  t.match((await get('progress?genkey=other')).json(), { progress: 0, state: { job_count: 0 } })
  t.match((await get('progress?genkey=k1')).json(), { state: { job_count: 2 } })
  t.match((await get('progress', bob)).json(), { state: { job_count: 0 } }, 'others see nothing of it')
  t.same((await post('interrupt', {}, bob)).json(), {})
  t.match((await get('progress')).json(), { state: { job_count: 2 } }, 'and end nothing')
  t.same((await post('interrupt', {})).json(), {})
  t.match((await drawing).json(), { error: 'SDR_JOB_CANCELLED' })
  t.match((await get('progress')).json(), { progress: 0, state: { job_count: 0 } })
  t.equal((await post('skip', {})).json(), null)
  for (const headers of [{}, { 'content-type': 'application/json' }]) {
    t.equal((await alice({ method: 'POST', url: '/sdapi/v1/interrupt', headers })).statusCode, 200, 'without a body')
    t.equal((await alice({ method: 'POST', url: '/sdapi/v1/txt2img', headers })).statusCode, 400)
  }
  await until(async () => (await alice('/api/queue/jobs')).json().jobs.every(({ status }: { status: string }) => status === 'cancelled'))
})

t.test('--compat without a1111 has none of it', async t => {
  const { get } = await open(t, { compat: 'openai' })
  t.equal((await get('options')).statusCode, 404)
})

t.test('img2img, masks, ControlNet, highres fix and previews reach an engine that has them', async t => {
  const { app } = await buildScripted(t, {}, { checkpoints: ['sdxs'] })
  const image = (await sharp({ create: { width: 64, height: 64, channels: 3, background: 'red' } }).png().toBuffer()).toString('base64')
  const post = async (path: string, body: object) => await app.inject({ method: 'POST', url: `/sdapi/v1/${path}`, body: { model: 'sdxs', prompt: 'a fox', steps: 2, ...body } })
  const typeOf = async () => (await app.inject('/api/queue/jobs?limit=1')).json().jobs[0]
  const drawn = await post('img2img', { init_images: [`data:image/png;base64,${image}`], denoising_strength: 0.4 })
  t.equal(drawn.statusCode, 200, drawn.body.slice(0, 400))
  t.match(await typeOf(), { type: 'img2img', parameters: { strength: 0.4 } })
  t.match(JSON.parse(drawn.json().info), { denoising_strength: 0.4 })
  t.equal((await post('img2img', { init_images: [image], mask: image, inpainting_mask_invert: 0 })).statusCode, 200)
  t.match(await typeOf(), { type: 'inpaint' })
  for (const [body, message] of [
    [{}, /init_images/], [{ init_images: [image, image] }, /one image/], [{ init_images: [''] }, /init_images/], [{ init_images: ['%%%'] }, /init_image/],
    [{ init_images: [image], mask: image, inpainting_mask_invert: 1 }, /inpainting_mask_invert/]
  ] as const) t.match(await post('img2img', body), { statusCode: 400, body: message }, JSON.stringify(body).slice(0, 60))
  t.equal((await post('txt2img', { enable_hr: true, hr_scale: 2, hr_upscaler: 'Latent', hr_second_pass_steps: 0.5, denoising_strength: 0.5 })).statusCode, 200)
  t.match(await typeOf(), { type: 'txt2img', parameters: { hires: { scale: 2, upscaler: 'Latent', denoising_strength: 0.5 } } })
  t.match((await app.inject('/sdapi/v1/scripts')).json(), { txt2img: ['controlnet'] })
  t.match((await app.inject('/controlnet/version')).json(), { version: 2 })
  t.match((await app.inject('/controlnet/module_list')).json(), { module_list: ['none'] })
  t.match(await post('txt2img', { alwayson_scripts: { controlnet: { args: [{ enabled: true, image, model: 'nope [12345678]' }, { enabled: false, image }] } } }), { statusCode: 404, body: /nope/ })

  const slow = post('txt2img', { steps: 30, n_iter: 1 })
  const seen = await until(async () => {
    const { current_image: shown } = (await app.inject('/sdapi/v1/progress')).json()
    return shown !== null && shown
  })
  t.match(Buffer.from(seen, 'base64').subarray(1, 4).toString(), 'PNG')
  t.equal((await slow).statusCode, 200)
})
