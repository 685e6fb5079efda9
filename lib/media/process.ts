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
  { part, resize, background, format, quality, compressionLevel, pixels }: BoundedTask, bytes: Buffer
): Promise<Buffer> {
  const image = sharp(bytes, { failOn: 'error', limitInputPixels: pixels }).autoOrient()
  if (part !== undefined) image.extract(part)
  // With one side the other follows.
  if (resize !== undefined) {
    image.resize(resize.width, resize.height, { fit: resize.height === undefined ? 'cover' : 'fill' })
  }
  if (background !== undefined) image.flatten({ background }).toColourspace(background === 'black' ? 'b-w' : 'srgb')
  return await image.toFormat(format, { quality, compressionLevel }).toBuffer()
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
