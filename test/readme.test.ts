import { execFile } from 'node:child_process'
import { readFileSync, writeFileSync, mkdirSync, chmodSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { parse } from 'yaml'
import { resolveOptions } from '../lib/options/resolve.ts'
import { packageRoot } from '../lib/util/package-root.ts'
import { blocksOf, runPage } from './docs-commands.ts'
import { workspace } from './helper.ts'
import { childrenOf, program, startServer } from './server-process.ts'

const run = promisify(execFile)

/** The texts of the code blocks of a page in one language, in their order. */
const blocks = (file: string, language: string) => blocksOf(file)
  .filter(block => block.language === language)
  .map(({ text }) => text)

t.test('the commands of the README do what it says', async t => {
  const [demo, tests, serve, draw] = blocks('README.md', 'sh') as [string, string, string, string]
  const scripts = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')).scripts as Record<string, string>
  t.equal(demo, 'npm ci && npm run demo\n')
  t.match(scripts.demo, /stable-diffusion-rest\.js demo$/, 'serve.test.ts runs the demo')
  t.equal(tests, 'npm ci && npm test\n')

  // What `npx stable-diffusion-rest` would find, without npm.
  const { folder, models, data } = workspace(t)
  mkdirSync(join(folder, 'bin'))
  writeFileSync(join(folder, 'bin', 'npx'), `#!/bin/sh\nshift\nexec '${process.execPath}' '${program}' "$@"\n`)
  chmodSync(join(folder, 'bin', 'npx'), 0o755)
  const env = { PATH: `${join(folder, 'bin')}:${process.env.PATH}`, HOME: folder, SDREST_DATA_DIR: data }
  const shell = (script: string) => run('bash', ['-euo', 'pipefail', '-c', script], { cwd: folder, env, timeout: 60_000 })

  const [account, start] = serve.trim().split('\n') as [string, string]
  t.match((await shell(account)).stdout, 'Made admin alice.')
  const server = await startServer(t, start.replace('/data/SD_MODELS', models).split(' ').slice(2), { env: { SDREST_DATA_DIR: data } })
  const session = draw.replace('http://127.0.0.1:8080', server.url).replace('"steps": 20', '"steps": 2')
  // The tiny model may be done before curl is there to see it, so its engine holds still until then.
  const engines = childrenOf(server.child.pid!)
  for (const pid of engines) process.kill(pid, 'SIGSTOP')
  const reading = shell(session)
  reading.child.stdout!.once('data', () => { for (const pid of engines) process.kill(pid, 'SIGCONT') })
  t.match((await reading).stdout, /^event: state[\s\S]*event: progress[\s\S]*event: done/m)
  t.equal(readFileSync(join(folder, 'fox.png')).subarray(1, 4).toString(), 'PNG')

  const [, doctor] = /`npx (stable-diffusion-rest doctor [^`]+)`/.exec(readFileSync(join(packageRoot, 'README.md'), 'utf8'))!
  t.match((await shell(`npx ${doctor!.replace('/data/SD_MODELS', models)} --port 0`)).stdout, /^ok {4}models/m)
})

t.test('the example of docs/configuration.md is a valid configuration', async t => {
  const [example] = blocks('docs/configuration.md', 'yaml')
  const options = resolveOptions({ file: { name: 'example', values: parse(example!) } })
  t.match(options, { auth: 'jwt', host: '0.0.0.0', modelsDir: ['/data/SD_MODELS'], publicPaths: ['/api/docs', '/api/openapi.json'] })
})

t.test('the commands of docs/configuration.md', async t => {
  const { folder, models } = workspace(t)
  const file = join(folder, 'stable-diffusion-rest.yaml')
  const [example] = blocks('docs/configuration.md', 'yaml')
  writeFileSync(file, example!.replace('/data/SD_MODELS', models))
  await runPage(t, 'docs/configuration.md', { replace: { '/etc/stable-diffusion-rest.yaml': file } })
})
