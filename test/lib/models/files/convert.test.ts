import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { EngineError, type Engine, type EngineInfo, type Operations, type RunOptions } from '../../../../lib/engine/engine.ts'
import { ModelCatalog } from '../../../../lib/models/catalog.ts'
import { checkConvert, convertModel } from '../../../../lib/models/files/convert.ts'
import { StagingArea } from '../../../../lib/models/files/staging.ts'
import { gguf, safetensors, typical } from '../../../fixtures/headers.ts'

const info: EngineInfo = {
  engine: 'native', version: 'x', device: 'cpu', capabilities: ['convert'], samplers: [], schedulers: [], weight_types: ['f16', 'q8_0']
}
const converted = gguf({ 'decoder.conv_in.weight': { dimensions: [64] }, 'decoder.conv_out.weight': { dimensions: [64] } })

/** Stands for the engine: writes what a conversion would, or fails half-way. The real one is in test/native. */
function engineThat (write: (output: string) => void) {
  const asked: Array<Operations['convert']['parameters']> = []
  const engine = {
    info,
    async run (_operation: 'convert', parameters: Operations['convert']['parameters'], { progress }: RunOptions = {}) {
      asked.push(parameters)
      progress?.({ phase: 'saving', step: 1, steps: 2, index: 0 })
      write(parameters.output)
      return {}
    }
  }
  return { engine: engine as unknown as Engine, asked }
}

async function setUp (t: Test) {
  const folder = t.testdir({ models: { 'a.model.yaml': 'model: vae/a.safetensors', 'old.ckpt': 'x' } })
  const models = join(folder, 'models')
  mkdirSync(join(models, 'vae'))
  writeFileSync(join(models, 'vae/a.safetensors'), safetensors(typical.vae))
  const catalog = new ModelCatalog({ roots: [{ path: models }] })
  await catalog.refresh()
  const staging = new StagingArea(join(folder, 'data'))
  return { models, catalog, staging, names: () => readdirSync(join(models, 'vae')).sort() }
}

const request = { model: 'vae/a.safetensors', weight_type: 'q8_0' }

t.test('makes a complete model or none', async t => {
  const { models, catalog, staging, names } = await setUp(t)
  const { engine, asked } = engineThat(output => {
    writeFileSync(output, converted)
    if (asked.length === 1) t.match(names(), [/^\.[0-9a-f]{32}\.part\.gguf$/, 'a.safetensors'], 'nothing of it is listed yet')
  })
  const told: number[] = []
  const { path, size } = await convertModel(request, { catalog, engine, staging }, {
    progress: ({ step }) => { told.push(step) }
  })
  t.strictSame({ path, size }, { path: join(models, 'vae/a-q8_0.gguf'), size: converted.length })
  t.ok(readFileSync(path).equals(converted))
  t.match(asked, [{ input: join(models, 'vae/a.safetensors'), weight_type: 'q8_0', output: /\.gguf$/ }])
  t.strictSame([told, names()], [[1], ['a-q8_0.gguf', 'a.safetensors']])
  await catalog.rescan()
  t.equal(catalog.at(path)?.id, 'vae/a-q8_0.gguf')

  t.match(await convertModel(request, { catalog, engine, staging }), { path }, 'the same after a crash that came too late')
  t.equal(asked.length, 1)
  await t.rejects(checkConvert(request, catalog, info), { code: 'SDR_CONFLICT', message: /already/ })
  writeFileSync(path, 'somebody wrote this')
  await t.rejects(convertModel(request, { catalog, engine, staging }), { code: 'SDR_CONFLICT' })
  t.equal(readFileSync(path, 'utf8'), 'somebody wrote this')
  await convertModel({ ...request, overwrite: true }, { catalog, engine, staging })
  t.ok(readFileSync(path).equals(converted))
})

t.test('leaves nothing behind on failure', async t => {
  const { catalog, staging, names } = await setUp(t)
  const fails = engineThat(output => {
    writeFileSync(output, 'half')
    throw new EngineError('engine_crashed', 'it died')
  }).engine
  await t.rejects(convertModel(request, { catalog, engine: fails, staging }), { code: 'engine_crashed' })
  const lies = engineThat(output => writeFileSync(output, 'converted')).engine
  await t.rejects(convertModel(request, { catalog, engine: lies, staging }), { code: 'SDR_UNSUPPORTED_MODEL', message: /What the engine wrote/ })
  const { engine, asked } = engineThat(output => writeFileSync(output, converted))
  await t.rejects(convertModel(request, { catalog, engine, staging, freeSpace: async () => 0 }), { code: 'SDR_STORAGE_FULL' })
  t.equal(asked.length, 0)
  t.strictSame(names(), ['a.safetensors'])
})

t.test('refuses what cannot be converted', async t => {
  const { catalog } = await setUp(t)
  for (const [changes, error] of [
    [{ weight_type: 'q9' }, { code: 'SDR_INVALID_REQUEST', message: /one of f16, q8_0 for weight_type/ }],
    [{ model: 'nothing' }, { code: 'SDR_MODEL_NOT_FOUND' }],
    [{ model: 'unknown/old.ckpt' }, { code: 'SDR_UNSUPPORTED_MODEL', message: /pickle/ }],
    [{ model: 'checkpoint/a.model.yaml' }, { code: 'SDR_UNSUPPORTED_MODEL', message: /several files/ }],
    [{ name: 'x.safetensors' }, { code: 'SDR_INVALID_REQUEST', message: /ends in \.gguf for name/ }],
    [{ name: '../x.gguf' }, { code: 'SDR_INVALID_REQUEST', message: /for name/ }]
  ] as const) await t.rejects(checkConvert({ ...request, ...changes }, catalog, info), error, JSON.stringify(changes))
  await t.rejects(checkConvert(request, catalog, { ...info, engine: 'portable', capabilities: [] }), { code: 'SDR_UNSUPPORTED_FEATURE', message: /portable engine lacks convert/ })
})
