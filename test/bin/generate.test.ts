import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer, request as ask } from 'node:http'
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { writeCheckpoint } from '../../bin/support/demo-model/checkpoints.ts'
import { safetensors } from '../fixtures/headers.ts'
import { password, workspace } from '../helper.ts'
import { program, runCommandLines, runProgram, startServer, until } from '../server-process.ts'

const pngStart = Buffer.from([0x89, 0x50, 0x4e, 0x47]).toString('base64').slice(0, 5)

/**
 * The server, whose event streams begin with the last step. Of steps that follow each other fast it sends the latest
 * only, so that a client may see none of a short drawing.
 */
async function withLastStep (t: Test, url: string): Promise<string> {
  const step = { phase: 'sampling', step: 2, steps: 2, eta_seconds: null }
  const server = createServer((incoming, answer) => {
    const { method, headers } = incoming
    incoming.pipe(ask(url + incoming.url!, { method, headers }, response => {
      answer.writeHead(response.statusCode!, response.headers)
      if (incoming.url!.endsWith('/events')) answer.write(`event: progress\ndata: ${JSON.stringify(step)}\n\n`)
      response.pipe(answer)
    }))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

t.test('generate draws on a running server', async t => {
  const { folder, models, data } = workspace(t)
  await runProgram(['user', 'add', 'alice', '--password-stdin', '--data-dir', data], { input: password })
  const server = await startServer(t, ['--models-dir', models, '--data-dir', data, '--auth', 'jwt'])
  const { body: { token } } = await server.json('/api/auth/login', { method: 'POST', body: JSON.stringify({ username: 'alice', password }) })
  const env = { SDREST_SERVER: server.url, SDREST_TOKEN: token as string }
  const stepped = { ...env, SDREST_SERVER: await withLastStep(t, server.url) }
  const fox = join(folder, 'fox.png')
  const request = ['generate', 'a red fox', '--width', '64', '--steps', '2', '--seed', '42']

  const first = await runProgram([...request, '-o', fox], { env: stepped })
  t.match(first, { code: 0, stdout: `${fox}\n`, stderr: /sampling[\s\S]*64×64, seed 42/ }, 'without a terminal the path stands alone on standard output')
  t.match(readFileSync(fox).subarray(1, 4).toString(), 'PNG')

  const again = await runProgram([...request, '-o', fox], { env })
  t.match(again, { code: 4, stderr: /fox\.png is there already; choose another --output, or --force/ })
  t.equal((await server.json('/api/queue/jobs', { headers: { authorization: `Bearer ${token}` } })).body.jobs.length, 1, 'and nothing was drawn for it')
  t.match(await runProgram([...request, '-o', fox, '--force', '--token-file', '-', '--server', server.url], { input: `${token}\n` }), { code: 0 })

  const batch = await runProgram([...request, '--batch-count', '2', '-o', join(folder, 'many.webp')], { env })
  t.match(batch, { code: 0, stdout: `${join(folder, 'many-1.webp')}\n${join(folder, 'many-2.webp')}\n` })
  t.match(readFileSync(join(folder, 'many-2.webp')).subarray(8, 12).toString(), 'WEBP')

  const img2img = await runProgram([...request, '--init-image', fox, '-o', join(folder, 'other.png')], { env })
  t.match(img2img, { code: 1, stderr: /\(SDR_UNSUPPORTED_/ }, 'the image arrives, and this model takes none')

  // Of --option=~/file no shell makes the home folder.
  writeFileSync(join(folder, 'token'), token)
  const home = await runProgram([...request, '--output=~/home.png', '--token-file=~/token', '--server', server.url], { env: { HOME: folder } })
  t.match(home, { code: 0, stdout: `${join(folder, 'home.png')}\n` })
  t.match(await runProgram([...request, '--init-image=~/home.png', '-o', join(folder, 'other.png')], { env: { ...env, HOME: folder } }),
    { code: 1, stderr: /\(SDR_UNSUPPORTED_/ }, 'the image was found')

  writeFileSync(join(folder, 'empty'), '')
  mkdirSync(join(folder, 'folder.png'))
  const mistakes: Array<[parameters: string[], code: number, message: RegExp]> = [
    [['--token-file', join(folder, 'empty')], 1, /Give a token or an API key by SDREST_TOKEN or --token-file\. \(SDR_UNAUTHENTICATED\)/],
    [['--token-file', join(folder, 'missing')], 4, /The token cannot be read/],
    [['--model', 'nothing-like-it'], 1, /\(SDR_MODEL_NOT_FOUND\)/],
    [['--width', '63'], 1, /width.*\(SDR_INVALID_REQUEST\)/s],
    [['--set', 'no_such_field=1'], 1, /no_such_field.*\(SDR_INVALID_REQUEST\)/s],
    [['--steps', 'many'], 2, /Expected a number for --steps but received "many"/],
    [['--output', 'fox.tiff'], 2, /ends in \.png, \.jpg or \.webp/],
    [['--output', join(folder, 'missing', 'fox.png')], 4, /There is no folder/],
    [['--force', '--output', join(folder, 'missing', 'fox.png')], 4, /There is no folder/],
    [['--force', '--output', join(folder, 'folder.png')], 4, /folder\.png is a folder/],
    ...['output', 'token-file', 'init-image', 'mask', 'control-image'].map(name => [[`--${name}=~ann/x.png`], 2, new RegExp(`another user .* for --${name} but received`)] as [string[], number, RegExp]),
    [['--init-image', join(folder, 'missing')], 4, /The image of --init-image cannot be read/],
    [['--server', 'http://127.0.0.1:9'], 1, /http:\/\/127\.0\.0\.1:9 cannot be reached/]
  ]
  const results = await runCommandLines(mistakes.map(([parameters]) => [...request, '-o', join(folder, 'new.png'), ...parameters]), env)
  for (const [index, [parameters, code, message]] of mistakes.entries()) {
    const { code: actual, stderr } = results[index]!
    t.equal(actual, code, `${parameters.join(' ')}: ${stderr}`)
    t.match(stderr, message)
  }
  t.same(readdirSync(folder).filter(name => /\.(png|webp)$/.test(name)), ['folder.png', 'fox.png', 'home.png', 'many-1.webp', 'many-2.webp'])

  // A terminal: util-linux's script gives one.
  const inTerminal = async (variables: Record<string, string>, ...parameters: string[]) => {
    const command = [process.execPath, program, ...request, '-o', fox, '--force', ...parameters].map(word => `'${word}'`).join(' ')
    const { stdout } = await promisify(execFile)('script', ['-qec', command, '/dev/null'], {
      env: { PATH: process.env.PATH, ...env, TERM: 'xterm-256color', ...variables }, maxBuffer: 2 ** 24, timeout: 60_000
    })
    return stdout
  }
  const plain = await inTerminal(stepped)
  t.match(plain, /█░* {2}sampling 2\/2/, 'a bar')
  t.match(plain, /fox\.png/)
  t.notMatch(plain, pngStart, 'and no picture in a terminal that does not say it can show one')
  const kitty = await inTerminal({ KITTY_WINDOW_ID: '1' })
  const chunks = [...kitty.matchAll(/_G(?:a=T,f=100,q=2,)?m=[01];([\w+/=]*)/g)]
  t.same(Buffer.from(chunks.map(([, data]) => data).join(''), 'base64'), readFileSync(fox), 'kitty gets the file, chunk by chunk')
  t.ok(chunks.length > 1 && chunks.every(([, data]) => data!.length <= 4096))
  const iterm = await inTerminal({ TERM_PROGRAM: 'iTerm.app' })
  const [, inline] = /\]1337;File=name=[^;]+;size=\d+;inline=1:([\w+/=]*)/.exec(iterm)!
  t.same(Buffer.from(inline!, 'base64'), readFileSync(fox))
  t.notMatch(await inTerminal({ TERM_PROGRAM: 'iTerm.app', TMUX: '/tmp/tmux' }), pngStart)
  t.notMatch(await inTerminal({ KITTY_WINDOW_ID: '1' }, '--inline', 'never'), pngStart)

  const child = spawn(process.execPath, [program, 'generate', 'a fox', '--width', '128', '--steps', '150', '-o', join(folder, 'late.png')], { env: { ...process.env, ...env } })
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => { stderr += text })
  await until(async () => stderr.includes('sampling'))
  child.kill('SIGINT')
  t.same(await once(child, 'exit'), [130, null])
  t.match(stderr, /Cancelling the job; once more leaves at once[\s\S]*was cancelled/)
  const { body: { jobs } } = await server.json('/api/queue/jobs?limit=1', { headers: { authorization: `Bearer ${token}` } })
  t.match(jobs, [{ status: 'cancelled' }], 'on the server, too')

  mkdirSync(join(models, 'Lora'))
  writeCheckpoint('sdxs', join(models, 'sdxs.safetensors'))
  const attention = 'lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q'
  writeFileSync(join(models, 'Lora', 'part.safetensors'), safetensors({
    [`${attention}.lora_down.weight`]: { shape: [4, 64] },
    [`${attention}.lora_up.weight`]: { shape: [64, 4] },
    'lora_unet_nothing.lora_down.weight': { shape: [4, 64] }
  }))
  await until(async () => {
    const { body } = await server.json('/api/models', { headers: { authorization: `Bearer ${token}` } })
    return body.total === 3
  })
  const partly = await runProgram(['generate', 'a fox <lora:part>', '--model', 'sdxs', '--width', '64', '--steps', '1', '-o', join(folder, 'partly.png')], { env })
  t.match(partly, { code: 0, stderr: /The LoRA part\.safetensors fits the model only in part: 2 of its 3 tensors were applied\./ })
})
