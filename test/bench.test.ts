import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import t from 'tap'
import { budgets, isMet, tableOf, type Budget, type FigureName } from '../bench/figure.ts'
import { packageRoot } from '../lib/util/package-root.ts'

/** That the benchmark runs and can fail; its budgets are for a machine that does nothing else. */
async function bench (...parameters: string[]): Promise<{ code: number, stdout: string, stderr: string }> {
  const child = spawn(process.execPath, [join(packageRoot, 'dist', 'bench', 'run.js'), ...parameters], { timeout: 240_000 })
  const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')])
  return { code, stdout, stderr }
}

const names = Object.keys(budgets) as FigureName[]
const linuxOnly = { skip: process.platform === 'linux' ? false : 'it reads /proc' }

t.test('every figure is measured', linuxOnly, async t => {
  const { code, stdout, stderr } = await bench('--scale', '0.005')
  t.equal(code, 0, stderr)
  const rows = stdout.split('\n').filter(line => /\| (met|\*\*missed\*\*) \|$/.test(line))
  t.equal(rows.length, names.length)
  for (const row of rows) t.match(row.split('|')[2], /^ -?\d/, row)
})

t.test('a missed budget is an exit code', linuxOnly, async t => {
  // Two jobs take two swaps in any order.
  const { code, stdout, stderr } = await bench('--scale', '0.02', '--check', 'swaps')
  t.match(stdout, /model swaps .* \*\*missed\*\*/)
  t.match(stderr, /Budgets missed: swaps/)
  t.equal(code, 1)
})

t.test('misuse says what was expected', linuxOnly, async t => {
  for (const parameters of [['nothing'], ['--scale', '2'], ['--scale', 'much'], ['--write', 'swaps'], ['--write', '--scale', '0.5']]) {
    const { code, stderr } = await bench(...parameters)
    t.equal(code, 2, parameters.join(' '))
    t.match(stderr, /Expected|--write takes/)
  }
})

t.test('each figure can fail', async t => {
  for (const name of names) {
    const budget: Budget = budgets[name]
    const limit = 'atLeast' in budget ? budget.atLeast : budget.atMost
    const worse = 'atLeast' in budget ? limit * 0.99 : limit * 1.01
    t.ok(isMet(limit, budget), name)
    t.notOk(isMet(worse, budget), name)
    t.notOk(isMet(NaN, budget), `${name}, not measured`)
    t.match(tableOf([{ name, title: '', measured: worse, base: '' }]), /missed/)
  }
})
