import { join } from 'node:path'
import { EngineProcess } from '../../lib/engine/process.ts'
import { selectEngine } from '../../lib/engine/select.ts'
import { ms, portion, quantile, type Measure } from '../figure.ts'
import { serve, workspaceOf } from '../parts/processes.ts'

const most = 60
const parameters = { prompt: 'a fox', width: 64, height: 64, steps: 2, cfg_scale: 1, seed: 1, sampler: 'euler' }

/** The same image from the server, and from an engine without a server around it, in turn. */
export const measureSubmitToImage: Measure = async (scope, scale) => {
  const rounds = portion(most, scale)
  const workspace = workspaceOf(scope)
  const engine = new EngineProcess(await selectEngine({ engine: 'portable' }))
  scope.teardown(() => engine.stop())
  await engine.start()
  const options = { threads: 1, device: 'cpu' }
  await engine.run('load', { files: { model: join(workspace.models, 'minit2i.safetensors') }, options })
  const server = await serve(scope, workspace, ['--device', 'cpu'])

  const drawn: number[] = []
  const delivered: number[] = []
  for (let round = -5; round < rounds; round++) {
    const begin = performance.now()
    await engine.run('generate', { ...parameters })
    const between = performance.now()
    const { body: { images: [{ url }] } } = await server.json('/api/generate/txt2img?wait=60', {
      method: 'POST', body: JSON.stringify(parameters)
    })
    await (await fetch(server.url + url)).arrayBuffer()
    if (round < 0) continue // the model is loaded, the code compiled
    drawn.push(between - begin)
    delivered.push(performance.now() - between)
  }
  const overhead = quantile(delivered, 0.5) - quantile(drawn, 0.5)
  return [{
    name: 'submit-to-image',
    title: 'from submission to the image, without the time of the engine (median)',
    measured: overhead,
    base: `the engine alone: ${ms(quantile(drawn, 0.5))}`
  }]
}
