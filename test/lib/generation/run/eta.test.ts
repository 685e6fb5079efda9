import t from 'tap'
import { StepTimes } from '../../../../lib/generation/run/eta.ts'
import type { Job } from '../../../../lib/jobs/job.ts'
import type { Phase } from '../../../../lib/engine/engine.ts'

let now = 0
const at = (phase: Phase, step = 0, index = 0) => ({ phase, step, steps: phase === 'sampling' ? 10 : 0, index })
const job = (more: Record<string, unknown> = {}, model = 'checkpoint/a') => ({
  type: 'txt2img', model, parameters: { width: 64, height: 64, steps: 10, batch_count: 2, ...more }
}) as unknown as Job

t.test('the time that is left, from the steps so far and then from earlier jobs', async t => {
  const times = new StepTimes(() => now)
  const first = times.watch(job())
  t.equal(first.estimate(at('conditioning')), null, 'nothing is known yet')
  now += 500
  t.equal(first.estimate(at('sampling', 0)), null)
  now += 1000
  t.equal(first.estimate(at('sampling', 1)), 19, 'nine more steps here, ten for the second image')
  now += 9000
  t.equal(first.estimate(at('sampling', 10)), 10)
  now += 500
  t.equal(first.estimate(at('decoding')), 10)
  t.equal(first.estimate(at('sampling', 0, 1)), 10)
  now += 10_000
  t.equal(first.estimate(at('sampling', 10, 1)), 0)
  now += 1000
  first.finish()

  const second = times.watch(job())
  t.equal(second.estimate(at('conditioning')), 22, 'twenty steps and twice what an image takes besides')
  now += 100_000
  t.equal(second.estimate(at('sampling', 4)), 18)
  t.equal(times.watch(job({ width: 128 })).estimate(at('conditioning')), null, 'another size is another matter')
  t.equal(times.watch(job({}, 'checkpoint/b')).estimate(at('conditioning')), null)
  t.equal(times.watch(job({ batch_count: 1 })).estimate(at('conditioning')), 11)
})

t.test('newer times count more, and a job without steps teaches nothing', async t => {
  const times = new StepTimes(() => now)
  for (const stepTime of [1000, 3000]) {
    const watch = times.watch(job({ batch_count: 1 }))
    watch.estimate(at('sampling', 0))
    now += 10 * stepTime
    watch.estimate(at('sampling', 10))
    watch.finish()
    times.watch(job({ batch_count: 1 })).finish()
  }
  t.equal(times.watch(job({ batch_count: 1 })).estimate(at('conditioning')), 20)
})

t.test('only so many kinds are remembered', async t => {
  const times = new StepTimes(() => now)
  for (let width = 1; width <= 501; width++) {
    const watch = times.watch(job({ width }))
    watch.estimate(at('sampling', 0))
    now += 10
    watch.estimate(at('sampling', 10))
    watch.finish()
  }
  t.equal(times.watch(job({ width: 1 })).estimate(at('conditioning')), null)
  t.equal(times.watch(job({ width: 2 })).estimate(at('conditioning')), 0)
})
