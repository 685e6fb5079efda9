import t, { type Test } from 'tap'
import { JobQueue, type JobQueueOptions } from '../../../lib/jobs/queue.ts'
import type { NewJob } from '../../../lib/jobs/job.ts'
import { ScriptedEngine } from './fixtures/scripted-engine.ts'

const logger = { info () {}, warn () {}, error () {} }

function open (t: Test, options: Partial<JobQueueOptions> & { engine?: ScriptedEngine } = {}) {
  const engine = options.engine ?? new ScriptedEngine()
  const queue = new JobQueue({
    dataDir: options.dataDir ?? t.testdir({}),
    logger,
    resolve: (job, attachments) => ({
      files: { model: `/models/${job.model}` },
      options: {},
      parameters: { prompt: '', width: 1, height: 1, seed: 0, ...job.parameters },
      attachments
    }),
    ...options,
    engine
  })
  t.teardown(() => queue.close())
  return { queue, engine }
}

function request (prompt: string, more: Partial<NewJob> = {}): NewJob {
  return { type: 'txt2img', owner: 'ann', model: 'checkpoint/a', parameters: { prompt, width: 3, height: 2, steps: 2 }, ...more }
}

t.test('a job is accepted, drawn and delivered', async t => {
  const { queue } = open(t)
  const job = await queue.submit(request('a cat'))
  t.match(job, { status: 'queued', position: 1, owner: 'ann', attempts: 0, images: [], error: null, progress: null })
  t.type(job.parameters['seed'], 'number')
  await queue.start()
  const events = queue.subscribe(job.id)
  const finished = await queue.waitFor(job.id, 5000)
  t.match(finished, {
    status: 'completed',
    attempts: 1,
    images: [{ index: 0, url: `/api/queue/job/${job.id}/images/0`, width: 3, height: 2, format: 'png', seed: job.parameters['seed'] }]
  })
  const names = []
  for await (const { name } of events) names.push(name)
  t.equal(names.at(-1), 'done')

  const { handle, size, image } = await queue.image(job.id, 0)
  const bytes = await handle.readFile()
  await handle.close()
  t.equal(size, bytes.length)
  t.equal(image.bytes, bytes.length)
  t.ok(bytes.includes('parameters\0a cat\nSteps: 2, '))
  t.match(queue.status, { queued: 0, running: 0, completed: 1, scheduler: { state: 'idle', loaded_model: 'checkpoint/a' } })
})
