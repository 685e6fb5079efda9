import { apiError } from '../../errors.ts'
import { Gate } from '../util/gate.ts'
import { cleanImage, type CleanImage } from './container.ts'
import { ImageError, ImageProcess, script, unavailable } from './image-process.ts'
import type { ImageTask } from './task.ts'

interface Settings {
  script: string
  /** For one image. 64 megapixels take 2. */
  seconds: number
  /** Bytes of memory for a process, for each pixel and for each byte of its image. */
  memory: { base: number, pixel: number, byte: number }
  /** Seconds before an unused process is ended. */
  idle: number
}

/** An interlaced image that is rotated takes 16 bytes for each pixel; the process itself takes 80 MB. */
const defaults: Settings = { script, seconds: 30, memory: { base: 256 * 2 ** 20, pixel: 24, byte: 4 }, idle: 60 }

/**
 * Decodes and encodes images in processes, which are started when needed and used again. Uploads and conversions have
 * separate places, and no caller can hold all of them.
 */
export class ImageProcesses {
  /** Images that clients send; they hold their bytes while they wait. */
  readonly uploads = new Gate({ running: 2, runningForOne: 1, waiting: 16, waitingForOne: 4, what: 'images to decode' })
  /** Images that clients get in another format or size. */
  readonly conversions = new Gate({
    running: 3, runningForOne: 2, waiting: 128, waitingForOne: 64, what: 'conversions of images'
  })

  readonly #onFailure: (reason: string) => void
  readonly #settings: Settings
  readonly #all = new Set<ImageProcess>()
  /** The last one was used last. */
  readonly #idle: Array<{ process: ImageProcess, timer: NodeJS.Timeout }> = []
  #isClosed = false

  /** @param onFailure gets the reason why a process could not be used. */
  constructor (onFailure: (reason: string) => void, settings: Partial<Settings> = {}) {
    this.#onFailure = onFailure
    this.#settings = { ...defaults, ...settings }
  }

  get pids (): number[] {
    return [...this.#all].flatMap(({ pid }) => pid ?? [])
  }

  /**
   * Enter one of the gates before.
   * @throws {ImageError} when the image is damaged or takes too much; {ApiError} SDR_UNAVAILABLE, SDR_DRAINING.
   */
  async make (
    { bytes, width, height }: Pick<CleanImage, 'bytes' | 'width' | 'height'>, task: ImageTask
  ): Promise<CleanImage> {
    const { seconds, memory: { base, pixel, byte } } = this.#settings
    const pixels = width * height
    if (this.#isClosed) throw apiError('SDR_DRAINING')
    const process = this.#take()
    try {
      const memory = base + pixel * pixels + byte * bytes.length
      return readResult(await process.run({ ...task, pixels, memory }, bytes, { seconds }), task)
    } catch (error) {
      if (!(error instanceof ImageError)) process.end()
      if (error instanceof Error && error.cause instanceof Error) this.#onFailure(error.cause.message)
      throw error
    } finally {
      this.#giveBack(process)
    }
  }

  async close (): Promise<void> {
    this.#isClosed = true
    await Promise.all([...this.#all].map(async process => {
      process.end()
      await process.ended
    }))
  }

  #take (): ImageProcess {
    for (let idle = this.#idle.pop(); idle !== undefined; idle = this.#idle.pop()) {
      clearTimeout(idle.timer)
      if (idle.process.isUsable) return idle.process
    }
    return this.#start()
  }

  #start (): ImageProcess {
    const process: ImageProcess = new ImageProcess(this.#settings.script, () => {
      this.#all.delete(process)
      const index = this.#idle.findIndex(idle => idle.process === process)
      if (index !== -1) clearTimeout(this.#idle.splice(index, 1)[0]!.timer)
    })
    this.#all.add(process)
    return process
  }

  #giveBack (process: ImageProcess): void {
    if (!process.isUsable) return
    if (this.#isClosed) return process.end()
    const timer = setTimeout(() => process.end(), this.#settings.idle * 1000)
    timer.unref()
    this.#idle.push({ process, timer })
  }
}

/** A process that an image has taken over could answer anything. */
function readResult (bytes: Buffer, { format, resize }: ImageTask): CleanImage {
  try {
    const result = cleanImage(bytes)
    const { width = result.width, height = result.height } = resize ?? {}
    if (result.format === format && result.width === width && result.height === height) return result
    throw new RangeError(`it is ${result.format} of ${result.width} × ${result.height}`)
  } catch (error) {
    throw unavailable(`The image process made something else than was asked for: ${(error as Error).message}`)
  }
}
