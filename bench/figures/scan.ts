import { linkSync, mkdirSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { ModelCatalog } from '../../lib/models/catalog.ts'
import { writeCheckpoint } from '../../bin/support/demo-model/checkpoints.ts'
import { ms, portion, type Measure } from '../figure.ts'
import { folderOf } from '../parts/processes.ts'

const most = 10_000
const perFolder = 100

/** Ten thousand names of one small file: what is measured is the looking, not the disk. */
export const measureScan: Measure = async (scope, scale) => {
  const files = portion(most, scale)
  const folder = folderOf(scope)
  const root = join(folder, 'models')
  const lora = join(folder, 'lora.safetensors')
  writeCheckpoint('lora', lora)
  for (let file = 0; file < files; file++) {
    const inside = join(root, 'loras', `folder ${Math.floor(file / perFolder)}`)
    if (file % perFolder === 0) mkdirSync(inside, { recursive: true })
    linkSync(lora, join(inside, `lora ${file}.safetensors`))
  }
  const base = await time(async () => {
    for (const name of readdirSync(root, { recursive: true })) statSync(join(root, String(name)))
  })
  const open = () => new ModelCatalog({ roots: [{ path: root }], cacheFile: join(folder, 'models.json') })
  const first = open()
  const cold = await time(async () => {
    const { models } = await first.refresh()
    if (models !== files) throw new Error(`Expected ${files} models but found ${models}`)
  })
  const warm = await time(() => first.refresh())
  const restarted = await time(() => open().refresh())
  const [title, alone] = [`scan of ${files.toLocaleString('en')} models`, `readdir and stat alone: ${ms(base)}`]
  return [
    { name: 'scan, the first time', title: `${title}, the first time`, measured: cold, base: alone },
    {
      name: 'scan, again',
      title: `${title}, again`,
      measured: warm,
      details: `after a restart ${ms(restarted)}`,
      base: alone
    }
  ]
}

async function time (work: () => Promise<unknown>): Promise<number> {
  const begin = performance.now()
  await work()
  return performance.now() - begin
}
