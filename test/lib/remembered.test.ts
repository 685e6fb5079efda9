import { join } from 'node:path'
import t from 'tap'
import { openDatabase } from '../../lib/database.ts'
import { Changes, Remembered } from '../../lib/remembered.ts'

const file = join(t.testdir(), 'a.db')
const database = openDatabase(file, ['CREATE TABLE rows (id TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT'])
const other = openDatabase(file, ['-'])
const observer = openDatabase(file, ['-'])
t.teardown(() => [database, other, observer].forEach(one => one.close()))

const put = (id: string, value: number, into = database) => into.prepare('INSERT OR REPLACE INTO rows VALUES (?, ?)').run(id, value)
const find = database.prepare('SELECT * FROM rows WHERE id = ?')
let reads = 0
const read = (id: string) => {
  reads++
  return find.get(id) as { value: number } | undefined
}

t.beforeEach(() => { reads = 0 })

t.test('a row is read once, until somebody writes', async t => {
  const rows = new Remembered<{ value: number }>(new Changes(observer))
  put('a', 1)
  for (let count = 0; count < 3; count++) t.equal(rows.get('a', read)?.value, 1)
  t.equal(reads, 1)
  put('a', 2)
  t.equal(rows.get('a', read)?.value, 2, 'this connection wrote')
  put('a', 3, other)
  t.equal(rows.get('a', read)?.value, 3, 'another one wrote')
  database.exec('BEGIN')
  put('a', 4)
  database.exec('ROLLBACK')
  t.equal(rows.get('a', read)?.value, 3, 'nothing was written')
  t.equal(reads, 3)
})

t.test('what is not there is not remembered', async t => {
  const rows = new Remembered<{ value: number }>(new Changes(observer))
  t.equal(rows.get('none', read), undefined)
  t.equal(rows.get('none', read), undefined)
  t.equal(reads, 2)
})

t.test('the memory has a bound', async t => {
  const rows = new Remembered<{ value: number }>(new Changes(observer), 2)
  for (const id of ['a', 'b', 'c']) put(id, 1)
  for (const id of ['a', 'b', 'a', 'b']) rows.get(id, read)
  t.equal(reads, 2)
  for (const id of ['c', 'c', 'a']) rows.get(id, read)
  t.equal(reads, 4, 'the third made room for itself')
})

t.test('without changes to tell of, nothing is remembered', async t => {
  const rows = new Remembered<{ value: number }>()
  rows.get('a', read)
  rows.get('a', read)
  t.equal(reads, 2)
})
