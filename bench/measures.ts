import type { Measure } from './figure.ts'
import { measureDurableSubmits } from './figures/durable-submits.ts'
import { measureHealth } from './figures/health.ts'
import { measureMemory } from './figures/memory.ts'
import { measurePages } from './figures/pages.ts'
import { measureRoutes } from './figures/routes.ts'
import { measureScan } from './figures/scan.ts'
import { measureStart } from './figures/start.ts'
import { measureSubmitToImage } from './figures/submit-to-image.ts'
import { measureSwaps } from './figures/swaps.ts'

/** By the names that the command line takes. */
export const measures: Record<string, Measure> = {
  start: measureStart,
  routes: measureRoutes,
  health: measureHealth,
  'submit-to-image': measureSubmitToImage,
  'durable-submits': measureDurableSubmits,
  pages: measurePages,
  scan: measureScan,
  swaps: measureSwaps,
  memory: measureMemory
}
