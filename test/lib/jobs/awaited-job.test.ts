import t from 'tap'
import { apiError, type ApiError } from '../../../errors.ts'
import { awaitJob } from '../../../lib/jobs/awaited-job.ts'
import type { Job, JobEvent } from '../../../lib/jobs/job.ts'
import type { JobQueue } from '../../../lib/jobs/queue.ts'

const job = { id: 'a', status: 'queued' } as Job

/** A queue whose job has these events, and then waits for `signal`. */
function waiting (
  events: Array<Partial<JobEvent>>, { isKept = false, cancel = async () => {}, isDraining = false } = {}
) {
  const cancelled: string[] = []
  const warnings: string[] = []
  const queue = {
    isDraining,
    async subscribe (_id: string, { signal }: { signal: AbortSignal }) {
      const iterator = (async function * () {
        yield * events
        if (events.at(-1)?.name !== 'done' && !isDraining && !signal.aborted) {
          await new Promise<void>(resolve => { signal.addEventListener('abort', () => resolve()) })
        }
      })()
      return Object.assign(iterator, { end () {} })
    },
    async cancel (id: string) {
      cancelled.push(id)
      await cancel()
    }
  } as unknown as JobQueue
  const controller = new AbortController()
  const log = { warn: (_details: object, message: string) => { warnings.push(message) } }
  const wait = { caller: 'c', signal: controller.signal, isKept, log }
  return { queue, wait, controller, cancelled, warnings }
}

const done = (ended: Partial<Job>) => [{ name: 'state', data: job } as const, { name: 'done', data: { ...job, ...ended } } as const]

t.test('returns a completed job, and throws what a failed one says', async t => {
  const completed = waiting(done({ status: 'completed' }))
  t.equal((await awaitJob(completed.queue, job, completed.wait)).status, 'completed')
  t.same(completed.cancelled, [])

  const failed = waiting(done({ status: 'failed', error: { code: 'engine_crashed', message: 'It died.' } }))
  await t.rejects(awaitJob(failed.queue, job, failed.wait), { code: 'SDR_JOB_FAILED', statusCode: 502, message: 'It died.', details: { job: 'a', code: 'engine_crashed' } })
  const cancelled = waiting(done({ status: 'cancelled', error: null }))
  await t.rejects(awaitJob(cancelled.queue, job, cancelled.wait), { code: 'SDR_JOB_CANCELLED', statusCode: 409 })
  t.same([...failed.cancelled, ...cancelled.cancelled], [])
})

t.test('cancels the job of a caller that leaves, unless it is kept', async t => {
  for (const isKept of [false, true]) {
    const { queue, wait, controller, cancelled } = waiting([{ name: 'state', data: job }], { isKept })
    const result = awaitJob(queue, job, wait)
    controller.abort(apiError('SDR_UNAVAILABLE', 'It left.'))
    await t.rejects(result, { message: 'It left.' })
    t.same(cancelled, isKept ? [] : ['a'])
  }
})

t.test('a job that has ended meanwhile is no problem, another failure is logged', async t => {
  for (const [code, count] of [['SDR_JOB_NOT_CANCELLABLE', 0], ['SDR_JOB_NOT_FOUND', 0], ['SDR_INTERNAL', 1]] as const) {
    const { queue, wait, controller, warnings } = waiting([], { cancel: async () => { throw apiError(code) } })
    controller.abort(apiError('SDR_UNAVAILABLE'))
    await t.rejects(awaitJob(queue, job, wait), { code: 'SDR_UNAVAILABLE' } satisfies Partial<ApiError>)
    t.equal(warnings.length, count)
  }
})

t.test('a server that stops says so', async t => {
  const { queue, wait, cancelled } = waiting([], { isDraining: true })
  await t.rejects(awaitJob(queue, job, wait), { code: 'SDR_DRAINING' })
  t.same(cancelled, ['a'])
})
