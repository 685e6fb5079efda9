import t from 'tap'
import { conformance } from './conformance.ts'
import { portable } from './helper.ts'

t.setTimeout(180_000)

t.test('conformance', (t) => conformance(t, (t) => portable(t)))
