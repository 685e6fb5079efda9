import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { program } from '../../test/server-process.ts'
import { ms, portion, quantile, Scope, type Measure } from '../figure.ts'
import { serve, startPart, workspaceOf } from '../parts/processes.ts'

const most = 7
const run = promisify(execFile)

async function timed (work: () => Promise<unknown>): Promise<number> {
  const begin = performance.now()
  await work()
  return performance.now() - begin
}

/** In turn, so that whatever else the machine does meets all of them. */
export const measureStart: Measure = async (scope, scale) => {
  const rounds = portion(most, scale)
  const workspace = workspaceOf(scope)
  const times = { ours: [] as number[], bare: [] as number[], version: [] as number[], node: [] as number[] }
  for (let round = 0; round < rounds; round++) {
    const inner = new Scope()
    times.node.push(await timed(() => run(process.execPath, ['-e', '0'])))
    times.version.push(await timed(() => run(process.execPath, [program, '--version'])))
    times.bare.push(await timed(async () => {
      const { url } = await startPart(inner, 'bare-server', ['{}'])
      await fetch(`${url}/api/models`)
    }))
    times.ours.push(await timed(async () => {
      const { json } = await serve(inner, workspace, ['--auth', 'jwt'])
      await json('/api/health')
    }))
    await inner.close()
  }
  const [ours, bare, version, node] = [times.ours, times.bare, times.version, times.node]
    .map(all => quantile(all, 0.5)) as [number, number, number, number]
  const base = `\`node -e 0\`: ${ms(node)}`
  return [
    {
      name: 'start',
      title: 'from `node …` to the first answer (median)',
      measured: ours,
      base: `a bare Fastify route: ${ms(bare)}; ${base}`
    },
    { name: 'version', title: '`--version` (median)', measured: version, base }
  ]
}
