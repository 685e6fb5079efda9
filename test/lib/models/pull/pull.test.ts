import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, statSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'
import type { RequestListener } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { ModelCatalog } from '../../../../lib/models/catalog.ts'
import { configurePuller } from '../../../../lib/models/pull/configure.ts'
import { Puller, type PullerOptions } from '../../../../lib/models/pull/pull.ts'
import { parseSource } from '../../../../lib/models/pull/source.ts'
import { readTokens } from '../../../../lib/models/pull/tokens.ts'
import { StagingArea } from '../../../../lib/models/files/staging.ts'
import { AllowList } from '../../../../lib/network/allow-list.ts'
import { gguf, safetensors, typical } from '../../../fixtures/headers.ts'
import { fileServer, sendFile } from '../fixtures/file-server.ts'

const hub = new URL('https://huggingface.co')
/** Half a megabyte, so that it comes in pieces. */
const model = safetensors({ ...typical.vae, padding: { shape: [500, 512] } })
const sha256 = createHash('sha256').update(model).digest('hex')
const impatient = { stallTimeout: 5000, leastBytes: 1, delays: [1, 1, 1] }

interface Setup extends Partial<Omit<PullerOptions, 'hosts' | 'tokens'>> { hosts?: string[], tokens?: Record<string, string> }

function setUp (t: Test, { hosts = ['127.0.0.1'], tokens = {}, ...options }: Setup = {}) {
  const folder = t.testdir({ models: {} })
  const models = join(folder, 'models')
  const staging = new StagingArea(join(folder, 'data', 'staging'))
  const open = (more: Partial<PullerOptions> = {}) => new Puller({
    roots: [{ path: models }],
    staging,
    hosts: new AllowList(hosts, '--pull-hosts'),
    tokens: new Map(Object.entries(tokens)),
    hub,
    mostBytes: 16 * 1024 * 1024,
    patience: impatient,
    ...options,
    ...more
  })
  return { models, staging, open, puller: open(), hidden: () => readdirSync(models).filter(name => name.startsWith('.')) }
}

const sends = (content = model, options = {}): RequestListener => (request, response) => {
  sendFile(request, response, content, options)
}

t.test('makes a model of a file, and does not fetch it twice', async t => {
  const { models, puller, hidden } = setUp(t)
  const { url, requests } = await fileServer(t, sends())
  mkdirSync(join(models, 'Lora'))
  chmodSync(join(models, 'Lora'), 0o750)
  const request = { source: `${url}/files/ink.safetensors#x`, type: 'lora', folder: 'style/new', sha256: sha256.toUpperCase() } as const
  const told: Array<number | undefined> = []
  const pulled = await puller.pull(request, { progress: ({ bytes, total }) => { told.push(bytes, total) } })
  const path = join(models, 'Lora/style/new/ink.safetensors')
  t.strictSame(pulled, { path, size: model.length, sha256 }, 'the folder that A1111 has is used')
  t.ok(readFileSync(path).equals(model))
  t.equal(statSync(path).mode & 0o777, 0o640, 'as its folder is')
  t.equal(statSync(join(models, 'Lora/style')).mode & 0o777, 0o750)
  t.strictSame(told.slice(-2), [model.length, model.length])
  t.match(requests[0]!.headers, { 'accept-encoding': 'identity', authorization: undefined })
  const catalog = new ModelCatalog({ roots: [{ path: models }] })
  await catalog.refresh()
  t.match(catalog.list().models, [{ id: 'vae/Lora/style/new/ink.safetensors' }], 'what the header says counts')

  t.strictSame(await puller.pull(request), pulled, 'asked again after a crash that came too late')
  t.equal(requests.length, 1)
  const other = { ...request, source: `${url}/other/ink.safetensors` }
  await t.rejects(puller.check(other), { code: 'SDR_CONFLICT', message: /already/ })
  await t.rejects(puller.pull(other), { code: 'SDR_CONFLICT' })
  t.equal(requests.length, 1, 'and nobody is asked')
  utimesSync(path, 1, 1)
  await t.rejects(puller.pull(request), { code: 'SDR_CONFLICT' }, 'a file that changed since is somebody\'s')
  t.match(await puller.pull({ ...other, overwrite: true }), { path, sha256 })
  t.match(await puller.pull({ source: `${url}/plain.safetensors` }), { path: join(models, 'plain.safetensors') })
  t.match(await puller.pull({ source: `${url}/x`, name: 'v.gguf', type: 'vae' }), { path: join(models, 'vae/v.gguf') }, 'a folder is made')
  t.strictSame(hidden(), [])
})

t.test('continues where a connection broke', async t => {
  for (const [what, etags, ranges] of [
    ['the same file', ['"one"'], [undefined, /^bytes=\d{5,6}-$/, /^bytes=\d{5,6}-$/]],
    ['another file', ['"one"', '"two"'], [undefined, /^bytes=\d{5,6}-$/, /^bytes=\d{5,6}-$/]],
    ['no strong tag', ['W/"weak"'], [undefined, undefined, undefined]]
  ] as const) {
    await t.test(what, async t => {
      const { puller, models } = setUp(t)
      const contents = [model, safetensors({ ...typical.vae, padding: { shape: [600, 512] } })]
      const cuts = [200_000, 300_000]
      const { url, requests } = await fileServer(t, (request, response) => {
        const round = requests.length - 1
        const isOther = etags[1] !== undefined && round > 0
        sendFile(request, response, contents[isOther ? 1 : 0]!, {
          etag: isOther ? etags[1] : etags[0],
          cut: cuts[round]
        })
      })
      await puller.pull({ source: `${url}/a.safetensors` })
      t.match(requests.map(({ headers }) => headers.range), ranges)
      t.equal(requests.length, 3)
      t.ok(readFileSync(join(models, 'a.safetensors')).equals(contents[what === 'another file' ? 1 : 0]!))
    })
  }
})

t.test('continues an interrupted download later, also in another process', async t => {
  const { puller, open, models, hidden, staging } = setUp(t)
  const { url, requests } = await fileServer(t, (request, response) => {
    sendFile(request, response, model, { pause: requests.length === 1 ? 5 : 0 })
  })
  const stop = new AbortController()
  const request = { source: `${url}/a.safetensors` }
  await t.rejects(puller.pull(request, { signal: stop.signal, progress: ({ bytes }) => { if (bytes > 100_000) stop.abort(new Error('enough')) } }), { message: 'enough' })
  t.match(hidden(), [/^\.[0-9a-f]{32}\.part$/])
  const { length } = readFileSync(join(models, hidden()[0]!))
  t.ok(length > 16 && length < model.length)
  const fresh = open({ staging: new StagingArea(join(models, '../data/staging')) })
  t.match(await fresh.pull(request), { sha256, size: model.length })
  t.equal(requests[1]!.headers.range, `bytes=${length}-`)
  t.equal(requests[1]!.headers['if-range'], '"one"')

  // Killed when all had come, and before it got its name.
  const again = { source: `${url}/b.safetensors` }
  const key = staging.key(again.source, join(models, 'b.safetensors'))
  writeFileSync(join(models, `.${key}.part`), model)
  await staging.write(key, { staging: join(models, `.${key}.part`), etag: '"one"' })
  t.match(await fresh.pull(again), { sha256 }, 'a 416 that says that nothing is missing')

  await t.rejects(puller.pull({ source: `${url}/c.safetensors` }, { signal: AbortSignal.abort(new Error('no')) }), { message: 'no' })
})

t.test('deletes abandoned downloads', async t => {
  const { models, staging, hidden } = setUp(t)
  const leave = async (word: string, days: number) => {
    const key = staging.key(word)
    writeFileSync(join(models, `.${key}.part`), 'x')
    await staging.write(key, { staging: join(models, `.${key}.part`) })
    const time = Date.now() / 1000 - days * 86_400
    utimesSync(join(models, '../data/staging', `${key}.json`), time, time)
    return `.${key}.part`
  }
  const [, recent] = [await leave('old', 8), await leave('recent', 6)]
  const held = await leave('held', 8)
  await staging.alone(staging.key('held'), async () => {
    await staging.sweep()
    t.strictSame(hidden().sort(), [recent, held].sort())
  })
  const innocent = join(models, 'innocent.safetensors')
  writeFileSync(innocent, 'x')
  const key = staging.key('forged')
  await staging.write(key, { staging: innocent })
  utimesSync(join(models, '../data/staging', `${key}.json`), 1, 1)
  await staging.sweep()
  t.strictSame(hidden(), [recent])
  t.ok(existsSync(innocent), 'only what is named like a half-done file is deleted')
})

t.test('checks and bounds redirects, and sends no token elsewhere', async t => {
  const other = await fileServer(t, sends())
  const { url, port, requests } = await fileServer(t, (request, response) => {
    const target = new URLSearchParams(request.url!.split('?')[1]).get('to')
    if (target === null) sendFile(request, response, model)
    else response.writeHead(307, { location: target }).end('elsewhere')
  })
  const to = (target: string) => ({ source: `${url}/x?to=${encodeURIComponent(target)}`, name: 'x.safetensors', overwrite: true })
  const { puller } = setUp(t, { hosts: [`127.0.0.1:${port}`, `127.0.0.1:${other.port}`, 'localhost'], tokens: { [url]: 'top-secret' } })

  await puller.pull(to('/relative.safetensors'))
  t.strictSame(requests.map(({ headers }) => headers.authorization), ['Bearer top-secret', 'Bearer top-secret'], 'it stays with its own server')
  await puller.pull(to(`http://me:password@127.0.0.1:${other.port}/y`))
  t.equal(requests.at(-1)!.headers.authorization, 'Bearer top-secret')
  t.strictSame(other.requests.map(({ headers }) => headers.authorization), [undefined])

  const asked = requests.length
  for (const [target, message] of [
    ['https://127.0.0.1:1/x', /127\.0\.0\.1 leads to 127\.0\.0\.1, which is not public; list that address in --pull-hosts/],
    ['https://169.254.169.254/latest/meta-data', /not public/],
    ['https://[::1]/', /not public/],
    ['https://[::ffff:10.0.0.1]/', /not public/],
    ['https://2130706433/', /not public/],
    ['https://localhost:1/', /localhost leads to .* not public/],
    ['http://example.com/', /example\.com is to be asked over http/],
    ['ftp://example.com/', /over ftp/],
    ['file:///etc/passwd', /over file/],
    ['http://', /no URL/]
  ] as const) await t.rejects(puller.pull(to(target)), { name: 'NetworkError', message }, target)
  t.equal(requests.length - asked, 10, 'a refusal is not tried again')
  const circle = await fileServer(t, (_request, response) => response.writeHead(302, { location: '/again' }).end())
  const { puller: circling } = setUp(t)
  await t.rejects(circling.pull({ source: `${circle.url}/a.safetensors` }), { message: /more than 5 times/ })
  t.equal(circle.requests.length, 6)
  await t.rejects(setUp(t, { hosts: [] }).puller.pull({ source: `${url}/a.safetensors` }), { message: /over http/ })
  await t.rejects(setUp(t, { hosts: [] }).puller.pull({ source: 'https://127.0.0.1/a.safetensors' }), { message: /not public/ })
})

t.test('knows addresses, checksums and errors of the hub', async t => {
  let promised = sha256
  const server = await fileServer(t, (request, response) => {
    if (request.headers.authorization !== 'Bearer hf_x') return response.writeHead(401).end()
    if (request.url!.startsWith('/lfs')) return sendFile(request, response, model)
    response.writeHead(302, { location: '/lfs/a?signature=secret', 'x-linked-etag': `"${promised}"`, 'x-linked-size': model.length }).end()
  })
  const mirror = new URL(`${server.url}/`)
  const { puller, hidden, models } = setUp(t, { hub: mirror, tokens: { [mirror.origin]: 'hf_x' } })
  t.match(await puller.pull({ source: 'hf:owner/repo/sub folder/a.safetensors' }), { sha256 })
  t.equal(server.requests[0]!.url, '/owner/repo/resolve/main/sub%20folder/a.safetensors')
  await puller.pull({ source: 'hf:owner/repo@v1.0/a.safetensors', name: 'b.safetensors' })
  t.equal(server.requests[2]!.url, '/owner/repo/resolve/v1.0/a.safetensors')

  promised = 'f'.repeat(64)
  await t.rejects(puller.pull({ source: 'hf:owner/repo/c.safetensors' }), { message: /the hub promises, f{64}/ })
  await t.rejects(puller.pull({ source: `${server.url}/lfs/d.safetensors`, sha256: 'a'.repeat(64) }), { message: /asked for, a{64}/ })
  t.strictSame(readdirSync(models), ['a.safetensors', 'b.safetensors'])
  t.strictSame(hidden(), [], 'what is wrong does not stay')
  const stranger = setUp(t, { hub: mirror }).puller
  await t.rejects(stranger.pull({ source: 'hf:owner/repo/a.safetensors' }), { message: /401: it wants a token; give one .* --hf-token/ })
  const wrong = setUp(t, { hub: mirror, tokens: { [mirror.origin]: 'hf_wrong' } }).puller
  const refusal = await wrong.pull({ source: 'hf:owner/repo/a.safetensors' }).catch((error: Error) => error.message)
  t.match(refusal, /does not accept the token/)
  t.notMatch(refusal, /hf_wrong/)
})

t.test('refuses and deletes what is not a model or too large', async t => {
  const large = Buffer.concat([model, Buffer.alloc(17 * 1024 * 1024)])
  const answers: Record<string, RequestListener> = {
    page: sends(Buffer.from('<!DOCTYPE html><title>Log in, please</title>'.padEnd(100_000))),
    pickle: sends(Buffer.concat([Buffer.from('PK\x03\x04'), Buffer.alloc(1000)])),
    damaged: sends(model.subarray(0, 400_000)),
    tiny: sends(Buffer.from('GG')),
    announced: sends(large),
    unannounced: (_request, response) => { response.writeHead(200).end(large) },
    more: (_request, response) => {
      // Beyond what the parser of HTTP would let through: two announcements that differ from what comes.
      response.writeHead(206, { 'content-range': `bytes 0-99/${100}` }).end(model)
    },
    zipped: (_request, response) => { response.writeHead(200, { 'content-encoding': 'gzip' }).end(randomBytes(1000)) },
    missing: (_request, response) => { response.writeHead(404).end() },
    busy: (_request, response) => { response.writeHead(503).end() }
  }
  const { url, requests } = await fileServer(t, (request, response) => answers[request.url!.slice(1).split('.')[0]!]!(request, response))
  const { puller, models } = setUp(t)
  for (const [name, message] of Object.entries({
    page: /neither a safetensors nor a GGUF file; perhaps a page/,
    pickle: /neither/,
    damaged: /no model that could be used, and was deleted: .*(cut off|beyond|end)/i,
    tiny: /no model/,
    announced: /larger than 16 MiB.*--max-pull-size/,
    unannounced: /larger than 16 MiB/,
    more: /another file than before|more than it announced/,
    zipped: /coding/,
    missing: /answers 404/
  })) await t.rejects(puller.pull({ source: `${url}/${name}.safetensors` }), { message }, name)
  t.strictSame(readdirSync(models), [])
  const before = requests.length
  await t.rejects(puller.pull({ source: `${url}/busy.safetensors` }), { message: /answers 503/ })
  t.equal(requests.length - before, 4, 'a busy server is asked again, not for ever')
})

t.test('gives up on a slow server', async t => {
  const { url } = await fileServer(t, (request, response) => {
    if (request.url === '/silent.safetensors') return
    response.writeHead(200, { 'content-length': model.length, etag: '"x"' })
    response.write(model.subarray(0, 5000))
    const timer = setInterval(() => response.write(' '), 20)
    response.on('close', () => clearInterval(timer))
  })
  const { puller } = setUp(t, { patience: { stallTimeout: 150, leastBytes: 1000, delays: [1] } })
  for (const name of ['silent', 'loris']) {
    const begin = performance.now()
    await t.rejects(puller.pull({ source: `${url}/${name}.safetensors` }), { message: /sends too slowly, or nothing at all/ }, name)
    t.ok(performance.now() - begin < 20_000)
  }
  const { puller: alone } = setUp(t, { hosts: ['127.0.0.1'] })
  await t.rejects(alone.pull({ source: 'http://127.0.0.1:1/a.safetensors' }), { message: /can't be reached \(ECONNREFUSED\)/ })
})

t.test('fails on a full disk', async t => {
  const { url } = await fileServer(t, sends())
  const room: number[] = [300 * 1024 * 1024, 0]
  const { puller } = setUp(t, { patience: { ...impatient, freeSpace: async () => room.shift() ?? 0 } })
  await puller.pull({ source: `${url}/a.safetensors` })
  await t.rejects(puller.pull({ source: `${url}/b.safetensors` }), { code: 'SDR_STORAGE_FULL', message: /0 MiB free; this needs 1 MiB more/ })

  await t.test('a small one, filled while the file comes', { skip: process.getuid?.() !== 0 && process.env.CI === undefined && 'needs root to mount a small disk' }, async t => {
    const { open } = setUp(t)
    const disk = mkdtempSync(join(tmpdir(), 'sdrest-disk-'))
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=300k', 'tmpfs', disk])
    try {
      const small = open({ roots: [{ path: disk }], patience: { ...impatient, freeSpace: async () => Infinity } })
      await t.rejects(small.pull({ source: `${url}/a.safetensors` }), { code: 'ENOSPC' })
      t.notOk(readdirSync(disk).some(name => !name.startsWith('.')), 'half a model has no name of one')
    } finally {
      execFileSync('umount', [disk])
      rmdirSync(disk)
    }
  })
})

t.test('refuses a second download of the same file or name', async t => {
  const { url } = await fileServer(t, (request, response) => { sendFile(request, response, model, { pause: 2 }) })
  const { puller, open, models } = setUp(t)
  const same = await Promise.allSettled([puller.pull({ source: `${url}/a.safetensors` }), open().pull({ source: `${url}/a.safetensors` })])
  t.match(same.map(({ status }) => status).sort(), ['fulfilled', 'rejected'])
  t.match(same.find(({ status }) => status === 'rejected'), { reason: { code: 'SDR_CONFLICT', message: /The same is being done/ } })
  const name = 'b.safetensors'
  const different = await Promise.allSettled([puller.pull({ source: `${url}/1.safetensors`, name }), open().pull({ source: `${url}/2.safetensors`, name })])
  t.match(different.map(({ status }) => status).sort(), ['fulfilled', 'rejected'], 'the second is not put over the first')
  t.ok(readFileSync(join(models, name)).equals(model))
})

t.test('refuses names, folders and sources that lead elsewhere', async t => {
  const { puller, models, open } = setUp(t)
  const source = 'https://example.com/a.safetensors'
  for (const name of ['', 'x', 'x.ckpt', 'x.model.yaml', '.x.gguf', '../x.gguf', 'a/x.gguf', 'a\\x.gguf', 'x\n.gguf', 'x\u202e.gguf', 'C:x.gguf', ' x.gguf', '\ud800.gguf', `${'x'.repeat(200)}.gguf`]) {
    await t.rejects(puller.check({ source, name }), { code: 'SDR_INVALID_REQUEST', message: /for name but received/ }, JSON.stringify(name))
  }
  for (const folder of ['', '/', '/etc', '..', 'a/../b', 'a//b', '.hidden', 'a/.git', 'a\\b', 'a./b', 'a\0b', 'x/'.repeat(20) + 'x', 'x'.repeat(300)]) {
    await t.rejects(puller.check({ source, folder }), { code: 'SDR_INVALID_REQUEST', message: /for folder but received/ }, JSON.stringify(folder))
  }
  for (const bad of ['', 'x', 'ftp://example.com/x.gguf', 'file:///etc/x.gguf', 'hf:x/y', 'hf:a/b/../c.gguf', 'hf:a/b//c.gguf', 'hf:a b/c/d.gguf', `https://example.com/${'x'.repeat(1024)}.gguf`]) {
    await t.rejects(puller.check({ source: bad }), { code: 'SDR_INVALID_REQUEST', message: /for source but received/ }, bad.slice(0, 40))
  }
  for (const secret of ['https://me@example.com/x.gguf', 'https://:x@example.com/x.gguf', 'https://example.com/x.gguf?token=abc', 'https://example.com/x.gguf?X-Amz-Signature=abc', 'https://example.com/x.gguf?api_key=abc']) {
    const refusal = await puller.check({ source: secret }).catch((error: Error) => error)
    t.match(refusal, { code: 'SDR_INVALID_REQUEST', message: /--pull-tokens-file/ }, secret)
    t.notMatch(String(refusal), /abc/)
  }
  for (const unnamed of ['https://example.com/download/123', 'https://example.com/x.ckpt', 'https://example.com/%2e%2e%2fx.gguf', 'https://example.com/%zz.gguf']) {
    await t.rejects(puller.check({ source: unnamed }), { code: 'SDR_INVALID_REQUEST', message: /for name but received/ }, unnamed)
  }
  await t.rejects(puller.check({ source, sha256: 'x' }), { message: /64 hexadecimal digits for sha256/ })
  t.equal(parseSource('https://example.com/m%C3%BCll.gguf?download=true', hub).fileName, 'müll.gguf')

  const outside = join(models, '../outside')
  mkdirSync(outside)
  symlinkSync(outside, join(models, 'away'))
  const { url, requests } = await fileServer(t, sends(gguf({})))
  await t.rejects(puller.pull({ source: `${url}/x.gguf`, folder: 'away/deep' }), { code: 'SDR_CONFLICT', message: /leads that folder out/ })
  t.strictSame([readdirSync(outside), requests.length], [[], 0])
  await t.rejects(open({ roots: [] }).check({ source, type: 'lora' }), { code: 'SDR_CONFLICT', message: /no models folder for files of type lora/ })
  await t.rejects(open({ roots: [{ path: models, type: 'vae' }] }).check({ source }), { code: 'SDR_CONFLICT', message: /say the type/ })
  t.match(await open({ roots: [{ path: models, type: 'vae' }] }).check({ source, type: 'vae' }), { target: join(models, 'a.safetensors') })
})

t.test('checks the address of the hub', async t => {
  const staging = new StagingArea(t.testdir())
  const given = { pullHosts: ['127.0.0.1'], maxPullSize: 1, hfToken: undefined, pullTokensFile: undefined }
  for (const hfEndpoint of ['x', 'http://hub.example', 'https://me@hub.example', 'https://hub.example/?x', 'ftp://hub.example']) {
    t.throws(() => configurePuller({ ...given, hfEndpoint }, { roots: [], staging }), { exitCode: 2, message: /for --hf-endpoint/ }, hfEndpoint)
  }
  for (const hfEndpoint of ['https://hub.example/mirror', 'http://127.0.0.1:9/']) t.ok(configurePuller({ ...given, hfEndpoint }, { roots: [], staging }))
})

t.test('reads tokens only from a private file', async t => {
  const folder = t.testdir({ tokens: '', open: '' })
  const file = join(folder, 'tokens')
  const read = (content: string) => {
    writeFileSync(file, content)
    chmodSync(file, 0o600)
    return readTokens({ hub, hubToken: 'hf_1', file })
  }
  t.strictSame([...read('civitai.com: abc\n"nas.lan:8443": def')], [['https://civitai.com', 'abc'], ['https://nas.lan:8443', 'def'], [hub.origin, 'hf_1']])
  t.strictSame([...readTokens({ hub })], [])
  for (const [content, message] of [
    ['- top-secret', /Expected lines like/], ['a: [top-secret', /it is no YAML/], ['https://x: top-secret', /Expected host names/],
    ['x: "top-secret \\n"', /printable characters/], ['x: {top-secret: 1}', /printable/], ['x: ""', /printable/], [`x: ${'y'.repeat(5000)}`, /at most 4096/]
  ] as const) {
    t.throws(() => read(content), { name: 'CommandError', message }, content.slice(0, 30))
    try { read(content) } catch (error) { t.notMatch(String(error), /top-secret/) }
  }
  chmodSync(file, 0o644)
  t.throws(() => readTokens({ hub, file }), { exitCode: 4, message: /others can read it; chmod 600/ })
  t.throws(() => readTokens({ hub, file: join(folder, 'none') }), { exitCode: 4, message: /ENOENT/ })
  t.throws(() => readTokens({ hub, hubToken: 'a b' }), { exitCode: 2, message: /for --hf-token/ })
})
