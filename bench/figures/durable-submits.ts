import { join } from 'node:path'
import { openDatabase } from '../../lib/storage/database.ts'
import { perSecond, portion, quantile, type Measure } from '../figure.ts'
import { folderOf } from '../parts/processes.ts'
import { openQueue, request } from '../parts/queue.ts'

const most = 100
const rounds = 7

/** Both write to the same disk and wait for it each time. */
export const measureDurableSubmits: Measure = async (scope, scale) => {
  const submits = portion(most, scale)
  const folder = folderOf(scope)
  const queue = openQueue(scope, join(folder, 'queue'))
  const database = openDatabase(join(folder, 'raw.db'), [
    'CREATE TABLE jobs (id INTEGER PRIMARY KEY, parameters TEXT NOT NULL) STRICT'
  ])
  scope.teardown(() => database.close())
  const insert = database.prepare('INSERT INTO jobs (parameters) VALUES (?)')
  const parameters = JSON.stringify(request('checkpoint/a').parameters)
  const rate = async (work: () => unknown) => {
    const begin = performance.now()
    for (let count = 0; count < submits; count++) await work()
    return submits * 1000 / (performance.now() - begin)
  }
  const ours: number[] = []
  const theirs: number[] = []
  for (let round = 0; round < rounds; round++) {
    theirs.push(await rate(() => insert.run(parameters)))
    ours.push(await rate(() => queue.submit(request('checkpoint/a'))))
  }
  const ratio = quantile(ours, 0.5) / quantile(theirs, 0.5)
  return [{
    name: 'durable-submits',
    title: 'durable submissions',
    measured: ratio,
    details: perSecond(quantile(ours, 0.5)),
    base: `raw SQLite inserts with fsync: ${perSecond(quantile(theirs, 0.5))}`
  }]
}
