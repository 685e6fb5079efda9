import { join } from 'node:path'
import { ScriptedEngine } from '../../test/lib/jobs/fixtures/scripted-engine.ts'
import { portion, type Measure, type Scope } from '../figure.ts'
import { folderOf } from '../parts/processes.ts'
import { openQueue, request } from '../parts/queue.ts'

const most = 100
const limit = 8

async function run (
  scope: Scope, folder: string, jobs: number, overtakeLimit: number
): Promise<{ swaps: number, overtaken: number }> {
  const engine = new ScriptedEngine()
  const queue = openQueue(scope, folder, { engine, overtakeLimit })
  const ids: string[] = []
  for (let job = 0; job < jobs; job++) ids.push((await queue.submit(request(`checkpoint/${job % 2}`, String(job)))).id)
  await queue.start()
  for (const id of ids) await queue.waitFor(id, 60_000)
  const order = engine.prompts.map(Number)
  const overtaken = order.map((job, place) => order.slice(0, place).filter(earlier => earlier > job).length)
  return { swaps: engine.loads.length, overtaken: Math.max(...overtaken) }
}

export const measureSwaps: Measure = async (scope, scale) => {
  const jobs = portion(most, scale)
  const folder = folderOf(scope)
  const inTurn = await run(scope, join(folder, 'fifo'), jobs, 0)
  const { swaps, overtaken } = await run(scope, join(folder, 'ours'), jobs, limit)
  const [title, base] = [
    `of ${jobs} jobs that alternate between two models`,
    `first in, first out: ${inTurn.swaps} swaps`
  ]
  return [
    {
      name: 'swaps',
      title: `model swaps ${title}`,
      measured: swaps / inTurn.swaps,
      details: `${swaps} swaps`,
      base
    },
    {
      name: 'overtaking',
      title: `most jobs that overtook one, ${title}`,
      measured: overtaken,
      base: `--overtake-limit ${limit}`
    }
  ]
}
