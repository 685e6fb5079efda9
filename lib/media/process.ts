import type { Sharp } from 'sharp'
import sharp from './sharp.ts'
import { MessageReader, sendMessage } from './message.ts'
import type { BoundedTask, TaskResult } from './task.ts'

/**
 * The process that decodes images: `node process.js`. It reads tasks from standard input, answers on standard output,
 * and ends when the input closes. A decoder is C code that reads bytes of strangers; here it finds no secrets, and a
 * crash costs one request.
 */

/** Bytes of an image: the most that --max-upload-size allows, or an image of an engine. */
const mostBytes = 512 * 1024 * 1024
/** Milliseconds between two checks of the memory. The decoder runs on another thread, so this one is free. */
const watchInterval = 20

async function make (
  { part, resize, background, holesCount, isStrict, format, quality, compressionLevel, pixels }: BoundedTask,
  bytes: Buffer
): Promise<Buffer> {
  const image = sharp(bytes, { failOn: isStrict === true ? 'warning' : 'error', limitInputPixels: pixels }).autoOrient()
  if (part !== undefined) image.extract(part)
  // With one side the other follows.
  if (resize !== undefined) {
    image.resize(resize.width, resize.height, { fit: resize.height === undefined ? 'cover' : 'fill' })
  }
  const holes = background === 'black' ? await holesIn(image, holesCount) : undefined
  if (holes !== undefined) return await holes.toFormat(format, { quality, compressionLevel }).toBuffer()
  if (background !== undefined) image.flatten({ background }).toColourspace(background === 'black' ? 'b-w' : 'srgb')
  return await image.toFormat(format, { quality, compressionLevel }).toBuffer()
}

/** Samples that count as white, and as visible. */
const [leastWhite, leastVisible] = [240, 16]

/**
 * A mask of what is transparent in an image; undefined for one without transparency, and for white strokes on
 * transparent ground, which are a mask as they are unless `always`.
 */
async function holesIn (image: Sharp, always = false): Promise<Sharp | undefined> {
  const { hasAlpha } = await image.metadata()
  if (!hasAlpha) return undefined
  const { data, info: { width, height } } = await image.clone().toColourspace('srgb').ensureAlpha()
    .raw({ depth: 'uchar' }).toBuffer({ resolveWithObject: true })
  const holes = Buffer.alloc(width * height)
  let [isWhole, isWhite] = [true, true]
  for (let pixel = 0, at = 0; pixel < holes.length; pixel++, at += 4) {
    const alpha = data[at + 3]!
    holes[pixel] = 255 - alpha
    if (alpha < 255) isWhole = false
    if (alpha >= leastVisible && Math.min(data[at]!, data[at + 1]!, data[at + 2]!) < leastWhite) isWhite = false
  }
  if (isWhole || (isWhite && !always)) return undefined
  return sharp(holes, { raw: { width, height, channels: 1 } }).toColourspace('b-w')
}

function answer (result: TaskResult, bytes?: Buffer): void {
  sendMessage(process.stdout, result, bytes)
}

/** Not `process.exit`, which waits for the decoder. */
function end (): void {
  process.kill(process.pid, 'SIGKILL')
}

async function work (task: BoundedTask, bytes: Buffer): Promise<void> {
  const watch = setInterval(() => {
    if (process.memoryUsage.rss() <= task.memory) return
    clearInterval(watch)
    answer({ error: `it takes more than ${Math.round(task.memory / 2 ** 20)} MiB to decode`, isLast: true })
    process.stdout.write('', end)
  }, watchInterval)
  try {
    answer({}, await make(task, bytes))
  } catch (error) {
    answer({ error: (error as Error).message.split('\n', 1)[0]!.slice(0, 120) })
  } finally {
    clearInterval(watch)
  }
}

const reader = new MessageReader<BoundedTask>(mostBytes)
process.stdin.on('data', (chunk: Buffer) => {
  const message = reader.push(chunk)
  if (message === undefined) return
  work(message.head, message.bytes).catch(end) // the answer can't be sent, so the server is gone
})
process.stdin.on('close', end)
