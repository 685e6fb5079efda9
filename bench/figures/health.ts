import { setTimeout as delay } from 'node:timers/promises'
import { ms, portion, quantile, type Measure } from '../figure.ts'
import { serve, workspaceOf } from '../parts/processes.ts'
import { until, type RunningServer } from '../../test/server-process.ts'

const most = 400

async function latencies (server: RunningServer, requests: number): Promise<number[]> {
  const times: number[] = []
  for (let request = 0; request < requests; request++) {
    const begin = performance.now()
    await server.json('/api/health')
    times.push(performance.now() - begin)
    await delay(2)
  }
  return times
}

/** The engine has as many threads as there are processors, and never stops drawing. */
export const measureHealth: Measure = async (scope, scale) => {
  const requests = portion(most, scale)
  const server = await serve(scope, workspaceOf(scope), ['--threads', '0'])
  await latencies(server, requests) // the compiler is still at work
  const idle = await latencies(server, requests)
  const { body: { id } } = await server.json('/api/generate/txt2img', {
    method: 'POST', body: JSON.stringify({ prompt: 'a fox', width: 512, steps: 150 })
  })
  await until(async () => (await server.json(`/api/queue/job/${id}`)).body.progress?.phase === 'sampling', 120_000)
  const busy = await latencies(server, requests)
  const { body: { status } } = await server.json(`/api/queue/job/${id}`)
  if (status !== 'running') throw new Error(`The engine was to be busy all the while, but the job is ${status}`)
  const [median, late] = [quantile(busy, 0.5), quantile(busy, 0.99)]
  return [{
    name: 'health',
    title: '`GET /api/health` while the engine draws, p99',
    measured: late,
    details: `p50 ${ms(median)}`,
    base: `engine idle: ${ms(quantile(idle, 0.99))} (p50 ${ms(quantile(idle, 0.5))})`
  }]
}
