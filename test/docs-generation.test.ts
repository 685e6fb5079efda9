import { spawnSync } from 'node:child_process'
import { mkdtempSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import sharp from 'sharp'
import t from 'tap'
import { runPage } from './docs-commands.ts'
import { writeCheckpoint } from '../bin/support/demo-model/checkpoints.ts'
import { without } from './fixtures/pam/system.ts'
import { writeSplitCheckpoint } from './fixtures/split-checkpoint.ts'

t.setTimeout(180_000)
const noTools = without('curl and jq', ['curl', 'jq'].every(tool => spawnSync('sh', ['-c', `command -v ${tool}`]).status === 0))

t.test('docs/generation.md', { skip: noTools }, async t => {
  const folder = mkdtempSync(join(tmpdir(), 'sdrest-docs-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  writeCheckpoint('sdxs', join(folder, 'dreamshaper.safetensors'))
  writeCheckpoint('lora', join(folder, 'oil.safetensors'))
  writeSplitCheckpoint('sd1', folder)
  renameSync(join(folder, 'sd1-vae.safetensors'), join(folder, 'vae-ft-mse.safetensors'))
  await sharp({ create: { width: 90, height: 60, channels: 3, background: '#4080c0' } }).jpeg().toFile(join(folder, 'photo.jpg'))
  await runPage(t, 'docs/generation.md', {
    replace: {
      '/data/SD_MODELS': folder,
      'photo.jpg': join(folder, 'photo.jpg'),
      // Small, because the tests have no more than a processor.
      '"width": 768': '"width": 64, "height": 64',
      'width=768': 'width=64'
    }
  })
})
