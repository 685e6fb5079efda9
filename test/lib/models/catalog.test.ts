import { mkdirSync, rmSync, statSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'
import { ModelCatalog } from '../../../lib/models/catalog.ts'
import { describe } from '../../../lib/models/model.ts'
import { safetensors, typical } from '../../fixtures/headers.ts'

function collection (test: Pick<typeof t, 'testdir'>, files: Record<string, Buffer | string>): string {
  const root = test.testdir()
  for (const [path, content] of Object.entries(files)) write(join(root, path), content)
  return root
}

function write (path: string, content: Buffer | string): void {
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, content)
}

/** In place and with the old time: nothing but the content tells that it changed. */
function overwrite (path: string, content: Buffer): void {
  writeFileSync(path, content)
  utimesSync(path, 1, 1)
}

async function catalogOf (root: string): Promise<ModelCatalog> {
  const catalog = new ModelCatalog({ roots: [{ path: root }] })
  await catalog.refresh()
  return catalog
}

const files = {
  'Stable-diffusion/sd15.safetensors': safetensors(typical.sd1),
  'Stable-diffusion/old.ckpt': 'not opened',
  'Lora/style/ink.safetensors': safetensors(typical.lora),
  'vae/ink.safetensors': safetensors(typical.vae),
  'unet/flux.safetensors': safetensors(typical.flux),
  'text_encoders/t5.safetensors': safetensors(typical.t5xxl),
  'clip/clip_l.safetensors': safetensors(typical.clip_l),
  'stray/upscaler.safetensors': safetensors(typical.esrgan),
  'stray/broken.safetensors': 'xx',
  'unet/complete.model.yaml': 'name: Flux, complete\ndiffusion_model: flux.safetensors\nclip_l: ../clip/clip_l.safetensors\n' +
    't5xxl: ../text_encoders/t5.safetensors\nvae: ../vae/ink.safetensors\ndefaults: { steps: 3 }\n',
  '.hidden/secret.safetensors': safetensors(typical.vae)
} satisfies Record<string, Buffer | string>

t.test('an existing collection is listed as it lies', async t => {
  const root = collection(t, files)
  const catalog = await catalogOf(root)
  t.strictSame(catalog.list().models.map(({ id }) => id), [
    'checkpoint/old.ckpt',
    'checkpoint/sd15.safetensors',
    'checkpoint/unet/complete.model.yaml',
    'diffusion/flux.safetensors',
    'lora/style/ink.safetensors',
    'text_encoder/clip_l.safetensors',
    'text_encoder/t5.safetensors',
    'unknown/stray/broken.safetensors',
    'upscaler/stray/upscaler.safetensors',
    'vae/ink.safetensors'
  ])
  t.match(describe(catalog.get('checkpoint/sd15.safetensors')!), {
    type: 'checkpoint', name: 'sd15', format: 'safetensors', architecture: 'sd1', quantization: 'F16', defaults: { width: 512 }, blocked: null, error: null
  })
  t.equal(JSON.stringify(catalog.list().models.map(model => describe(model))).includes(root), false, 'no path leaves the server')
  t.match(catalog.get('checkpoint/old.ckpt'), { blocked: /pickle/ })
  t.match(catalog.get('unknown/stray/broken.safetensors'), { error: /too short/ })
  t.match(catalog.types().find(({ type }) => type === 'checkpoint'), { count: 3, unusable: 1 })
  t.match(catalog.directories(), [{ path: root, models: 10, readable: true }])
})

t.test('a model is found by id and by name', async t => {
  const catalog = await catalogOf(collection(t, files))
  t.equal(catalog.resolve('sd15').id, 'checkpoint/sd15.safetensors')
  t.equal(catalog.resolve('SD15.safetensors').id, 'checkpoint/sd15.safetensors')
  t.equal(catalog.resolve('ink', { types: ['lora'] }).id, 'lora/style/ink.safetensors', 'the wanted type tells them apart')
  t.throws(() => catalog.find('ink'), { code: 'SDR_INVALID_REQUEST', details: { candidates: ['lora/style/ink.safetensors', 'vae/ink.safetensors'] } })
  t.throws(() => catalog.find('sd14'), { code: 'SDR_MODEL_NOT_FOUND', details: { nearest: ['checkpoint/sd15.safetensors'] } })
  t.throws(() => catalog.resolve('lora/style/ink.safetensors'), { code: 'SDR_UNSUPPORTED_MODEL', message: /type lora/ })
  t.throws(() => catalog.resolve('old'), { code: 'SDR_UNSUPPORTED_MODEL', message: /pickle/ })
})

t.test('the engine gets absolute paths, checked again', async t => {
  const root = collection(t, files)
  const catalog = await catalogOf(root)
  const sd15 = catalog.resolve('sd15')
  t.strictSame(await catalog.files(sd15), { model: join(root, 'Stable-diffusion/sd15.safetensors') })
  const complete = catalog.resolve('Flux, complete')
  t.strictSame(await catalog.files(complete), {
    diffusion_model: join(root, 'unet/flux.safetensors'),
    clip_l: join(root, 'clip/clip_l.safetensors'),
    t5xxl: join(root, 'text_encoders/t5.safetensors'),
    vae: join(root, 'vae/ink.safetensors')
  })
  t.match(complete, { architecture: 'flux1', defaults: { width: 1024, steps: 3 } })
  await t.rejects(catalog.files(catalog.resolve('diffusion/flux.safetensors')), { message: /clip_l, t5xxl, vae/ })

  rmSync(sd15.path)
  await t.rejects(catalog.files(sd15), { code: 'SDR_UNSUPPORTED_MODEL', message: /gone/ })
  symlinkSync('/etc/hostname', sd15.path)
  await t.rejects(catalog.files(sd15), { code: 'SDR_UNSUPPORTED_MODEL', message: /link/ })
})

t.test('pages are stable and cursors are ours', async t => {
  const catalog = await catalogOf(collection(t, files))
  const seen: string[] = []
  for (let cursor: string | undefined; ;) {
    const page = catalog.list({ limit: 3, cursor })
    t.equal(page.total, 10)
    seen.push(...page.models.map(({ id }) => id))
    if (page.next_cursor === null) break
    cursor = page.next_cursor
  }
  t.strictSame(seen, catalog.list().models.map(({ id }) => id))
  t.equal(catalog.list({ search: 'FLUX', type: 'checkpoint' }).total, 1)
  t.throws(() => catalog.list({ cursor: '%%%' }), { code: 'SDR_INVALID_REQUEST' })
})

t.test('a refresh sees what changed, and only reads that', async t => {
  const root = collection(t, files)
  const unread = join(root, 'stray/upscaler.safetensors')
  overwrite(unread, files['stray/upscaler.safetensors'])
  const cacheFile = join(root, '.cache/models.json')
  const catalog = new ModelCatalog({ roots: [{ path: root }], cacheFile })
  const events: unknown[] = []
  catalog.on('changed', event => events.push(event))
  const [first, second] = await Promise.all([catalog.refresh(), catalog.refresh()])
  t.equal(first, second, 'concurrent refreshes share one scan')
  await catalog.refresh()
  t.equal(events.length, 1, 'nothing changed')

  const path = join(root, 'Stable-diffusion/sd15.safetensors')
  write(path, safetensors(typical.flux))
  utimesSync(path, 1, 1)
  write(join(root, 'Lora/new.safetensors'), safetensors(typical.lora))
  rmSync(join(root, 'vae/ink.safetensors'))
  t.match(await catalog.refresh(), { added: 2, removed: 2 })
  t.equal(catalog.resolve('sd15').type, 'diffusion', 'the type follows the content')

  overwrite(unread, Buffer.alloc(statSync(unread).size))
  const next = new ModelCatalog({ roots: [{ path: root }], cacheFile })
  await next.refresh()
  t.strictSame(next.list(), catalog.list(), 'the same after a restart, without reading what did not change')
  overwrite(unread, files['stray/upscaler.safetensors'])
  for (const text of ['', '{', '{"fingerprint":"other","files":[]}', 'null']) {
    writeFileSync(cacheFile, text)
    const rescanned = new ModelCatalog({ roots: [{ path: root }], cacheFile })
    await rescanned.refresh()
    t.strictSame(rescanned.list(), catalog.list(), `a cache of ${JSON.stringify(text)} is replaced`)
  }
})
