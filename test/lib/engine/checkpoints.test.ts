import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { checkpointKinds, writeCheckpoint } from '../../../bin/support/demo-model/checkpoints.ts'
import { temporaryFolder } from './helper.ts'

/** SHA-256 of each checkpoint with the default seed. The demo shows the picture that belongs to the first one. */
const hashes = {
  minit2i: 'a4f4648bb81282ce6dc2cb34e8ea48221f5ef8c8b94912a0fe5c7d3842672221',
  sdxs: 'ff02f1be67d4c03ecfcc3b19122db290e485dcd182b1f81627bd2ccdc1d25059',
  sd1: 'c08517485db926a455a2fcd74974c44a274ec10a440a97e6b0816d8466fd86f8',
  esrgan: 'b44b7642b006d9c8fcdc011450f593d96c987b708fc60fcc79d81ad3053e5760',
  lora: '2d418069a2e70e18ac5f5adc66e88452294f9214b519ce4e8f0d0000e3cacf7a'
}

const itemSize: Record<string, number> = { F32: 4, F16: 2, F8_E4M3: 1 }

type Header = Record<string, { dtype: string, shape: number[], data_offsets: [number, number] }>

t.test('writes the same complete checkpoints everywhere', async (t) => {
  const folder = temporaryFolder(t)
  const file = join(folder, 'model.safetensors')
  for (const kind of checkpointKinds) {
    writeCheckpoint(kind, file)
    const bytes = readFileSync(file)
    t.equal(createHash('sha256').update(bytes).digest('hex'), hashes[kind], kind)
    checkLayout(t, bytes)
  }
  writeCheckpoint('minit2i', file, { seed: 1 })
  t.not(createHash('sha256').update(readFileSync(file)).digest('hex'), hashes.minit2i, 'another seed, other weights')
})

/** Every tensor lies in the file, is as long as its shape says and is aligned; no byte belongs to nobody. */
function checkLayout (t: Test, bytes: Buffer): void {
  const headerLength = Number(bytes.readBigUInt64LE())
  const { __metadata__: _, ...header } = JSON.parse(bytes.toString('utf8', 8, 8 + headerLength)) as Header
  const dataLength = bytes.length - 8 - headerLength
  let covered = 0
  const tensors = Object.entries(header).sort(([, a], [, b]) => a.data_offsets[0] - b.data_offsets[0])
  for (const [name, { dtype, shape, data_offsets: [begin, end] }] of tensors) {
    const items = shape.reduce((product, size) => product * size, 1)
    if (end - begin !== items * itemSize[dtype]! || begin % itemSize[dtype]! !== 0 || begin > covered) t.fail(name)
    covered = Math.max(covered, end)
  }
  t.equal(covered, dataLength)
}
