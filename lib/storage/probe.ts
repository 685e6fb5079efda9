import { open, rm } from 'node:fs/promises'
import { join } from 'node:path'

/** Milliseconds for which an answer holds, however many ask. */
const holdsFor = 5000
/** Milliseconds that a disk may take; a network share that is gone takes for ever. */
const timeout = 5000
/** Bytes: more than what a full file system still takes into a block that is in use already. */
const size = 64 * 1024

/** Whether a folder can be written to, found out by writing. */
export class StorageProbe {
  readonly #folder: string
  #asked: { at: number, problem: Promise<string | undefined> } | undefined

  constructor (folder: string) {
    this.#folder = folder
  }

  /** @returns why it can't be written to. */
  problem (): Promise<string | undefined> {
    const now = performance.now()
    if (this.#asked === undefined || now - this.#asked.at > holdsFor) this.#asked = { at: now, problem: this.#look() }
    return this.#asked.problem
  }

  async #look (): Promise<string | undefined> {
    let timer: NodeJS.Timeout | undefined
    const tooLong = new Promise<string>(resolve => {
      timer = setTimeout(
        resolve, timeout, `It took longer than ${timeout / 1000} s to write to ${this.#folder}`).unref()
    })
    const written = this.#write().then(() => undefined, (error: unknown) => (error as Error).message)
    return await Promise.race([written, tooLong]).finally(() => clearTimeout(timer))
  }

  async #write (): Promise<void> {
    const file = join(this.#folder, 'ready.tmp')
    try {
      const handle = await open(file, 'w', 0o600)
      try {
        await handle.writeFile(Buffer.alloc(size, 1))
        await handle.sync()
      } finally {
        await handle.close()
      }
    } finally {
      await rm(file, { force: true })
    }
  }
}
