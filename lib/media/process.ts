import sharp from './sharp.ts'
import { MessageReader, sendMessage } from './message.ts'
import type { BoundedTask, TaskResult } from './task.ts'

/**
 * The process that decodes images: `node process.js`. It takes a task from its standard input and answers on its
 * standard output, one after the other, and ends when the input closes. A decoder is C code that reads bytes of
 * strangers; here it has no secrets, and whatever it does costs one request.
 */

/** Bytes of an image that is sent: what --max-upload-size allows at most, or an image that an engine made. */
const mostBytes = 512 * 1024 * 1024
/** Milliseconds between two looks at the memory. The decoder runs on another thread, so this one is always free. */
const watchInterval = 20

async function make (
  { part, resize, background, format, quality, compressionLevel, pixels }: BoundedTask, bytes: Buffer
): Promise<Buffer> {
  const image = sharp(bytes, { failOn: 'error', limitInputPixels: pixels }).autoOrient()
  if (part !== undefined) image.extract(part)
  // Both sides are kept as they are wanted; of one the other follows.
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
  work(message.head, message.bytes).catch(end) // the answer cannot be sent, so the server is gone
})
process.stdin.on('close', end)
