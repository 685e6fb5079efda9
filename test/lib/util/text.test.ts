import t from 'tap'
import { visible, visibleRow } from '../../../lib/util/text.ts'

t.test('shows characters that could trick a terminal as escapes', async t => {
  t.equal(visible('grüße 漢字 🦊\n\tx'), 'grüße 漢字 🦊\n\tx')
  t.equal(visible('a\u202eb\u001b[2J\u009b\r\0'), 'a\\u202eb\\u001b[2J\\u009b\\r\\u0000')
  t.equal(visible('\ud800 \u{e0001} \u2028'), '\\ud800 \\udb40\\udc01 \\u2028')
  const json = { name: 'a\u202e\u{e0001}\u0085' }
  t.same(JSON.parse(visible(JSON.stringify(json, null, 2))), json, 'JSON says the same as before')
})

t.test('keeps a field within its line and column', async t => {
  t.equal(visibleRow(['a\nb', 'c\td', 'e', '']), 'a\\nb\tc\\td\te')
})
