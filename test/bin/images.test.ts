import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import sharp from 'sharp'
import t from 'tap'
import { writeCheckpoint } from '../../bin/support/demo-model/checkpoints.ts'
import { workspace } from '../helper.ts'
import { jpegOfScans, pngOfTexts, withLoopingExif } from '../lib/media/bombs.ts'
import { startServer, until } from '../server-process.ts'

t.test('hostile images cost the server neither its memory nor its time', { skip: process.platform !== 'linux' }, async t => {
  const { models, data } = workspace(t)
  writeCheckpoint('esrgan', join(models, 'esrgan.safetensors'))
  const server = await startServer(t, ['--models-dir', models, '--data-dir', data, '--auth', 'none'])
  const read = (file: string) => readFileSync(`/proc/${server.child.pid}/${file}`, 'utf8')
  const peak = () => Number(/VmHWM:\s+(\d+)/.exec(read('status'))![1]) / 1024
  const children = () => read(`task/${server.child.pid}/children`).trim().split(' ').map(Number)
  const send = async (image: Buffer) => {
    const body = new FormData()
    body.set('init_image', new Blob([new Uint8Array(image)]), 'image')
    const response = await fetch(`${server.url}/api/generate/upscale`, { method: 'POST', body })
    return { status: response.status, text: await response.text() }
  }
  const photo = await sharp({ create: { width: 16, height: 16, channels: 3, background: 'teal' } }).jpeg().toBuffer()

  t.notMatch(read('maps'), /libvips/, 'no decoder is in the server')
  t.equal(children().length, 1, 'the engine is its only process')
  const before = peak()
  const answers = await Promise.all([
    send(pngOfTexts(40)),
    send(jpegOfScans(40_000)),
    send(withLoopingExif(photo)),
    send(Buffer.concat([photo.subarray(0, 200)]))
  ])
  t.same(answers.map(({ status }) => status), [202, 400, 202, 400], JSON.stringify(answers))
  t.match(answers[1]!.text, /more than 100 scans/)
  t.ok(peak() - before < 200, `${peak() - before} MiB more`)
  t.equal((await fetch(`${server.url}/api/health`)).status, 200)
  t.notMatch(read('maps'), /libvips/, 'not even now')

  const all = children()
  t.equal(all.length, 2, 'the engine and one process for images')
  server.child.kill('SIGKILL')
  await until(async () => !all.some(isAlive))
  t.pass('both ended with the server')
})

function isAlive (pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}
