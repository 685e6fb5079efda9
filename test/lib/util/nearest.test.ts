import t from 'tap'
import { nearest } from '../../../lib/util/nearest.ts'

t.test('names what was probably meant', async t => {
  t.equal(nearest('stepps', ['seed', 'steps', 'width']), 'steps')
  t.equal(nearest('fox', ['seed', 'steps', 'width']), undefined)
  t.equal(nearest('steps', []), undefined)
  t.equal(nearest('sampler_name', ['seed', 'sampler', 'width']), 'sampler', 'a longer name of it')
  t.equal(nearest('seeding_of_noise', ['se', 'noise']), undefined)
})

t.test('compares only short words, whichever side is long', async t => {
  const long = 'a'.repeat(1_000_000)
  const start = performance.now()
  t.equal(nearest(long, ['a', `${long}b`]), undefined)
  t.equal(nearest('steps', [long, 'step']), 'step')
  t.equal(nearest('steps', [long]), undefined)
  t.ok(performance.now() - start < 500)
})
