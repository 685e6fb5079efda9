import { execFile } from 'node:child_process'
import { copyFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { writeCheckpoint } from '../bin/support/demo-model/checkpoints.ts'
import { packageRoot } from '../lib/util/package-root.ts'
import { as, build, password } from './helper.ts'

t.setTimeout(300_000)

const run = promisify(execFile)
const codegen = join(packageRoot, 'node_modules', 'openapi-typescript-codegen', 'bin', 'index.js')
const golden = join(packageRoot, 'test', 'fixtures', 'openapi.json')

/** Programs of users who generate their client from the document; test/openapi.test.ts has two more. */
const programs = ['codegen', 'swagger-typescript-api', 'oazapfts', 'orval', 'kubb']

const kubbConfig = `import { defineConfig } from '@kubb/core'
import { pluginClient } from '@kubb/plugin-client'
import { pluginOas } from '@kubb/plugin-oas'
import { pluginTs } from '@kubb/plugin-ts'
export default defineConfig({
  root: '.', input: { path: ${JSON.stringify(golden)} }, output: { path: './kubb' },
  plugins: [pluginOas({ generators: [] }), pluginTs(), pluginClient()]
})`

t.test('clients of five generators compile, draw, upload, cancel, and type their errors', async t => {
  const folder = t.testdir({ 'package.json': '{ "type": "module" }', 'kubb.config.mjs': kubbConfig })
  symlinkSync(join(packageRoot, 'node_modules'), join(folder, 'node_modules'))
  const runTool = async (name: string, ...parameters: string[]) =>
    await run(join(packageRoot, 'node_modules', '.bin', name), parameters, { cwd: folder, env: { ...process.env, KUBB_DISABLE_TELEMETRY: '1' } })
  await Promise.all([
    // Another package has a program of the name `openapi`, too.
    run(process.execPath, [codegen, '--input', golden, '--output', 'codegen', '--client', 'fetch', '--useOptions'], { cwd: folder }),
    runTool('swagger-typescript-api', 'generate', '-p', golden, '-o', 'swagger-typescript-api', '-n', 'api.ts'),
    runTool('oazapfts', golden, 'oazapfts.gen.ts'),
    runTool('orval', '--input', golden, '--output', 'orval.gen.ts', '--client', 'fetch'),
    runTool('kubb', 'generate', '--config', 'kubb.config.mjs')
  ])
  for (const name of [...programs, 'report']) {
    copyFileSync(join(packageRoot, 'test', 'fixtures', 'generated-clients', `${name}.ts`), join(folder, `${name}.ts`))
  }
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({
    compilerOptions: {
      strict: true,
      noEmit: true,
      skipLibCheck: true,
      allowImportingTsExtensions: true,
      target: 'ES2023',
      lib: ['ES2023', 'DOM', 'DOM.Iterable'],
      module: 'ESNext',
      moduleResolution: 'bundler',
      types: ['node']
    },
    files: programs.map(name => `${name}.ts`)
  }))
  const compiled = await runTool('tsc', '-p', '.').catch((error: { stdout: string }) => error)
  t.equal(compiled.stdout, '', 'they compile')

  const app = await build(t, { auth: 'jwt', 'rate-limit': '40' })
  writeCheckpoint('esrgan', join(app.config.modelsDir[0]!, 'esrgan.safetensors'))
  await app.models.rescan()
  const baseUrl = await app.listen({ host: '127.0.0.1', port: 0 })
  for (const name of programs) {
    const username = `user-${name}`
    await as(app, username)
    const { stdout } = await run(process.execPath, ['--import', 'tsx', join(folder, `${name}.ts`), baseUrl, username, password], { cwd: packageRoot, timeout: 120_000 })
    const answers = JSON.parse(stdout)
    t.match(answers, {
      refused: [401, 'SDR_UNAUTHENTICATED'],
      models: ['checkpoint', 'upscaler'],
      job: 'completed',
      form: 'completed',
      cancelled: /cancelled|running/,
      forbidden: [403, 'SDR_FORBIDDEN'],
      missing: [404, 'SDR_JOB_NOT_FOUND'],
      lacking: [422, 'SDR_UNSUPPORTED_FEATURE'],
      limited: [429, 'SDR_RATE_LIMITED']
    }, name)
    // Two generators read every answer as text.
    if (name !== 'orval' && name !== 'codegen') t.same(answers.picture, ['PNG', true], `${name} gets the bytes of the image`)
  }
})
