import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import sharp from 'sharp'
import t from 'tap'
import type { Job } from '../../lib/jobs/job.ts'
import { writeCheckpoint } from '../../bin/support/demo-model/checkpoints.ts'
import { safetensors, safetensorsText, typical } from '../fixtures/headers.ts'
import { build, workspace } from '../helper.ts'

/** Requests as people and programs send them to other servers. */

t.setTimeout(300_000)

interface Entry { dtype: string, shape: number[], data_offsets: [number, number] }

/** Writes a checkpoint as two files and their index. */
function writeSharded (folder: string): void {
  mkdirSync(folder)
  const whole = join(folder, 'whole.bin')
  writeCheckpoint('minit2i', whole)
  const bytes = readFileSync(whole)
  const start = 8 + Number(bytes.readBigUInt64LE(0))
  const { __metadata__: _, ...tensors } = JSON.parse(bytes.subarray(8, start).toString()) as Record<string, Entry>
  const entries = Object.entries(tensors)
  const half = entries.length >> 1
  const weightMap: Record<string, string> = {}
  for (const [index, part] of [entries.slice(0, half), entries.slice(half)].entries()) {
    const name = `mini-0000${index + 1}-of-00002.safetensors`
    const header: Record<string, Entry> = {}
    const data: Buffer[] = []
    let length = 0
    for (const [tensor, { data_offsets: [begin, end], ...entry }] of part) {
      header[tensor] = { ...entry, data_offsets: [length, length += end - begin] }
      data.push(bytes.subarray(start + begin, start + end))
      weightMap[tensor] = name
    }
    writeFileSync(join(folder, name), Buffer.concat([safetensorsText(JSON.stringify(header)), ...data]))
  }
  writeFileSync(join(folder, 'mini.safetensors.index.json'),
    JSON.stringify({ metadata: { total_size: bytes.length }, weight_map: weightMap }))
}

const grey = (await sharp({ create: { width: 64, height: 64, channels: 3, background: 'grey' } }).png().toBuffer())
  .toString('base64')
const small = { prompt: 'a fox', width: 64, height: 64, steps: 1, seed: 5 }

t.test('requests in the wild', async t => {
  const { models, data } = workspace(t)
  for (const kind of ['minit2i', 'sdxs'] as const) writeCheckpoint(kind, join(models, `${kind}.safetensors`))
  mkdirSync(join(models, 'Lora', 'style'), { recursive: true })
  writeCheckpoint('lora', join(models, 'Lora', 'style', 'ink.safetensors'))
  writeFileSync(join(models, 'Lora', 'wide.safetensors'), safetensors(typical.lora))
  const fluxModule = (n: number) => `lora_unet_x_blocks_${n}_qkv.lora_down.weight`
  writeFileSync(join(models, 'Lora', 'part.safetensors'), safetensors({
    'lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight': { shape: [4, 64] },
    'lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_up.weight': { shape: [64, 4] },
    ...Object.fromEntries(Array.from({ length: 60 }, (_, n) => [fluxModule(n), { shape: [4, 64] }]))
  }))
  writeFileSync(join(models, 'Lora', 'nothing.safetensors'), safetensors(
    Object.fromEntries(Array.from({ length: 90 }, (_, n) => [fluxModule(n), { shape: [4, 64] }]))))
  writeSharded(join(models, 'sharded'))
  const app = await build(t, { 'models-dir': [models], 'data-dir': data }, { models: false })
  const post = (body: object, type = 'txt2img') =>
    app.inject({ method: 'POST', url: `/api/generate/${type}?wait=120`, body: { ...small, ...body } })
  const draw = async (body: object) => {
    const job = (await post(body)).json<Job>()
    return { job, bytes: job.status === 'completed' ? (await app.inject(job.images[0]!.url)).rawPayload : undefined }
  }

  t.test('seeds of other programs draw pictures of their own', async t => {
    const seeds = [5, 2 ** 31 - 1, 2 ** 31, 3_698_135_662, 2 ** 32 - 1, 2 ** 32 + 5, 2 ** 53 - 1]
    const pictures = new Set<string>()
    for (const seed of seeds) {
      const { job, bytes } = await draw({ model: 'minit2i', seed })
      t.equal(job.images[0]?.seed, seed)
      // Without the generation data, which tells the seeds apart by itself.
      pictures.add(bytes!.subarray(bytes!.indexOf('IDAT')).toString('latin1'))
    }
    t.equal(pictures.size, seeds.length)
    const { job } = await draw({ model: 'minit2i', seed: -1 })
    t.ok(Number(job.parameters.seed) >= 0)
  })

  t.test('a model in several files is used by its index', async t => {
    const [listed] = (await app.inject('/api/models?search=sharded/mini.')).json<{ models: object[] }>().models
    t.match(listed, {
      id: 'checkpoint/sharded/mini.safetensors.index.json', name: 'mini', architecture: 'minit2i', error: null
    })
    const whole = await draw({ model: 'checkpoint/minit2i.safetensors' })
    const { job, bytes } = await draw({ model: 'mini' })
    t.equal(job.status, 'completed')
    t.ok(bytes!.subarray(bytes!.indexOf('IDAT')).equals(whole.bytes!.subarray(whole.bytes!.indexOf('IDAT'))))
  })

  t.test('an empty prompt is a prompt', async t => {
    const { job } = await draw({ model: 'minit2i', prompt: '' })
    t.match(job, { status: 'completed', parameters: { prompt: '' } })
    const { job: tagged } = await draw({ model: 'sdxs', prompt: '<lora:style/ink:1>' })
    for (const prompt of ['', '<lora:style/ink:1>']) {
      t.match((await post({ model: 'sdxs', prompt, init_image: grey }, 'img2img')).json(), { status: 'completed' }, prompt)
    }
    t.match(tagged, { status: 'completed', parameters: { loras: [{ name: 'lora/style/ink.safetensors' }] }, result: null })
  })

  t.test('a LoRA has its effect, or the request or the job says that it has not', async t => {
    const other = await post({ model: 'minit2i', loras: [{ name: 'wide' }] })
    t.equal(other.statusCode, 422)
    t.match(other.json(), {
      error: { code: 'SDR_UNSUPPORTED_MODEL', message: 'loras: lora/wide.safetensors is made for sd1, and checkpoint/minit2i.safetensors is minit2i.' }
    })
    const { job: part } = await draw({ model: 'sdxs', loras: [{ name: 'part' }] })
    t.strictSame([part.status, part.result], ['completed', {
      notices: ['The LoRA part.safetensors fits the model only in part: 2 of its 62 tensors were applied.']
    }])
    const { job: none } = await draw({ model: 'sdxs', loras: [{ name: 'nothing' }] })
    t.match(none, { status: 'failed', error: { code: 'generation_failed', message: /nothing\.safetensors does not fit the model/ } })
  })
})
