import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { EngineProcess } from '../../../lib/engine/process.ts'
import { LoraReport } from '../../../lib/engine/hosts/lora-report.ts'
import { safetensors, type FixtureTensor } from '../../fixtures/headers.ts'
import { checkpoint, failure, fox, load, portable, temporaryFolder } from './helper.ts'

/** A LoRA without an effect must not look like one with an effect, however many lines the library logs about it. */

t.setTimeout(300_000)

const folder = temporaryFolder(t)

function write (name: string, tensors: Record<string, FixtureTensor>): string {
  const path = join(folder, `${name}.safetensors`)
  writeFileSync(path, safetensors(tensors))
  return path
}

function module (name: string, width: number, output = width): Record<string, FixtureTensor> {
  return {
    [`${name}.lora_down.weight`]: { shape: [4, width] },
    [`${name}.lora_up.weight`]: { shape: [output, 4] },
    [`${name}.alpha`]: { shape: [] }
  }
}

function many (count: number, of: (n: number) => Record<string, FixtureTensor>): Record<string, FixtureTensor> {
  return Object.assign({}, ...Array.from({ length: count }, (_, n) => of(n))) as Record<string, FixtureTensor>
}

const flux = (blocks: number) => many(blocks, n => module(`lora_unet_double_blocks_${n}_img_attn_qkv`, 64, 192))
const attention = 'lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to'

async function draw (engine: EngineProcess, path: string): Promise<string[] | undefined> {
  const { notices } = await engine.run('generate', { ...fox, loras: [{ path, weight: 1 }] }, {})
  return notices
}

t.test('says what became of a LoRA', async t => {
  const engine = await portable(t)
  await load(engine, { model: checkpoint(folder, 'sdxs') })
  t.equal(await draw(engine, checkpoint(folder, 'lora')), undefined, 'one that fits')
  for (const blocks of [2, 20, 300]) {
    const path = write(`flux-${blocks}`, flux(blocks))
    await failure(t, draw(engine, path), 'generation_failed', new RegExp(`flux-${blocks}.*fit the model: 0 / ${3 * blocks} of`))
  }
  const wide = write('wide', { ...module(`${attention}_q`, 320), ...module(`${attention}_v`, 320) })
  await failure(t, draw(engine, wide), 'generation_failed', /wide.*does not fit the model: 0 \/ 6/)
  const oft = write('oft', many(160, n => ({ [`lora_unet_input_blocks_${n}_1_proj_in.oft_blocks`]: { shape: [2, 4, 4] } })))
  await failure(t, draw(engine, oft), 'generation_failed', /oft.*does not fit/)
  const part = write('part', { ...module(`${attention}_q`, 64), ...flux(20) })
  t.strictSame(await draw(engine, part),
    ['The LoRA part.safetensors fits the model only in part: 3 of its 63 tensors were applied.'])
  t.equal(await draw(engine, checkpoint(folder, 'lora')), undefined, 'nothing is left of it')
})

t.test('counts the parts of a model together', async t => {
  const report = new LoraReport()
  report.add('Only (0 / 72) LoRA tensors have been applied, lora_file_path = /a')
  report.add('(192 / 192) LoRA tensors have been applied, lora_file_path = /a')
  t.equal(report.failure, undefined, 'a text encoder that the model lacks is no reason to fail')
  t.strictSame(report.notices, ['The LoRA /a fits the model only in part: 192 of its 264 tensors were applied.'])
  report.add('(0 / 0) LoRA tensors have been applied, lora_file_path = /b')
  report.add('(6 / 6) incompatible LoRA tensors have been skipped, lora_file_path = /b')
  t.match(report.failure, '/b')
  report.begin()
  t.strictSame([report.failure, report.notices], [undefined, []])
})
