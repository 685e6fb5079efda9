import type { Blobs, StoredBlob } from '../storage/blobs.ts'
import { isJobId } from './job.ts'

/** A finished image that is to be kept. */
export interface NewImage {
  index: number
  width: number
  height: number
  seed: number
  /** The file as it will be delivered, text chunks included. */
  png: Uint8Array
}

/** What the database remembers of a kept image; `file` is its key in the outputs. */
export interface StoredImage extends Omit<NewImage, 'png'> {
  file: string
  bytes: number
}

/** The prefix of a job's images, from what never changes about it. */
export interface OutputOwner {
  id: string
  /** ISO 8601, UTC; its date begins the prefix. */
  created_at: string
}

/** Finds out which of these jobs still need their files. */
export type Known = (ids: readonly string[]) => Promise<{ has (id: string): boolean }>

const date = /^\d{4}-\d{2}-\d{2}$/

/** The images of finished jobs: `<yyyy-mm-dd>/<job id>/<n>.png`. */
export class Outputs {
  readonly #blobs: Blobs

  constructor (blobs: Blobs) {
    this.#blobs = blobs
  }

  /** Begins to keep the images of a job, without those of an earlier attempt. */
  keep (job: OutputOwner): Keeping {
    return new Keeping(this.#blobs, prefixOf(job))
  }

  /** @returns undefined when the image does not exist. */
  async open (key: string): Promise<StoredBlob | undefined> {
    return await this.#blobs.get(key)
  }

  /** Deletes what a job left. */
  async remove (job: OutputOwner): Promise<void> {
    await this.#blobs.delete(prefixOf(job))
  }

  /** Deletes the images of unknown jobs; returns of how many jobs. Foreign names are left alone. */
  async clean (withImages: Known): Promise<number> {
    let removed = 0
    for (const day of (await this.#blobs.list()).filter(name => date.test(name))) {
      const ids = (await this.#blobs.list(day)).filter(isJobId)
      const known = await withImages(ids)
      for (const id of ids.filter(id => !known.has(id))) {
        await this.#blobs.delete(`${day}/${id}`)
        removed++
      }
    }
    return removed
  }
}

/** The images of one job on their way to the storage: written as they come, and kept all or none. */
class Keeping {
  readonly #blobs: Blobs
  readonly #prefix: string
  readonly #ready: Promise<void>
  readonly #images: Array<Promise<StoredImage>> = []

  constructor (blobs: Blobs, prefix: string) {
    this.#blobs = blobs
    this.#prefix = prefix
    this.#ready = blobs.clear(prefix)
    this.#ready.catch(() => {}) // `finish` throws it
  }

  add (image: NewImage): void {
    const written = this.#write(image)
    written.catch(() => {}) // `finish` throws it
    this.#images.push(written)
  }

  /** Waits until nothing is being written any more: what is could not be deleted. */
  async settled (): Promise<void> {
    await Promise.allSettled([this.#ready, ...this.#images])
  }

  /** All of them, durable. After a failure none is left. */
  async finish (): Promise<StoredImage[]> {
    await this.settled()
    try {
      await this.#ready
      return await Promise.all(this.#images)
    } catch (error) {
      await this.#blobs.delete(this.#prefix)
      throw error
    }
  }

  async #write ({ png, ...image }: NewImage): Promise<StoredImage> {
    const name = `${image.index}.png`
    await this.#ready
    await this.#blobs.put(this.#prefix, [[name, png]])
    return { ...image, file: `${this.#prefix}/${name}`, bytes: png.byteLength }
  }
}

function prefixOf ({ id, created_at: createdAt }: OutputOwner): string {
  return `${createdAt.slice(0, 10)}/${id}`
}
