import t from 'tap'
import type { Job } from '../../lib/jobs/job.ts'
import { as, build, expectError } from '../helper.ts'

t.setTimeout(120_000)

t.test('HEAD of the events of a waiting job is answered at once, and every Accept gets events', async t => {
  const app = await build(t, { auth: 'jwt' })
  const [alice, bob] = [await as(app, 'alice'), await as(app, 'bob')]
  const { id } = (await alice({
    method: 'POST', url: '/api/generate/txt2img', body: { prompt: 'a fox', width: 512, steps: 150 }
  })).json<Job>()
  const url = `/api/queue/job/${id}/events`
  const head = await alice({ method: 'HEAD', url })
  t.equal(head.statusCode, 200)
  t.match(head.headers['content-type'], /^text\/event-stream/)
  t.equal((await alice(`/api/queue/job/${id}`)).json<Job>().finished_at, null, 'it did not wait for the end')
  expectError(t, await bob(url), 404, 'SDR_JOB_NOT_FOUND')
  t.equal((await bob({ method: 'HEAD', url })).statusCode, 404)

  await alice({ method: 'DELETE', url: `/api/queue/job/${id}` })
  const { statusCode, body } = await alice({ url, headers: { accept: 'application/json' } })
  t.equal(statusCode, 200)
  t.match(body, /event: done/)
})
