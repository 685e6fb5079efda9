import { portion, type Measure } from '../figure.ts'
import { residentMemory, serve, withInstantEngine, workspaceOf } from '../parts/processes.ts'

const most = 10_000
const clients = 16
const megabytes = (bytes: number) => bytes / 1e6

/** Real requests, real files; only the engine takes no time. */
export const measureMemory: Measure = async (scope, scale) => {
  const jobs = portion(most, scale)
  const server = await serve(scope, workspaceOf(scope), ['--log-level', 'info'], withInstantEngine)
  let done = 0
  const draw = async () => {
    const { body } = await server.json('/api/generate/txt2img?wait=60', {
      method: 'POST', body: JSON.stringify({ prompt: `number ${done}`, width: 64, steps: 1 })
    })
    if (body.status !== 'completed') throw new Error(`Expected a completed job but received ${JSON.stringify(body)}`)
    await (await fetch(server.url + body.images[0].url)).arrayBuffer()
    server.log.length = 0
  }
  for (; done < clients; done++) await draw()
  const atFirst = residentMemory(server.child.pid!)
  await Promise.all(Array.from({ length: clients }, async () => {
    while (done++ < jobs) await draw()
  }))
  const bytes = residentMemory(server.child.pid!)
  return [{
    name: 'memory',
    title: `memory of the server after ${jobs.toLocaleString('en')} jobs`,
    measured: megabytes(bytes),
    base: `after ${clients} jobs: ${Math.round(megabytes(atFirst))} MB`
  }]
}
