import fc from 'fast-check'
import t from 'tap'
import { findFault, jsonBounds, type JsonBounds } from '../../../lib/util/json.ts'

const look = (text: string, bounds: Partial<JsonBounds> = {}) =>
  findFault(Buffer.from(text), { ...jsonBounds, ...bounds })

t.test('names what exceeds a bound', async t => {
  for (const [text, bounds, field, expected] of [
    [`{"loras":[${'{},'.repeat(50)}1]}`, { structure: 100 }, 'loras', 'at most 100 bytes outside of strings'],
    [`{"a":1,${' '.repeat(100)}"b":2}`, { structure: 100 }, 'a', 'at most 100 bytes outside of strings'],
    [`{"a":[${'"",'.repeat(50)}""]}`, { structure: 100 }, 'a', 'at most 100 bytes outside of strings'],
    ['[1,2,3,4,5,6]', { values: 5 }, 'body', 'at most 5 values'],
    ['{"a":{"b":{"c":[]}}}', { depth: 2 }, 'a', 'at most 2 lists and objects within each other'],
    [`{"a":1,"${'k'.repeat(2000)}":2}`, {}, `${'k'.repeat(80)}…`, 'a name of at most 1024 bytes'],
    [`{"a":{"${'k'.repeat(2000)}"  :2}}`, {}, `${'k'.repeat(80)}…`, 'a name of at most 1024 bytes'],
    [`{"image":"${'x'.repeat(200)}","prompt":"${'x'.repeat(101)}"}`, { text: 100, longFields: ['image'] }, 'prompt', 'at most 100 bytes'],
    [`{"prompt":{"image":"${'x'.repeat(101)}"}}`, { text: 100, longFields: ['image'] }, 'prompt', 'at most 100 bytes'],
    [`"${'x'.repeat(101)}"`, { text: 100 }, 'body', 'at most 100 bytes']
  ] as Array<[string, Partial<JsonBounds>, string, string]>) {
    t.match(look(text, bounds), { field, expected }, text.slice(0, 40))
  }
  const large = `{"prompt":"\\"[{,","images":["${'x'.repeat(500)}","y"],"deep":{"a":[{"b":1}]}}`
  t.equal(look(large, { text: 100, longFields: ['images'], depth: 3, structure: 60, values: 9 }), undefined)
})

t.test('takes time in proportion to the length', async t => {
  for (const text of ['{},', '"",', '"\\"', '"\\\\', '"\\ud83d\\ude00', ' ', '"', '[', '":', '\\', '\\u0041']) {
    const bytes = Buffer.alloc(20_000_000, text)
    const began = performance.now()
    findFault(bytes, { ...jsonBounds, structure: Infinity, values: Infinity, depth: Infinity })
    t.ok(performance.now() - began < 3000, `${text}: ${(performance.now() - began).toFixed(0)} ms`)
  }
})

t.test('finds exactly the halves of characters', async () => {
  const unit = fc.oneof(
    fc.constantFrom('\\ud83d', '\\uDE00', '\\ud83d\\ude00', '\\\\', '\\"', '\\n', '\\u0041', '\\udfFF', '\\uD800', 'u', 'd', '😀', '\\ue000'),
    fc.string({ unit: 'grapheme', maxLength: 3 }).map(text => JSON.stringify(text).slice(1, -1))
  )
  fc.assert(fc.property(fc.array(unit, { maxLength: 8 }), units => {
    const text = JSON.stringify({ a: 1 }).replace('1', `["${units.join('')}"]`)
    const [value] = (JSON.parse(text) as { a: [string] }).a
    return (look(text) === 'half') === /\p{Surrogate}/u.test(value)
  }), { numRuns: 5000 })
})

t.test('valid JSON within the bounds has no fault', async () => {
  fc.assert(fc.property(fc.json({ maxDepth: 7 }), text => {
    const fault = look(text)
    return fault === undefined || fault === 'half'
  }), { numRuns: 2000 })
})
