import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { FolderBlobs } from '../../../lib/storage/blobs.ts'
import { Inputs } from '../../../lib/jobs/inputs.ts'
import { Outputs, type NewImage, type OutputOwner, type StoredImage } from '../../../lib/jobs/outputs.ts'
import { isStorageFull } from '../../../lib/storage/storage-errors.ts'

const id = '01890000-0000-7000-8000-000000000001'
const other = '01890000-0000-7000-8000-000000000002'
const job = { id, created_at: '2026-03-04T23:59:59.999Z' }

function image (index: number, text = `image ${index}`): NewImage {
  return { index, width: 3, height: 2, seed: 7 + index, png: Buffer.from(text) }
}

async function save (outputs: Outputs, job: OutputOwner, images: NewImage[]): Promise<StoredImage[]> {
  const kept = outputs.keep(job)
  for (const image of images) kept.add(image)
  return await kept.finish()
}

const mode = (path: string) => (statSync(path).mode & 0o777).toString(8)

t.test('images are kept where they belong, for nobody else to read', async t => {
  const root = join(t.testdir({}), 'data', 'outputs')
  const outputs = new Outputs(new FolderBlobs(root))
  const stored = await save(outputs, job, [image(0), image(1)])
  t.same(stored, [
    { index: 0, width: 3, height: 2, seed: 7, file: `2026-03-04/${id}/0.png`, bytes: 7 },
    { index: 1, width: 3, height: 2, seed: 8, file: `2026-03-04/${id}/1.png`, bytes: 7 }
  ])
  const folder = join(root, '2026-03-04', id)
  t.same(readdirSync(folder).sort(), ['0.png', '1.png'])
  t.same([root, join(root, '2026-03-04'), folder].map(mode), ['700', '700', '700'])
  t.equal(mode(join(folder, '0.png')), '600')

  const kept = (await outputs.open(stored[1]!.file))!
  t.equal(kept.size, 7)
  t.equal((await kept.bytes()).toString(), 'image 1')
  const chunks = await (await outputs.open(stored[1]!.file))!.stream().toArray()
  t.equal(Buffer.concat(chunks).toString(), 'image 1')

  await save(outputs, job, [image(0, 'drawn again')])
  t.same(readdirSync(folder), ['0.png'], 'a second attempt replaces the first one')

  await save(outputs, { ...job, id: other }, [image(0)])
  await outputs.remove(job)
  t.same(readdirSync(join(root, '2026-03-04')), [other])
  await outputs.remove({ ...job, id: other })
  t.same(readdirSync(root), [], 'an empty day goes too')
  await outputs.remove(job)
  t.equal(await outputs.open(stored[0]!.file), undefined)
})

t.test('when one image cannot be written none is kept', async t => {
  const root = t.testdir({})
  const outputs = new Outputs(new FolderBlobs(root))
  const broken = { ...image(1), png: undefined as unknown as Buffer }
  await t.rejects(save(outputs, job, [image(0), broken]), { code: 'ERR_INVALID_ARG_TYPE' })
  t.same(readdirSync(root), [])
})

t.test('no name leads out of the folder', async t => {
  const root = t.testdir({ outputs: {}, secret: 'x' })
  const outputs = new Outputs(new FolderBlobs(join(root, 'outputs')))
  for (const file of ['../secret', '', '.', '2026-03-04/../../secret', '..']) {
    await t.rejects(outputs.open(file), { name: 'RangeError' }, file)
  }
  await t.rejects(save(outputs, { ...job, id: '../../x' }, [image(0)]), { name: 'RangeError' })
  await t.rejects(outputs.remove({ ...job, id: '..' }), { name: 'RangeError' })
  await t.rejects(outputs.open('../outputs2/x'), { name: 'RangeError' })

  mkdirSync(join(root, 'outputs', 'day'))
  symlinkSync(join(root, 'secret'), join(root, 'outputs', 'day', '0.png'))
  await t.rejects(outputs.open('day/0.png'), { code: 'ELOOP' }, 'links are not followed')
})

t.test('what no job owns is cleaned up', async t => {
  const day = { [id]: { '0.png': 'x' }, [other]: { '0.png.tmp': 'x' }, notes: {} }
  const root = t.testdir({ '2026-03-04': day, mine: {} })
  const outputs = new Outputs(new FolderBlobs(root))
  t.equal(await outputs.clean(async () => new Set([id])), 1)
  t.same(readdirSync(join(root, '2026-03-04')).sort(), [id, 'notes'])
  t.ok(existsSync(join(root, 'mine')), 'foreign folders are left alone')
  t.equal(await new Outputs(new FolderBlobs(join(root, 'missing'))).clean(async () => new Set()), 0)
})

t.test('attachments live as long as their job', async t => {
  const root = join(t.testdir({}), 'inputs')
  const inputs = new Inputs(new FolderBlobs(root))
  await inputs.save(other, {})
  t.notOk(existsSync(root))
  t.same(await inputs.read(id), {})
  const attachments = { init_image: Buffer.from('a'), 'ref_images.0': Buffer.from([0, 1, 2]) }
  await inputs.save(id, attachments)
  t.same([root, join(root, id), join(root, id, 'init_image')].map(mode), ['700', '700', '600'])
  t.same(await inputs.read(id), attachments)
  mkdirSync(join(root, other))
  writeFileSync(join(root, 'notes'), 'x')
  t.equal(await inputs.clean(async () => new Set([id])), 1)
  t.same(readdirSync(root).sort(), [id, 'notes'])
  await inputs.remove(id)
  await inputs.remove(id)
  t.same(readdirSync(root), ['notes'])
})

t.test('attachments are kept together or not at all', async t => {
  const root = t.testdir({})
  const inputs = new Inputs(new FolderBlobs(root))
  const astray = { init_image: Buffer.from('a'), '../../mask': Buffer.from('b') }
  await t.rejects(inputs.save(id, astray), { name: 'RangeError' })
  t.same(readdirSync(root), [])
  await t.rejects(inputs.save('../x', { init_image: Buffer.from('a') }), { name: 'RangeError' })
  await t.rejects(inputs.read('../x'), { name: 'RangeError' })
  await inputs.save(id, { init_image: Buffer.from('a') })
  t.equal(readFileSync(join(root, id, 'init_image'), 'utf8'), 'a')
})

t.test('whether the disk is full', async t => {
  const full = [{ code: 'ENOSPC' }, { code: 'EDQUOT' }, { errcode: 13 }, { errcode: 13 | 256 }]
  for (const error of full) t.ok(isStorageFull(error))
  const other = [{ code: 'EACCES' }, { errcode: 5 }, new Error('x'), null, undefined, 'ENOSPC']
  for (const error of other) t.notOk(isStorageFull(error))
})
