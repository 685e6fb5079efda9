import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import { writeCheckpoint, type CheckpointKind } from '../../../bin/support/demo-model/checkpoints.ts'
import { capabilityNames, type OperationName, type Operations, type RunOptions } from '../../../lib/engine/engine.ts'
import { png, ScriptedEngine } from '../../lib/jobs/fixtures/scripted-engine.ts'
import { safetensors } from '../../fixtures/headers.ts'
import { build, workspace } from '../../helper.ts'

/** An engine that can do everything, draws grey images, and shows a preview after each step when it is asked to. */
class AbleEngine extends ScriptedEngine {
  constructor () {
    super({ capabilities: [...capabilityNames], samplers: ['euler', 'euler_a'], schedulers: ['discrete', 'karras'] })
  }

  override async run<Name extends OperationName> (
    operation: Name, parameters: Operations[Name]['parameters'], options: RunOptions = {}
  ): Promise<Operations[Name]['result']> {
    const { steps = 0, preview } = parameters as { steps?: number, preview?: object }
    for (let step = 1; step <= (preview === undefined ? 0 : steps); step++) {
      await wait(20)
      options.preview?.({ step, index: 0, width: 8, height: 8, png: png(8, 8) })
    }
    return await super.run(operation, parameters, options)
  }
}

/** The application with such an engine, which its tests script, and with `kontext`, a model that edits. */
export async function buildScripted (
  t: Test, options: Record<string, unknown> = {}, { checkpoints = [] }: { checkpoints?: CheckpointKind[] } = {}
): Promise<{ app: FastifyInstance, engine: ScriptedEngine }> {
  const engine = new AbleEngine()
  const engines = Promise.resolve({
    devices: [{ name: 'cpu', engine }], ready: engine.start(), stop: async () => engine.stop()
  })
  const { models, data } = workspace(t)
  for (const kind of checkpoints) writeCheckpoint(kind, join(models, `${kind}.safetensors`))
  mkdirSync(join(models, 'diffusion_models'))
  writeFileSync(join(models, 'diffusion_models', 'part.safetensors'), safetensors({
    'model.diffusion_model.double_blocks.0.img_attn.qkv.weight': { shape: [64, 64] },
    'model.diffusion_model.guidance_in.in_layer.weight': { shape: [64, 64] }
  }))
  writeFileSync(join(models, 'kontext.model.yaml'), 'diffusion_model: diffusion_models/part.safetensors\n')
  const app = await build(t, { 'models-dir': [models], 'data-dir': data, ...options }, { engines, models: false })
  return { app, engine }
}
