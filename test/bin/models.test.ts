import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { gguf, safetensors, typical } from '../fixtures/headers.ts'
import { workspace } from '../helper.ts'
import { fileServer, sendFile } from '../lib/models/fixtures/file-server.ts'
import { runProgram, startServer } from '../server-process.ts'

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
