import type { NewJob } from '../../lib/jobs/job.ts'
import { drawingExecutors } from '../../lib/generation/run/drawing.ts'
import { JobQueue, type JobQueueOptions } from '../../lib/jobs/queue.ts'
import { ScriptedEngine } from '../../test/lib/jobs/fixtures/scripted-engine.ts'
import type { Scope } from '../figure.ts'

const logger = { debug () {}, info () {}, warn () {}, error () {} }

/** A queue without a server; its engine does everything at once. */
export function openQueue (
  scope: Scope,
  dataDir: string,
  { engine = new ScriptedEngine(), ...options }: Partial<Omit<JobQueueOptions, 'devices'>> & {
    engine?: ScriptedEngine
  } = {}
): JobQueue {
  const queue = new JobQueue({
    dataDir,
    devices: [{ name: 'auto', engine }],
    logger,
    capacity: 1_000_000,
    capacityPerOwner: 1_000_000,
    executors: drawingExecutors((job, attachments) => ({
      files: { model: job.model },
      options: {},
      parameters: { prompt: '', width: 1, height: 1, seed: 0, ...job.parameters },
      attachments
    })),
    ...options
  })
  scope.teardown(() => queue.close())
  return queue
}

export function request (model: string, prompt = 'a red fox in the snow, morning light'): NewJob {
  return {
    type: 'txt2img',
    owner: 'ann',
    model,
    parameters: { prompt, width: 3, height: 2, steps: 20, cfg_scale: 7, seed: 7 }
  }
}
