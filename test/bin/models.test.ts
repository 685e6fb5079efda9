import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, chownSync, existsSync, lstatSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { gguf, safetensors, typical } from '../fixtures/headers.ts'
import { doubledProgram } from '../doubled-program.ts'
import { noOtherUser, notRoot } from '../fixtures/pam/system.ts'
import { workspace } from '../helper.ts'
import { fileServer, sendFile } from '../lib/models/fixtures/file-server.ts'
import { environment, runProgram, startServer } from '../server-process.ts'

const lora = safetensors(typical.lora)
const sha256 = (content: Buffer) => createHash('sha256').update(content).digest('hex')

function setUp (t: Test) {
  const { models, data } = workspace(t)
  mkdirSync(join(models, 'Lora'))
  writeFileSync(join(models, 'Lora/ink.safetensors'), lora)
  writeFileSync(join(models, 'Lora/ink.model.yaml'), 'model: ink.safetensors')
  writeFileSync(join(models, 'old.ckpt'), 'x')
  const run = async (...words: string[]) => {
    const { code, stdout, stderr } = await runProgram(['models', ...words, '--models-dir', models, '--data-dir', data])
    return { code, stdout, stderr }
  }
  return { models, data, run }
}

t.test('list, hash and remove', async t => {
  const { models, data, run } = setUp(t)
  const listed = await run('list')
  t.strictSame(listed.stdout.split('\n').map(line => line.split('\t').slice(0, 4)), [
    ['checkpoint/Lora/ink.model.yaml', '1', 'sd1', 'F16'],
    ['checkpoint/minit2i.safetensors', '3', 'minit2i', 'F16'],
    ['lora/ink.safetensors', '1', 'sd1', 'F16'],
    ['unknown/old.ckpt', '1', '-', '-'],
    ['']
  ])
  t.match(listed.stdout, /old\.ckpt.*pickle/)
  t.match(listed.stderr, /reading/, 'the first look at a collection shows how far it is')
  t.equal((await run('list', '--type', 'lora')).stdout, 'lora/ink.safetensors\t1\tsd1\tF16\n')

  t.strictSame(await run('hash', 'lora/ink.safetensors'), { code: 0, stdout: `${sha256(lora)}  lora/ink.safetensors\n`, stderr: '  hashing\n' })
  t.strictSame(await run('hash', 'lora/ink.safetensors'), { code: 0, stdout: `${sha256(lora)}  lora/ink.safetensors\n`, stderr: '' }, 'remembered')
  t.match(JSON.parse((await run('list', '--json', '--type', 'lora')).stdout), [{ sha256: sha256(lora), path: join(models, 'Lora/ink.safetensors') }])
  t.match(await run('hash', 'lora/inc.safetensors'), { code: 1, stderr: /Did you mean lora\/ink\.safetensors\?/ })

  t.match(await run('remove', 'lora/ink.safetensors'), { code: 1, stderr: /is a part of checkpoint\/Lora\/ink\.model\.yaml\. Delete that first/ })
  t.match(await run('remove', 'checkpoint/Lora/ink.model.yaml'), { code: 0, stdout: 'Removed checkpoint/Lora/ink.model.yaml.\n' })
  t.ok(existsSync(join(models, 'Lora/ink.safetensors')), 'the parts stay')
  t.match(await run('remove', 'lora/ink.safetensors'), { code: 0 })
  t.notOk(existsSync(join(models, 'Lora/ink.safetensors')))

  t.match(await runProgram(['models', 'list', '--data-dir', data]), { code: 2, stderr: /--models-dir/ })
})

t.test('pull, beside a running server, which lists what came', async t => {
  const { models, data, run } = setUp(t)
  const content = gguf({ 'decoder.conv_in.weight': { dimensions: [64] }, 'decoder.conv_out.weight': { dimensions: [64] } })
  const files = await fileServer(t, (request, response) => { sendFile(request, response, content) })
  const server = await startServer(t, ['--models-dir', models, '--data-dir', data])
  const pull = (...words: string[]) => run('pull', ...words, '--pull-hosts', '127.0.0.1')
  const pulled = await pull(`${files.url}/taef.gguf`, '--type', 'vae', '--folder', 'new', '--sha256', sha256(content))
  t.match(pulled, { code: 0, stdout: new RegExp(`^vae/new/taef\\.gguf\t1 MiB\tsha256 ${sha256(content)}\n$`), stderr: /downloading/ })
  t.ok(readFileSync(join(models, 'vae/new/taef.gguf')).equals(content))
  await server.json('/api/models/refresh', { method: 'POST' })
  t.match(await server.json('/api/models/vae/new/taef.gguf'), { status: 200, body: { sha256: sha256(content) } }, 'with the hash that the command found')

  t.match(await pull(`${files.url}/taef.gguf`, '--name', 'minit2i.safetensors'), { code: 1, stderr: /There is a file "minit2i\.safetensors" already/ })
  t.match(await pull(`${files.url}/x.gguf`, '--sha256', 'a'.repeat(64)), { code: 1, stderr: /The SHA-256 of what came/ })
  t.match(await pull('x'), { code: 2, stderr: /Expected a URL, or hf:owner/ })
  t.match(await run('pull', `${files.url}/x.gguf`), { code: 1, stderr: /over http/ })
  t.match(await pull('hf:a/b/c.gguf', '--hf-endpoint', files.url), { code: 0 })
  t.equal(files.requests.at(-1)!.url, '/a/b/resolve/main/c.gguf')
})

t.test('convert needs the native engine', async t => {
  const { run } = setUp(t)
  t.match(await run('convert', 'minit2i', '--weight-type', 'q8_0', '--engine', 'portable'), { code: 1, stderr: /The portable engine lacks convert/ })
})

t.test('root leaves the folders of a service user to that user', { skip: noOtherUser }, async t => {
  const nobody = 65534
  const content = gguf({ 'decoder.conv_in.weight': { dimensions: [64] }, 'decoder.conv_out.weight': { dimensions: [64] } })
  const files = await fileServer(t, (request, response) => { sendFile(request, response, content) })
  const { folder, models, data } = workspace(t)
  chmodSync(folder, 0o755)
  mkdirSync(data)
  chownSync(data, nobody, nobody)
  const owners = (folder: string) => readdirSync(folder, { recursive: true, encoding: 'utf8' }).map(name => [name, lstatSync(join(folder, name)).uid] as const)
  const foreign = (folder: string, uid = nobody) => owners(folder).filter(([, owner]) => owner !== uid)
  const home = join(folder, 'home')
  const run = (...words: string[]) => runProgram(['models', ...words, '--models-dir', models, '--data-dir', data], { env: { XDG_DATA_HOME: home } })
  const pull = (name: string, ...words: string[]) => run('pull', `${files.url}/${name}.gguf`, '--pull-hosts', '127.0.0.1', '--folder', name, ...words)

  t.match(await run('list'), { code: 0 })
  t.match(await run('hash', 'minit2i'), { code: 0 }, 'who only reads needs no right to write to the models')
  t.ok(owners(data).length > 0)
  t.same(foreign(data), [])

  const before = owners(data)
  t.match(await pull('readonly'), { code: 0 }, 'where only root may write, root writes')
  t.equal(lstatSync(join(models, 'readonly/readonly.gguf')).uid, 0)
  t.same(owners(data), before, 'and nothing of root is left in the data folder')
  t.ok(existsSync(join(home, 'stable-diffusion-rest/staging')))

  for (const path of [models, ...owners(models).map(([name]) => join(models, name))]) chownSync(path, nobody, nobody)
  t.match(await pull('shared'), { code: 0 })
  t.match(await run('remove', 'vae/readonly/readonly.gguf'), { code: 0 })
  t.ok(existsSync(join(data, 'staging')))
  t.same(foreign(data), [])
  t.same(foreign(models), [])

  chownSync(data, 0, 0)
  t.match(await pull('given', '--data-dir', join(folder, 'own')), { code: 0 }, 'root with data of its own')
  t.same(foreign(models), [], 'what it makes in a folder of another user is that user\'s, folders too')
})

t.test('a user who cannot read the program is named', { skip: notRoot }, async t => {
  const { data } = workspace(t, { models: false })
  mkdirSync(data)
  chownSync(data, 65534, 65534)
  const program = doubledProgram(t)
  chmodSync(join(program, '../../..'), 0o700)
  const ended = spawnSync(process.execPath, [program, 'user', 'list', '--data-dir', data], { env: environment, encoding: 'utf8' })
  t.match(ended, { status: 4, stderr: /belongs to the user with the id 65534, who cannot read this program in / })
})
