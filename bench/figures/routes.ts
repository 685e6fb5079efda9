import { once } from 'node:events'
import { runProgram } from '../../test/server-process.ts'
import { perSecond, portion, quantile, type Measure } from '../figure.ts'
import { load } from '../parts/load.ts'
import { processorTime, serve, startPart, workspaceOf } from '../parts/processes.ts'

const most = 5000
const rounds = 5
/** Rounds before those that count, in which the compiler is at work. */
const warmUp = 2
const password = 'correct horse battery staple'

/**
 * Both servers in turn, so that whatever else the machine does meets both. What counts is the processor time of the
 * server: it bounds the throughput, and other processes can't change it much.
 */
export const measureRoutes: Measure = async (scope, scale) => {
  const requests = portion(most, scale)
  const workspace = workspaceOf(scope)
  const { code, stderr } = await runProgram(
    ['user', 'add', 'bench', '--role', 'user', '--password-stdin', '--data-dir', workspace.data], { input: password })
  if (code !== 0) throw new Error(stderr)
  const server = await serve(scope, workspace, ['--auth', 'jwt'])
  const { body: { token } } = await server.json('/api/auth/login', {
    method: 'POST',
    body: JSON.stringify({ username: 'bench', password })
  })
  const headers = { authorization: `Bearer ${token}` }
  const { body } = await server.json('/api/models', { headers })
  const bare = await startPart(scope, 'bare-server', [JSON.stringify(body)])

  /** Both get the same request; the base does nothing with the credential. */
  const rate = async (url: string, pid: number) => {
    const before = processorTime(pid)
    await load(`${url}/api/models`, headers, requests)
    return requests / (processorTime(pid) - before)
  }
  const ours: number[] = []
  const theirs: number[] = []
  for (let round = 0; round < warmUp + rounds; round++) {
    const [base, own] = [await rate(bare.url, bare.pid), await rate(server.url, server.child.pid!)]
    if (round < warmUp) continue
    theirs.push(base)
    ours.push(own)
  }
  server.child.kill('SIGKILL')
  await once(server.child, 'exit')
  const ratio = quantile(ours, 0.5) / quantile(theirs, 0.5)
  return [{
    name: 'routes',
    title: 'authenticated `GET /api/models`, requests per second of processor time',
    measured: ratio,
    details: perSecond(quantile(ours, 0.5)),
    base: `a bare Fastify route: ${perSecond(quantile(theirs, 0.5))}`
  }]
}
