import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import sharp from 'sharp'
import type { Test } from 'tap'
import {
  EngineError, type EngineErrorCode, type EngineImage, type ImageParameters, type ModelFiles, type Progress,
  type RunOptions
} from '../../../lib/engine/engine.ts'
import { EngineProcess, type EngineProcessOptions } from '../../../lib/engine/process.ts'
import { selectEngine } from '../../../lib/engine/select.ts'
import { chunk, signature } from '../../../lib/media/png.ts'
import { writeCheckpoint, type CheckpointKind } from '../../../bin/support/demo-model/checkpoints.ts'

/** One thread and no GPU: the same everywhere, and fast on a busy machine. */
export const loadOptions = { threads: 1, device: 'cpu' }

export function temporaryFolder (t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'engine-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** Writes a checkpoint into `folder`, once. */
export function checkpoint (folder: string, kind: CheckpointKind): string {
  const file = join(folder, `${kind}.safetensors`)
  if (!existsSync(file)) writeCheckpoint(kind, file)
  return file
}

/** A started portable engine that is stopped at the end of the test. */
export async function portable (t: Test, options: EngineProcessOptions = {}): Promise<EngineProcess> {
  const engine = new EngineProcess(await selectEngine({ engine: 'portable' }), options)
  t.teardown(() => engine.stop())
  await engine.start()
  return engine
}

export async function load (engine: EngineProcess, files: ModelFiles, options: object = {}): Promise<void> {
  await engine.run('load', { files, options: { ...loadOptions, ...options } })
}

/** Without most layers of CLIP, which otherwise takes longer than all the rest of so small an image. */
export const fox: ImageParameters = {
  prompt: 'a red fox', width: 64, height: 64, steps: 2, cfg_scale: 1, seed: 7, clip_skip: 11
}

export interface Drawing {
  images: EngineImage[]
  progress: Progress[]
}

export async function draw (
  engine: EngineProcess, parameters: Partial<ImageParameters> = {}, options: RunOptions = {}
): Promise<Drawing> {
  const drawing: Drawing = { images: [], progress: [] }
  await engine.run('generate', { ...fox, ...parameters }, {
    ...options,
    progress: (progress) => {
      drawing.progress.push(progress)
      options.progress?.(progress)
    },
    image: (image) => drawing.images.push(image)
  })
  return drawing
}

/** Draws one image and returns its bytes. */
export async function drawOne (
  engine: EngineProcess, parameters: Partial<ImageParameters> = {}, options: RunOptions = {}
): Promise<Buffer> {
  const { images: [image] } = await draw(engine, parameters, options)
  return Buffer.from(image!.png)
}

/** Checks that `promise` is rejected with an EngineError of this code, and returns its message. */
export async function failure (
  t: Test, promise: Promise<unknown>, code: EngineErrorCode, message?: RegExp
): Promise<string> {
  try {
    await promise
    t.fail(`expected ${code}`)
    return ''
  } catch (error) {
    t.type(error, EngineError)
    t.match(error, { code, message: message ?? /\w/ })
    return (error as Error).message
  }
}

/** A PNG of one colour. */
export function picture (width: number, height: number): Promise<Buffer> {
  return sharp({ create: { width, height, channels: 3, background: 'teal' } }).png().toBuffer()
}

/** What looks like a PNG image of this size and of so many bytes, to a reader of headers. */
export function emptyPng (width: number, height: number, bytes = 0): Buffer {
  const header = Buffer.alloc(13)
  header.writeUInt32BE(width, 0)
  header.writeUInt32BE(height, 4)
  header[8] = 8
  header[9] = 2
  const png = Buffer.concat([signature, chunk('IHDR', header), chunk('IEND', Buffer.alloc(0))])
  return Buffer.concat([png, Buffer.alloc(Math.max(0, bytes - png.length), 'x')])
}

/** Is there such a process? One that has ended and was not yet collected by its parent is none. */
export function isAlive (pid: number): boolean {
  try {
    process.kill(pid, 0)
    return process.platform !== 'linux' || !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false // no such process
  }
}

/** Waits until `condition` holds, at most `timeout` milliseconds; returns whether it does. */
export async function until (condition: () => boolean, timeout = 10_000): Promise<boolean> {
  const end = Date.now() + timeout
  while (!condition()) {
    if (Date.now() > end) return false
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  return true
}
