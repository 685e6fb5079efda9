import { join } from 'node:path'
import t from 'tap'
import { DatabaseChanges, settled } from '../../../lib/storage/database-changes.ts'
import { openDatabase } from '../../../lib/storage/database.ts'
import { Remembered } from '../../../lib/util/remembered.ts'

const file = join(t.testdir(), 'a.db')
const database = openDatabase(file, ['CREATE TABLE rows (id TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT'])
const other = openDatabase(file, ['-'])
const observer = openDatabase(file, ['-'])
t.teardown(() => [database, other, observer].forEach(one => one.close()))

const changes = new DatabaseChanges(database, { tables: ['rows'], observer })
const put = (id: string, value: number, into = database) => into.prepare('INSERT OR REPLACE INTO rows VALUES (?, ?)').run(id, value)
const find = database.prepare('SELECT * FROM rows WHERE id = ?')
let reads = 0
const read = (id: string) => {
  reads++
  return find.get(id) as { value: number } | undefined
}

t.beforeEach(() => { reads = 0 })

t.test('a row is read once, until somebody writes', async t => {
  const rows = new Remembered<{ value: number }>(changes, 10)
  put('a', 1)
  await settled()
  for (let count = 0; count < 3; count++) t.equal(rows.get('a', read)?.value, 1)
  t.equal(reads, 1)
  put('a', 2)
  t.equal(rows.get('a', read)?.value, 2, 'this connection wrote')
  put('a', 3, other)
  await settled()
  t.equal(rows.get('a', read)?.value, 3, 'another one wrote')
  database.exec('BEGIN')
  put('a', 4)
  database.exec('ROLLBACK')
  t.equal(rows.get('a', read)?.value, 3, 'the write was taken back')
})

t.test('others are looked at a few hundred times a second at most, and no later than they were told', async t => {
  let now = 1000
  const observed = new DatabaseChanges(database, { tables: [], observer, now: () => now })
  const { version } = observed
  put('a', 1, other)
  t.equal(observed.version, version, 'a look is trusted for a moment')
  const begin = performance.now()
  await settled()
  now += performance.now() - begin
  t.not(observed.version, version, 'and no longer than a writer waits')
})

t.test('what is not there is not remembered', async t => {
  const rows = new Remembered<{ value: number }>(changes, 10)
  t.equal(rows.get('none', read), undefined)
  t.equal(rows.get('none', read), undefined)
  t.equal(reads, 2)
})

t.test('the memory has a bound', async t => {
  const rows = new Remembered<{ value: number }>(changes, 2)
  for (const id of ['a', 'b', 'c']) put(id, 1)
  await settled()
  for (const id of ['a', 'b', 'a', 'b']) rows.get(id, read)
  t.equal(reads, 2)
  for (const id of ['c', 'c', 'a']) rows.get(id, read)
  t.equal(reads, 4, 'the third made room for itself')
})

t.test('without changes to tell of, nothing is remembered', async t => {
  const rows = new Remembered<{ value: number }>(undefined, 10)
  rows.get('a', read)
  rows.get('a', read)
  t.equal(reads, 2)
})
