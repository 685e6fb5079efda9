import { join } from 'node:path'
import { encodeCursor } from '../../lib/http/paging.ts'
import { openDatabase } from '../../lib/storage/database.ts'
import { migrations } from '../../lib/jobs/store/sqlite/migrations.ts'
import type { JobFilter } from '../../lib/jobs/job.ts'
import { ms, portion, type Measure } from '../figure.ts'
import { folderOf } from '../parts/processes.ts'
import { openQueue, request } from '../parts/queue.ts'

const most = 100_000
const owners = 50

/** Every filter that has something to answer and some that have not. */
const filtersOf = (middle: number): JobFilter[] => [
  {},
  { cursor: encodeCursor(String(middle)) },
  { owner: 'owner 7' },
  { owner: 'owner 7', cursor: encodeCursor(String(middle)) },
  { status: 'failed' },
  { status: 'failed', owner: 'owner 7' },
  { model: 'checkpoint/3' },
  { model: 'checkpoint/3', owner: 'owner 7', status: 'completed' },
  { type: 'upscale' },
  { type: 'upscale', owner: 'owner 7' }
]

/** Each filter many times; the slowest counts. */
export const measurePages: Measure = async (scope, scale) => {
  const jobs = portion(most, scale)
  const middle = Math.floor(jobs / 2)
  const folder = folderOf(scope)
  const file = join(folder, 'jobs.db')
  const database = openDatabase(file, migrations)
  database.prepare(`
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
    INSERT INTO jobs (id, type, status, owner, model, priority, parameters, attempts,
      created_at, started_at, finished_at, service)
    SELECT printf('00000000-0000-7000-8000-%012d', i), 'txt2img',
      CASE WHEN i % 10 = 0 THEN 'failed' ELSE 'completed' END,
      'owner ' || (i % ${owners}), 'checkpoint/' || (i % 7), 0, ?, 1, i, i, i, i FROM n
  `).run(jobs, JSON.stringify(request('').parameters))
  database.exec('INSERT INTO images SELECT sequence, 0, id, 512, 512, 400000, 7 FROM jobs; ' +
    'UPDATE jobs SET bytes = 400000')
  const fifty = database.prepare('SELECT * FROM jobs WHERE sequence BETWEEN ? AND ?')
  const base = await cost(() => fifty.all(middle + 1, middle + 50))
  database.close()

  const queue = openQueue(scope, folder)
  const filters = filtersOf(middle)
  const costs: number[] = []
  for (const filter of filters) costs.push(await cost(() => queue.list({ ...filter, limit: 50 })))
  return [{
    name: 'pages',
    title: `a page of 50 from ${jobs.toLocaleString('en')} jobs, the slowest of ${filters.length} filters, ` +
      'in processor time',
    measured: Math.max(...costs),
    base: `50 rows by their key: ${ms(base)}`
  }]
}

/** Milliseconds of processor time: nothing here waits, so that it is the time which it takes on an idle machine. */
async function cost (work: () => unknown): Promise<number> {
  const calls = 60
  const before = process.cpuUsage()
  for (let call = 0; call < calls; call++) await work()
  const { user, system } = process.cpuUsage(before)
  return (user + system) / 1000 / calls
}
