import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import { namedOrFirst } from '../../../lib/generation/model.ts'
import { modelRoots } from '../../../lib/options/folders.ts'
import { compose, requireFit } from '../../../lib/models/components.ts'
import { ModelCatalog } from '../../../lib/models/catalog.ts'
import { totalsByType } from '../../../lib/models/listing.ts'
import { describeModel } from '../../../lib/models/model.ts'
import { optionTable } from '../../../lib/options/options.ts'
import { resolveOptions } from '../../../lib/options/resolve.ts'
import { packageRoot } from '../../../lib/util/package-root.ts'
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

/** What no rule knows, so that the folder decides. */
const strange = safetensors({ strange: { dtype: 'F16', shape: [1] } })

t.test('gives types by every folder name of docs/models.md, at any depth and in any case', async t => {
  const rows = [...readFileSync(join(packageRoot, 'docs', 'models.md'), 'utf8').matchAll(/^\| `(\w+)` \| ((?:`[\w-]+`(?:, )?)+) \|$/gm)]
  const expected = rows.flatMap(([, type, names]) => [...names!.matchAll(/`([^`]+)`/g)].flatMap(([, name]) =>
    [[`${name}/a.safetensors`, type!], [`collection/${name!.toUpperCase()}/sub/b.safetensors`, type!]]))
  t.ok(expected.length > 30)
  for (const [path, type] of expected) {
    const catalog = await catalogOf(collection(t, { [path!]: strange }))
    t.match(catalog.all(), [{ type }], path!)
  }
})

t.test('gives the type of a folder to files that no rule knows', async t => {
  const root = collection(t, { 'any name/x.safetensors': strange })
  const options = Object.keys(optionTable).filter(name => name.endsWith('-dir') && !['models-dir', 'data-dir', 'auth-data-dir'].includes(name))
  t.equal(options.length, 8)
  for (const option of options) {
    const catalog = new ModelCatalog({ roots: modelRoots(resolveOptions({ commandLine: { [option]: root } })) })
    await catalog.refresh()
    const { id, type } = catalog.all()[0]!
    t.equal(id, `${type}/any name/x.safetensors`)
    t.equal(option.replaceAll('-', '_').startsWith(type.slice(0, 3)), true, `${option} holds ${type}`)
  }
})

const files = {
  'Stable-diffusion/sd15.safetensors': safetensors(typical.sd1),
  'Stable-diffusion/old.ckpt': 'not opened',
  'Lora/style/ink.safetensors': safetensors(typical.lora),
  'vae/ink.safetensors': safetensors(typical.flux_vae),
  'unet/flux.safetensors': safetensors(typical.flux),
  'text_encoders/t5.safetensors': safetensors(typical.t5xxl),
  'clip/clip_l.safetensors': safetensors(typical.clip_l),
  'stray/upscaler.safetensors': safetensors(typical.esrgan),
  'stray/broken.safetensors': 'xx',
  'unet/complete.model.yaml': 'name: Flux, complete\ndiffusion_model: flux.safetensors\n' +
    'clip_l: ../clip/clip_l.safetensors\n' +
    't5xxl: ../text_encoders/t5.safetensors\nvae: ../vae/ink.safetensors\ndefaults: { steps: 3 }\n',
  '.hidden/secret.safetensors': safetensors(typical.vae)
} satisfies Record<string, Buffer | string>

t.test('lists an existing collection', async t => {
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
  t.match(describeModel(catalog.get('checkpoint/sd15.safetensors')!), {
    type: 'checkpoint',
    name: 'sd15',
    format: 'safetensors',
    architecture: 'sd1',
    quantization: 'F16',
    defaults: { width: 512 },
    blocked: null,
    error: null
  })
  t.equal(JSON.stringify(catalog.list().models.map(model => describeModel(model))).includes(root),
    false, 'no path leaves the server')
  t.match(catalog.get('checkpoint/old.ckpt'), { blocked: /pickle/ })
  t.match(catalog.get('unknown/stray/broken.safetensors'), { error: /too short/ })
  t.match(totalsByType(catalog.all()).find(({ type }) => type === 'checkpoint'), { count: 3, unusable: 1 })
  t.match(catalog.directories(), [{ path: root, models: 10, readable: true }])
})

t.test('finds a model by id and by name', async t => {
  const catalog = await catalogOf(collection(t, files))
  t.equal(catalog.resolve('sd15').id, 'checkpoint/sd15.safetensors')
  t.equal(catalog.resolve('SD15.safetensors').id, 'checkpoint/sd15.safetensors')
  t.equal(catalog.resolve('ink', { types: ['lora'] }).id,
    'lora/style/ink.safetensors', 'the wanted type tells them apart')
  t.throws(() => catalog.find('ink'),
    { code: 'SDR_INVALID_REQUEST', details: { candidates: ['lora/style/ink.safetensors', 'vae/ink.safetensors'] } })
  t.throws(() => catalog.find('sd14'),
    { code: 'SDR_MODEL_NOT_FOUND', details: { nearest: ['checkpoint/sd15.safetensors'] } })
  t.throws(() => catalog.resolve('lora/style/ink.safetensors'), { code: 'SDR_UNSUPPORTED_MODEL', message: /type lora/ })
  t.throws(() => catalog.resolve('ink'), { code: 'SDR_INVALID_REQUEST' }, 'of no type that draws')
  t.throws(() => catalog.resolve('t5'), { code: 'SDR_UNSUPPORTED_MODEL', message: /type text_encoder/ })
  t.throws(() => catalog.resolve('flux'), { code: 'SDR_UNSUPPORTED_MODEL', message: /clip_l, t5xxl, vae/ })
  t.throws(() => catalog.find('x'.repeat(100_000)), { code: 'SDR_MODEL_NOT_FOUND', message: /^.{1,700}$/ })
  t.throws(() => catalog.resolve('old'), { code: 'SDR_UNSUPPORTED_MODEL', message: /pickle/ })
})

t.test('refuses what lacks a part, and parts that do not fit', async t => {
  const { 'first_stage_model.decoder.conv_in.weight': _, ...withoutVae } = typical.sd1
  const withoutEncoders = {
    'model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight': { shape: [32, 32] },
    'first_stage_model.decoder.conv_in.weight': { shape: [32, 16, 3, 3] }
  }
  const catalog = await catalogOf(collection(t, {
    'checkpoints/pruned.safetensors': safetensors(withoutVae),
    'checkpoints/with-vae.model.yaml': 'model: pruned.safetensors\nvae: ../vae/kl.safetensors\n',
    'checkpoints/with-other-vae.model.yaml': 'model: pruned.safetensors\nvae: ../vae/ae.safetensors\n',
    'checkpoints/without.model.yaml': 'model: pruned.safetensors\n',
    'checkpoints/sd3.safetensors': safetensors(withoutEncoders),
    'text_encoders/umt5.safetensors': safetensors({
      ...typical.t5xxl, 'encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight': { shape: [32, 64] }
    }),
    'text_encoders/t5-base.safetensors': safetensors({
      'encoder.block.0.layer.0.SelfAttention.q.weight': { shape: [8, 768] }
    }),
    'vae/kl.safetensors': safetensors(typical.vae),
    'vae/ae.safetensors': safetensors(typical.flux_vae),
    'upscale_models/span.safetensors': safetensors({ 'upsampler.0.weight': { shape: [48, 48, 3, 3] } }),
    'upscale_models/x4.safetensors': safetensors(typical.esrgan)
  }))
  t.throws(() => catalog.resolve('pruned'), { code: 'SDR_UNSUPPORTED_MODEL', message: /no VAE.*components\.vae/ })
  t.throws(() => catalog.resolve('sd3'), { code: 'SDR_UNSUPPORTED_MODEL', message: /needs clip_l, clip_g, t5xxl, vae/ })
  t.equal(catalog.firstUsable('checkpoint')?.name, 'with-vae', 'neither is a default')
  t.match(catalog.find('without').error, /no VAE/)
  t.match(catalog.find('with-other-vae').error, /vae can't be used: it is flux1 of 16 latent channels; sd1 needs/)
  const [pruned, sd3] = [catalog.find('pruned'), catalog.find('sd3')]
  const [kl, ae] = [catalog.find('kl'), catalog.find('ae')]
  t.match(compose(pruned, { vae: kl }).components, { model: pruned.path, vae: kl.path })
  t.throws(() => compose(pruned, {}), { code: 'SDR_UNSUPPORTED_MODEL', message: /no VAE/ })
  t.throws(() => requireFit('vae', ae, pruned), { code: 'SDR_UNSUPPORTED_MODEL', message: /4 channels/ })
  for (const [name, kind] of [['umt5', 'umt5'], ['t5-base', 't5']] as const) {
    t.throws(() => requireFit('t5xxl', catalog.find(name), sd3),
      { code: 'SDR_UNSUPPORTED_MODEL', message: new RegExp(`is ${kind}; this needs t5xxl`) })
  }
  t.throws(() => compose(sd3, { vae: ae }), { message: /at least one of clip_l, clip_g, t5xxl/ })
  t.match(catalog.find('span').error, /ESRGAN only/)
  t.equal(catalog.firstUsable('upscaler')?.name, 'x4')
})

t.test('finds a model by its path, and however its letters are composed', async t => {
  const decomposed = 'Übermodell'.normalize('NFD')
  const catalog = await catalogOf(collection(t, {
    'Lora/style/ink.safetensors': safetensors(typical.lora),
    'Lora/a/dup.safetensors': safetensors(typical.lora),
    'Lora/b/dup.v2.safetensors': safetensors(typical.lora),
    'Lora/b/dup.safetensors': safetensors(typical.lora),
    [`checkpoints/${decomposed}.safetensors`]: safetensors(typical.sd1)
  }))
  const lora = (name: string) => catalog.resolve(name, { types: ['lora'] }).id
  for (const name of [
    'style/ink', 'style/ink.safetensors', 'lora/style/ink', 'lora/style/ink.safetensors', 'style\\ink', 'STYLE/Ink', 'ink'
  ]) t.equal(lora(name), 'lora/style/ink.safetensors', name)
  t.equal(lora('a/dup'), 'lora/a/dup.safetensors')
  t.equal(lora('lora\\b\\dup'), 'lora/b/dup.safetensors')
  t.equal(lora('dup.v2'), 'lora/b/dup.v2.safetensors')
  t.throws(() => lora('dup'), { code: 'SDR_INVALID_REQUEST', details: { candidates: { length: 2 } } })
  for (const name of ['tyle/ink', 'other/ink', 'vae/style/ink', '/ink', 'style/', '']) {
    t.throws(() => lora(name), { code: 'SDR_MODEL_NOT_FOUND' }, name)
  }
  t.equal(catalog.resolve('Übermodell'.normalize('NFC')).name, decomposed)
  t.equal(catalog.resolve('checkpoint/übermodell.safetensors').name, decomposed)
  t.equal(catalog.list({ search: 'übermodell' }).total, 1)
})

t.test('prefers the usable one of several files with one name', async t => {
  const catalog = await catalogOf(collection(t, {
    'checkpoints/v1-5.ckpt': 'x',
    'checkpoints/v1-5.safetensors': safetensors(typical.sd1),
    'unet/flux.safetensors': safetensors(typical.flux),
    'unet/flux.model.yaml': 'diffusion_model: flux.safetensors',
    'checkpoints/Case.safetensors': safetensors(typical.sd1),
    'checkpoints/case.safetensors': safetensors(typical.sd1)
  }))
  t.equal(catalog.resolve('v1-5').id, 'checkpoint/v1-5.safetensors')
  t.equal(catalog.resolve('flux').id, 'checkpoint/unet/flux.model.yaml')
  t.equal(catalog.resolve('Case').id, 'checkpoint/Case.safetensors')
  t.equal(catalog.resolve('case').id, 'checkpoint/case.safetensors')
  t.throws(() => catalog.resolve('CASE'), { code: 'SDR_INVALID_REQUEST' })
})

t.test('gives the engine absolute paths, checked again', async t => {
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
  await t.rejects(catalog.files(catalog.find('diffusion/flux.safetensors')), { message: /clip_l, t5xxl, vae/ })

  rmSync(sd15.path)
  await t.rejects(catalog.files(sd15), { code: 'SDR_UNSUPPORTED_MODEL', message: /gone/ })
  symlinkSync('/etc/hostname', sd15.path)
  await t.rejects(catalog.files(sd15), { code: 'SDR_UNSUPPORTED_MODEL', message: /link/ })
})

t.test('has stable pages and refuses foreign cursors', async t => {
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

t.test('a refresh sees changes and reads only changed files', async t => {
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
  t.equal(catalog.find('sd15').type, 'diffusion', 'the type follows the content')

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

t.test('lists models of several files, and wrong descriptions with the reason', async t => {
  const good = 'diffusion_model: flux.safetensors'
  const wrong: Record<string, [text: string, error: RegExp]> = {
    nothing: ['', /description is not valid/],
    'no main part': ['vae: flux.safetensors', /names neither/],
    'a misspelt field': [`${good}\nclipl: x`, /"clipl"/],
    'a prototype': [`${good}\n__proto__: { x: 1 }`, /"__proto__"/],
    'a part outside': ['diffusion_model: ../../../../../../etc/passwd', /outside the models folders/],
    'a part behind a link': ['diffusion_model: out.safetensors', /outside the models folders/],
    'an absolute part': ['diffusion_model: /etc/passwd', /relative/],
    'a missing part': [`${good}\nvae: missing.safetensors`, /can't be found \(ENOENT\)/],
    'a folder': [`${good}\nvae: ../unet`, /not a file/],
    'a pickle': [`${good}\nvae: old.ckpt`, /pickle/],
    'a text': [`${good}\nvae: note.txt`, /neither/],
    'a damaged main part': ['diffusion_model: broken.safetensors', /diffusion_model can't be used: .*too short/],
    'a damaged other part': [`${good}\nvae: broken.safetensors`, /vae can't be used: .*too short/],
    'a hidden part': [`${good}\nvae: ../.hidden/vae.safetensors`, /vae is not among the listed/],
    'aliases that explode': [`a: &a [x, x]\nb: &b [*a, *a]\n${good}`, /YAML|not valid/],
    'a repeated field': [`${good}\n${good}`, /YAML/],
    'no YAML': ['{', /YAML/],
    'wrong defaults': [`${good}\ndefaults: { steps: 1.5 }`, /defaults\/steps/],
    'too much text': [`${good}\n#${'x'.repeat(65_536)}`, /at most 65536/]
  }
  const root = collection(t, {
    'unet/flux.safetensors': safetensors(typical.flux),
    'unet/broken.safetensors': 'x',
    'unet/old.ckpt': 'x',
    '.hidden/vae.safetensors': safetensors(typical.vae),
    'unet/note.txt': 'x',
    'unet/json.model.json': JSON.stringify({ diffusion_model: 'flux.safetensors', defaults: { width: 256 } }),
    ...Object.fromEntries(Object.entries(wrong).map(([name, [text]]) => [`unet/${name}.model.yml`, text]))
  })
  symlinkSync('/etc/passwd', join(root, 'unet/out.safetensors'))
  const catalog = await catalogOf(root)
  for (const [name, [, error]] of Object.entries(wrong)) {
    const model = catalog.get(`checkpoint/unet/${name}.model.yml`)
    t.match(model?.error, error, `${name}: ${model?.error}`)
    t.notMatch(model?.error, root, 'without a path of this machine')
    t.throws(() => catalog.resolve(model!.id), { code: 'SDR_UNSUPPORTED_MODEL' })
    await t.rejects(catalog.files(model!), { code: 'SDR_UNSUPPORTED_MODEL' })
  }
  const json = catalog.resolve('json')
  const flux = catalog.find('flux.safetensors')
  t.match(json,
    { format: 'bundle', architecture: 'flux1', defaults: { width: 256, height: 1024 }, size: flux.size })
  rmSync(join(root, 'unet/flux.safetensors'))
  symlinkSync('/etc/passwd', join(root, 'unet/flux.safetensors'))
  await t.rejects(catalog.files(json), { code: 'SDR_UNSUPPORTED_MODEL', message: /link/ })
})

t.test('gives unique ids', async t => {
  const root = collection(t, {
    'a/checkpoints/x.safetensors': safetensors(typical.sd1),
    'a/Stable-diffusion/x.safetensors': safetensors(typical.sd1),
    'b/checkpoints/x.safetensors': safetensors(typical.sd1),
    'b/checkpoints/split-00001-of-00002.safetensors': safetensors(typical.sd1),
    'b/wan.safetensors': safetensors({ 'blocks.0.cross_attn.norm_k.weight': { shape: [2] } })
  })
  const catalog = new ModelCatalog({ roots: ['a', 'b', 'c'].map(name => ({ path: join(root, name) })) })
  const { warnings } = await catalog.refresh()
  t.strictSame(catalog.list({ search: 'x.' }).models.map(({ id, path }) => [id, path]), [
    ['checkpoint/checkpoints/x.safetensors', join(root, 'a/checkpoints/x.safetensors')],
    ['checkpoint/x.safetensors', join(root, 'a/Stable-diffusion/x.safetensors')]
  ])
  t.match(warnings,
    [{ path: join(root, 'c') }, { path: join(root, 'b/checkpoints/x.safetensors'), message: /same id/ }])
  t.match(catalog.directories(),
    [{ models: 2 }, { models: 3, warnings: [{ message: /same id/ }] }, { readable: false, warnings: [{}] }])
  t.throws(() => catalog.resolve('split-00001-of-00002'), { message: /part 1 of 2/ })
  t.throws(() => catalog.resolve('wan'), { message: /videos/ })
})

t.test('names unreadable files in the list, and when a model is missing', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'sdrest-catalog-')) // outside the source tree, which another user may not enter
  t.teardown(() => rmSync(folder, { recursive: true }))
  const root = join(folder, 'models')
  const closedRoot = join(folder, 'closed')
  write(join(root, 'checkpoints/closed.safetensors'), safetensors(typical.sd1))
  write(join(root, 'checkpoints/later.safetensors'), safetensors(typical.sd1))
  write(join(root, 'stray.safetensors'), safetensors(typical.sd1))
  write(join(closedRoot, 'x.safetensors'), safetensors(typical.sd1))
  chmodSync(folder, 0o755)
  const catalog = new ModelCatalog({ roots: [{ path: root }, { path: closedRoot }] })
  await asOther(() => catalog.refresh())
  t.throws(() => catalog.find('nothing'), { message: /^[^?]*GET \/api\/models lists them\.$/ })

  for (const name of ['models/checkpoints/closed.safetensors', 'models/stray.safetensors', 'closed']) chmodSync(join(folder, name), 0)
  for (const name of ['checkpoints/closed.safetensors', 'stray.safetensors']) utimesSync(join(root, name), 1, 1)
  await asOther(() => catalog.refresh())
  t.match(catalog.directories(), [
    { readable: true, models: 3, warnings: { length: 2 } },
    { readable: false, warnings: [{ path: closedRoot }] }
  ])
  for (const name of ['closed', 'stray']) {
    t.throws(() => catalog.resolve(name), { code: 'SDR_UNSUPPORTED_MODEL', message: /may not read this file \(EACCES/ }, name)
  }
  t.throws(() => catalog.find('nothing'), { message: /GET \/api\/models\/directories shows what was skipped/ })
  t.throws(() => namedOrFirst('upscaler', undefined, 'upscaler', catalog),
    { message: /no usable model of type upscaler.*shows why files that are there.*api\/models\/directories/ })

  chmodSync(join(root, 'checkpoints/later.safetensors'), 0) // its time of change is the same, so only its use finds out
  await t.rejects(asOther(() => catalog.files(catalog.resolve('later'))), { code: 'SDR_UNSUPPORTED_MODEL', message: /A file of .* can't be read \(EACCES\)/ })
  chmodSync(closedRoot, 0o700)
})

/** Root reads everything, so root becomes another user for a moment. */
async function asOther<Result> (work: () => Promise<Result>): Promise<Result> {
  if (process.getuid?.() !== 0) return await work()
  process.seteuid!(65_534)
  return await work().finally(() => process.seteuid!(0))
}

t.test('computes a hash once', async t => {
  const root = collection(t, files)
  const catalog = await catalogOf(root)
  const model = catalog.find('sd15')
  const seen: number[] = []
  const expected = createHash('sha256').update(files['Stable-diffusion/sd15.safetensors']).digest('hex')
  t.equal(await catalog.hash(model, { progress: ({ bytes, total }) => seen.push(bytes / total) }), expected)
  t.equal(seen.at(-1), 1)
  t.equal(describeModel(model).sha256, expected)
  await catalog.refresh()
  const again = catalog.find('sd15')
  t.equal(await catalog.hash(again, { progress: () => t.fail('it was read again') }), expected)
  const vae = catalog.find('vae/ink.safetensors')
  await t.rejects(catalog.hash(vae, { signal: AbortSignal.abort(new Error('enough')) }), { message: 'enough' })
  await t.rejects(catalog.hash(catalog.find('Flux, complete')), { code: 'SDR_UNSUPPORTED_MODEL' })
  write(vae.path, safetensors(typical.esrgan))
  await t.rejects(catalog.hash(vae), { code: 'SDR_CONFLICT' }, 'never the hash of another content')
})

t.test('sees changes without a refresh', async t => {
  const root = collection(t, files)
  const catalog = await catalogOf(root)
  // The catalog itself does not keep the process alive.
  const alive = setInterval(() => {}, 1000)
  t.teardown(() => {
    clearInterval(alive)
    catalog.close()
  })
  catalog.watch()
  const changed = once(catalog, 'changed')
  write(join(root, 'Lora/later.safetensors'), safetensors(typical.lora))
  t.match(await changed, [{ added: 1, removed: 0 }])
  t.equal(catalog.find('later').type, 'lora')

  const changedAgain = once(catalog, 'changed')
  write(join(root, 'Lora/new/latest.safetensors'), safetensors(typical.lora))
  await changedAgain
  t.equal(catalog.find('latest').id, 'lora/new/latest.safetensors', 'in a folder that is watched only from now on')
  const gone = once(catalog, 'changed')
  rmSync(join(root, 'Lora'), { recursive: true })
  t.match(await gone, [{ removed: 3 }])
})

t.test('does not keep the process alive while it watches', async t => {
  const root = collection(t, files)
  const module = pathToFileURL(join(packageRoot, 'lib', 'models', 'catalog.ts'))
  const script = `
    const { ModelCatalog } = await import(${JSON.stringify(module.href)})
    const catalog = new ModelCatalog({ roots: [{ path: ${JSON.stringify(root)} }] })
    await catalog.refresh()
    catalog.watch()
    console.log(catalog.list().total)`
  const { stdout } = await promisify(execFile)(process.execPath,
    ['--import', 'tsx', '--input-type=module', '-e', script], { timeout: 20_000 })
  t.equal(stdout.trim(), '10')
})
