/** What has to hold, in the unit of the figure. */
export type Budget = { atLeast: number, unit: string } | { atMost: number, unit: string }

/** The budgets of all figures; docs/performance.md says what each figure is. */
export const budgets = {
  start: { atMost: 700, unit: 'ms' },
  version: { atMost: 150, unit: 'ms' },
  routes: { atLeast: 0.85, unit: 'of the base' },
  health: { atMost: 20, unit: 'ms' },
  'submit-to-image': { atMost: 8, unit: 'ms' },
  'durable-submits': { atLeast: 0.5, unit: 'of the base' },
  pages: { atMost: 5, unit: 'ms' },
  'scan, the first time': { atMost: 2000, unit: 'ms' },
  'scan, again': { atMost: 200, unit: 'ms' },
  swaps: { atMost: 0.25, unit: 'of the base' },
  overtaking: { atMost: 8, unit: 'times' },
  memory: { atMost: 150, unit: 'MB' }
} as const satisfies Record<string, Budget>

export type FigureName = keyof typeof budgets

/** One line of the table: what was measured, against what. */
export interface Figure {
  name: FigureName
  /** What it is, for the table. */
  title: string
  /** In the unit of the budget. */
  measured: number
  /** More of what was measured. */
  details?: string
  /** The same work without this program, or without what is measured, in the same run. */
  base: string
}

/** Measures its figures. `scale` is the share of the work that is done: 1 for figures that mean something. */
export type Measure = (scope: Scope, scale: number) => Promise<Figure[]>

export function isMet (measured: number, budget: Budget): boolean {
  return 'atLeast' in budget ? measured >= budget.atLeast : measured <= budget.atMost
}

const inWords = ({ unit, ...budget }: Budget) => 'atLeast' in budget
  ? `≥ ${budget.atLeast} ${unit}`
  : `≤ ${budget.atMost} ${unit}`

/** The figures as a table in Markdown. */
export function tableOf (figures: readonly Figure[]): string {
  const rows = figures.map(({ name, title, measured, details, base }) => {
    const budget = budgets[name]
    const value = `${rounded(measured)} ${budget.unit}${details === undefined ? '' : ` (${details})`}`
    return `| ${title} | ${value} | ${base} | ${inWords(budget)} | ${isMet(measured, budget) ? 'met' : '**missed**'} |`
  })
  return [
    '| what | measured | base, in the same run | budget | |',
    '| --- | --- | --- | --- | --- |',
    ...rows
  ].join('\n')
}

/** Never so few digits that a missed budget looks met. */
function rounded (value: number): string {
  return value < 10 ? String(Number(value.toFixed(3))) : value.toFixed(value < 100 ? 1 : 0)
}

/** What has to be undone after a measurement, last thing first. */
export class Scope {
  readonly #ends: Array<() => unknown> = []

  teardown (end: () => unknown): void {
    this.#ends.unshift(end)
  }

  async close (): Promise<void> {
    for (const end of this.#ends.splice(0)) await end()
  }
}

/** The value below which a share of the measurements lies; 0.5 is the median. */
export function quantile (values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!
}

/** A share of a full amount of work, but never none. */
export const portion = (full: number, scale: number) => Math.max(1, Math.round(full * scale))
export const ms = (milliseconds: number) => `${milliseconds.toFixed(milliseconds < 10 ? 2 : 1)} ms`
export const perSecond = (count: number) => `${Math.round(count).toLocaleString('en')} /s`
