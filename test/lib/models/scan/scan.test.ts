import { execFile, execFileSync } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import type { ModelRoot } from '../../../../lib/models/roots.ts'
import type { ScanCache } from '../../../../lib/models/scan/scan-cache.ts'
import { collectModels } from '../../../../lib/models/scan/collect.ts'
import { type ScanResult, scanModels } from '../../../../lib/models/scan/scan.ts'
import { scanLimits } from '../../../../lib/models/scan/walk.ts'
import { packageRoot } from '../../../../lib/util/package-root.ts'
import { safetensors, typical } from '../../../fixtures/headers.ts'

const model = safetensors(typical.vae)

function write (...path: string[]): void {
  const file = join(...path)
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, model)
}

function listed ({ files }: ScanResult): string[] {
  return files.map(({ relative }) => relative)
}

/** Outside the source tree: for very many files, and for users who may not look into the tree. */
function temporaryFolder (test: Pick<typeof t, 'teardown'>): string {
  const folder = mkdtempSync(join(tmpdir(), 'sdrest-scan-'))
  test.teardown(() => rmSync(folder, { recursive: true }))
  return folder
}

async function scan (...paths: string[]): Promise<ScanResult> {
  return await scanModels(paths.map(path => ({ path })), new Map())
}

t.test('follows links inside the roots and refuses those outside', async t => {
  const folder = t.testdir({ root: {}, outside: {} })
  const root = join(folder, 'root')
  write(root, 'vae/real.safetensors')
  write(root, '.blobs/abc')
  write(folder, 'outside/secret.safetensors')
  symlinkSync('../.blobs/abc', join(root, 'vae/linked.safetensors'))
  symlinkSync(join(folder, 'outside/secret.safetensors'), join(root, 'vae/escape.safetensors'))
  symlinkSync(join(folder, 'outside'), join(root, 'escape'))
  symlinkSync('/nowhere', join(root, 'vae/dangling.safetensors'))
  symlinkSync('self.safetensors', join(root, 'self.safetensors'))
  // A neighbour whose path merely begins like the root's.
  write(folder, 'root-private/secret.safetensors')
  symlinkSync('../root-private/secret.safetensors', join(root, 'neighbour.safetensors'))

  const result = await scan(root)
  t.strictSame(listed(result), ['vae/linked.safetensors', 'vae/real.safetensors'])
  t.match(result.files[0]?.content, { type: 'vae' }, 'the target needs no ending')
  const warned = new Map(result.warnings.map(({ path, message }) => [path, message]))
  for (const name of ['vae/escape.safetensors', 'escape', 'neighbour.safetensors']) {
    t.match(warned.get(join(root, name)), /leads out/, name)
  }
  for (const name of ['vae/dangling.safetensors', 'self.safetensors']) {
    t.match(warned.get(join(root, name)), /can't be followed: (ENOENT|ELOOP)/, name)
  }
  t.equal(warned.size, 5)

  const both = await scan(root, join(folder, 'outside'))
  t.ok(listed(both).includes('vae/escape.safetensors'), 'a link into another root is fine')
})

t.test('knows what is still being downloaded', async t => {
  const root = temporaryFolder(t)
  for (const ending of ['aria2', 'part', 'crdownload', 'incomplete']) {
    write(root, `${ending}.safetensors`)
    writeFileSync(join(root, `${ending}.safetensors.${ending}`), '')
  }
  write(root, 'whole.safetensors')
  write(root, 'other.gguf.part')
  writeFileSync(join(root, 'cut.safetensors'), 'cut')
  writeFileSync(join(root, 'cut.safetensors.aria2'), '')
  const models = [...(await collectModels(await scan(root))).values()]
  t.strictSame(models.map(({ name, error }) => [name, error]), [
    ['cut', 'It is still being downloaded: cut.safetensors.aria2 lies beside it.'],
    ...['aria2', 'crdownload', 'incomplete', 'part'].map(ending =>
      [ending, `It is still being downloaded: ${ending}.safetensors.${ending} lies beside it.`]),
    ['whole', undefined]
  ])
})

t.test('lists a file once that snapshots of a hub cache link to', async t => {
  const root = temporaryFolder(t)
  const hub = join(root, 'models--a--b')
  write(hub, 'blobs', 'c0ffee')
  for (const snapshot of ['1', '2']) {
    mkdirSync(join(hub, 'snapshots', snapshot), { recursive: true })
    symlinkSync('../../blobs/c0ffee', join(hub, 'snapshots', snapshot, 'ae.safetensors'))
  }
  symlinkSync('blobs/c0ffee', join(hub, 'alias.safetensors'))
  t.strictSame([...(await collectModels(await scan(root))).keys()],
    ['vae/models--a--b/alias.safetensors', 'vae/models--a--b/snapshots/1/ae.safetensors'])
})

t.test('takes a model in one part for whole', async t => {
  const root = temporaryFolder(t)
  for (const part of ['00001-of-00001', '00002-of-00003']) write(root, `model-${part}.safetensors`)
  const models = [...(await collectModels(await scan(root))).values()]
  t.match(models.map(({ error }) => error), [undefined, /^This is part 2 of 3/])
})

t.test('reads a model of several files by its index, and follows it nowhere', async t => {
  const root = temporaryFolder(t)
  const index = (parts: unknown) => writeFileSync(join(root, 'm.safetensors.index.json'),
    typeof parts === 'string' ? parts : JSON.stringify({ weight_map: parts }))
  const found = async () => (await collectModels(await scan(root))).get('vae/m.safetensors.index.json') ??
    (await collectModels(await scan(root))).get('unknown/m.safetensors.index.json')
  const [first, second] = Object.entries(typical.vae)
  writeFileSync(join(root, 'm-1.safetensors'), safetensors({ [first![0]]: first![1] }))
  index({ [first![0]]: 'm-1.safetensors', [second![0]]: 'm-2.safetensors' })
  t.match((await found())?.error, /^Its part "m-2.safetensors" is not a file beside it/)
  writeFileSync(join(root, 'm-2.safetensors'), safetensors({ [second![0]]: second![1] }))
  const whole = await found()
  t.match(whole, { type: 'vae', name: 'm', architecture: 'sd', error: undefined })
  t.ok(whole!.size > 1000, 'the bytes of both')
  writeFileSync(join(root, 'm-2.safetensors'), safetensors({ [first![0]]: first![1] }))
  t.match((await found())?.error, /^Two of its parts hold/)
  for (const [parts, reason] of [
    [{ a: '../m-1.safetensors' }, /other folders/],
    [{ a: '/etc/passwd' }, /other folders/],
    ['{"weight_map":{"a":"..\\u002fm-1.safetensors"}}', /other folders/],
    [{ a: 'm.safetensors.index.json' }, /no safetensors file/],
    [{ a: '.safetensors' }, /no safetensors file/],
    [{ a: 5 }, /no safetensors file/],
    [{}, /names no files/],
    ['{"weight_map":[]}', /no weight_map/],
    ['null', /not valid JSON|no weight_map/],
    ['{', /not valid JSON/],
    [Object.fromEntries(Array.from({ length: 300 }, (_, n) => [`${n}`, `${n}.safetensors`])), /more than 256 parts/]
  ] as const) {
    index(parts)
    t.match((await found())?.error, reason, JSON.stringify(parts).slice(0, 60))
  }
  rmSync(join(root, 'm-1.safetensors'))
  symlinkSync('/etc/hostname', join(root, 'm-1.safetensors'))
  index({ a: 'm-1.safetensors' })
  t.match((await found())?.error, /is not a file beside it/)
})

t.test('ends loops of links', async t => {
  const root = t.testdir()
  write(root, 'a/b/model.safetensors')
  symlinkSync(root, join(root, 'a/loop'))
  symlinkSync('..', join(root, 'a/b/up'))
  symlinkSync('a', join(root, 'twice'))
  const result = await scan(root)
  t.strictSame(listed(result),
    ['a/b/model.safetensors'], 'what really lies in the root is listed once, under its own name')
  t.strictSame(result.warnings, [])

  write(root, '.store/deep/hidden.safetensors')
  symlinkSync('.store', join(root, 'shown'))
  t.strictSame(listed(await scan(root)),
    ['a/b/model.safetensors', 'shown/deep/hidden.safetensors'], 'a link makes a hidden folder visible')
})

t.test('takes types from the nearest folder, in any case of letters', async t => {
  const root = t.testdir()
  for (const folder of ['LORA', 'models/Stable-diffusion/sub', 'text_encoders/clip', 'other', '', 'Unet/deep/er']) {
    write(root, folder, 'x.gguf')
  }
  const { files } = await scanModels([{ path: root }], new Map())
  const types = files.map(({ relative, folderType, folderDepth }) => [relative, [folderType, folderDepth]] as const)
  t.strictSame(Object.fromEntries(types), {
    'LORA/x.gguf': ['lora', 1],
    'Unet/deep/er/x.gguf': ['diffusion', 1],
    'models/Stable-diffusion/sub/x.gguf': ['checkpoint', 2],
    'other/x.gguf': [undefined, 0],
    'text_encoders/clip/x.gguf': ['text_encoder', 2],
    'x.gguf': [undefined, 0]
  })
  const given = await scanModels([{ path: join(root, 'text_encoders'), type: 'lora' }], new Map())
  t.match(given.files, [{ folderType: 'lora', folderDepth: 0 }], 'a type that was given holds for all folders in it')
  const typed = await scanModels([{ path: join(root, 'other'), type: 'upscaler' }, { path: join(root, 'Unet') }],
    new Map())
  t.strictSame(typed.files.map(({ folderType }) => folderType),
    ['upscaler', 'diffusion'], 'a root has a type or a name too')
})

t.test('accepts nested and missing roots', async t => {
  const root = t.testdir()
  write(root, 'my-loras/x.safetensors')
  write(root, 'y.safetensors')
  const inner = join(root, 'my-loras')
  const missing = join(root, 'missing')
  const roots: ModelRoot[] = [{ path: root }, { path: inner, type: 'lora' }, { path: missing }, { path: inner }]
  const result = await scanModels(roots, new Map())
  t.strictSame(result.files.map(({ root, relative }) => [root, relative]), [[0, 'y.safetensors'], [1, 'x.safetensors']])
  t.strictSame(result.roots, [root, inner, null, inner])
  t.match(result.warnings, [{ path: missing, message: /can't be read: ENOENT/ }])
})

t.test('skips odd names and special files', async t => {
  const root = t.testdir()
  const good = ['UPPER.SAFETENSORS', 'back\\slash.gguf', 'emoji 🎨.gguf', "quote ' \" $(x) %2F.gguf", 'x.sft']
  for (const name of [...good, '..dots.gguf', 'notes.txt']) write(root, name)
  write(root, 'line\nbreak.safetensors')
  write(root, 'right\u202eto-left.safetensors')
  writeFileSync(Buffer.concat([Buffer.from(join(root, 'latin-')), Buffer.from([0xe9]), Buffer.from('.safetensors')]),
    model)
  mkdirSync(join(root, 'folder.safetensors'))
  execFileSync('mkfifo', [join(root, 'pipe.safetensors')])
  const result = await scan(root)
  t.strictSame(listed(result),
    good)
  t.equal(result.warnings.filter(({ message }) => message.includes("characters that can't be shown")).length, 3)
  t.match(result.warnings.find(({ path }) => path.endsWith('pipe.safetensors')), { message: /not a regular file/ })
  t.notMatch(result.warnings.map(({ message }) => message).join(), /[\n\u202e]/, 'a warning is one line')
})

t.test('bounds depth and length of paths', async t => {
  const root = t.testdir()
  const deepest = Array.from({ length: scanLimits.depth }, (_, index) => `d${index}`).join('/')
  write(root, deepest, 'in.safetensors')
  write(root, deepest, 'below/out.safetensors')
  const long = 'n'.repeat(200)
  write(root, long, long, 'x.safetensors')
  const result = await scan(root)
  t.strictSame(listed(result), [`${deepest}/in.safetensors`])
  t.match(result.warnings.map(({ message }) => message).sort(), [/levels deep/, /longer than 400/])
})

t.test('warns of unreadable folders, and lists unreadable files with the reason', async t => {
  const root = temporaryFolder(t)
  write(root, 'closed/x.safetensors')
  write(root, 'closed.safetensors')
  write(root, 'open.safetensors')
  chmodSync(root, 0o755)
  chmodSync(join(root, 'closed'), 0)
  chmodSync(join(root, 'closed.safetensors'), 0)
  const cache: ScanCache = new Map()
  const asRoot = process.getuid?.() === 0
  // Root reads everything, so root becomes nobody for a moment.
  if (asRoot) process.seteuid!(65_534)
  const result = await scanModels([{ path: root }], cache).finally(() => { if (asRoot) process.seteuid!(0) })
  t.strictSame(listed(result), ['closed.safetensors', 'open.safetensors'])
  t.match(result.files, [{ size: model.length, content: { error: /may not read this file \(EACCES: permission denied\)/ } }, { content: { type: 'vae' } }])
  t.strictSame(result.warnings.map(({ path, message }) => [path, /EACCES/.test(message)]).sort(),
    [[join(root, 'closed'), true], [join(root, 'closed.safetensors'), true]])
  t.strictSame([...cache.keys()], [join(root, 'open.safetensors')])
  chmodSync(join(root, 'closed.safetensors'), 0o600)
  t.match((await scanModels([{ path: root }], cache)).files.find(({ relative }) => relative === 'closed.safetensors'),
    { content: { type: 'vae' } }, 'it was not remembered as unreadable')
  chmodSync(join(root, 'closed'), 0o700)
})

t.test('lists a cached file that is no longer readable with the reason', async t => {
  const root = temporaryFolder(t)
  write(root, 'model.safetensors')
  chmodSync(root, 0o755)
  // In a process of its own, which can become another user for good: rights are looked up for the real one.
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', `
    import { chmodSync } from 'node:fs'
    import { scanModels } from ${JSON.stringify(pathToFileURL(join(packageRoot, 'dist/lib/models/scan/scan.js')).href)}
    const [roots, cache, found] = [[{ path: ${JSON.stringify(root)} }], new Map(), []]
    const look = async () => found.push((await scanModels(roots, cache)).files[0].content)
    await look()
    chmodSync(${JSON.stringify(join(root, 'model.safetensors'))}, 0)
    if (process.getuid() === 0) process.setuid(65534)
    await look()
    console.log(JSON.stringify(found))`])
  t.match(JSON.parse(stdout), [{ type: 'vae' }, { error: /may not read this file \(EACCES: permission denied\)/ }])
})

t.test('scans ten thousand files', async t => {
  const root = temporaryFolder(t)
  const small = safetensors({ 'decoder.conv_in.weight': { shape: [2] }, 'decoder.conv_out.weight': { shape: [2] } })
  for (let index = 0; index < 10_000; index++) {
    const folder = join(root, `vae/${index % 100}`)
    if (index < 100) mkdirSync(folder, { recursive: true })
    writeFileSync(join(folder, `${index}.safetensors`), small)
  }
  const cache: ScanCache = new Map()
  const times: number[] = []
  for (let round = 0; round < 3; round++) {
    const start = performance.now()
    const { files, cacheChanged } = await scanModels([{ path: root }], cache)
    times.push(Math.round(performance.now() - start))
    t.equal(files.length, 10_000)
    t.equal(cacheChanged, round === 0, 'only the first scan reads')
  }
  t.comment(`cold ${times[0]} ms, then ${times.slice(1).join(' and ')} ms`)
  // Against each other, because the machine does other things meanwhile. Best seen beside other work: 1.7 s and 0.08 s.
  t.ok(times[2]! < times[0]! / 2, 'what is known is not read again')
})
