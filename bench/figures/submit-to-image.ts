import { join } from 'node:path'
import { EngineProcess } from '../../lib/engine/process.ts'
import { selectEngine } from '../../lib/engine/select.ts'
import { ms, portion, quantile, type Measure } from '../figure.ts'
import { Client } from '../parts/client.ts'
import { serve, workspaceOf } from '../parts/processes.ts'

const most = 60
/** Before those that count: the model is loaded, and the code compiled. */
const mostWarmUp = 30
const parameters = { prompt: 'a fox', width: 64, height: 64, steps: 2, cfg_scale: 1, seed: 1, sampler: 'euler' }

/** The same image from the server, and from an engine without a server around it, in turn. */
export const measureSubmitToImage: Measure = async (scope, scale) => {
  const [rounds, warmUp] = [portion(most, scale), portion(mostWarmUp, scale)]
  const workspace = workspaceOf(scope)
  const engine = new EngineProcess(await selectEngine({ engine: 'portable' }))
  scope.teardown(() => engine.stop())
  await engine.start()
  const options = { threads: 1, device: 'cpu' }
  await engine.run('load', { files: { model: join(workspace.models, 'minit2i.safetensors') }, options })
  const client = new Client((await serve(scope, workspace, ['--device', 'cpu'])).url)
  scope.teardown(() => client.close())

  const drawn: number[] = []
  const delivered: number[] = []
  for (let round = -warmUp; round < rounds; round++) {
    const begin = performance.now()
    await engine.run('generate', { ...parameters })
    const between = performance.now()
    const { images: [{ url }] } = await client.post('/api/generate/txt2img?wait=60', parameters)
    await client.get(url)
    if (round < 0) continue
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
