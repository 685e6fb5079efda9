import { constants } from 'node:fs'
import { open, rmdir, type FileHandle } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { allEnded, fillFolder, inside, isJobId, makeFolder, names, removeFolder, syncFolder } from '../storage/files.ts'

/** A finished image that is to be kept. */
export interface NewImage {
  index: number
  width: number
  height: number
  seed: number
  /** The file as it will be delivered, text chunks included. */
  png: Uint8Array
}

/** What the database remembers of a kept image; `file` is relative to the folder of outputs. */
export interface StoredImage extends Omit<NewImage, 'png'> {
  file: string
  bytes: number
}

/** A kept image, open for reading. */
export interface OpenImage {
  /** The caller closes it; its read stream does that by itself. */
  handle: FileHandle
  /** Bytes. */
  size: number
}

/** The folder of a job, from what never changes about it. */
export interface OutputOwner {
  id: string
  /** ISO 8601, UTC; its date names the folder above. */
  created_at: string
}

/** Finds out which of these jobs still need their files. */
export type Known = (ids: readonly string[]) => Promise<{ has (id: string): boolean }>

const dateFolder = /^\d{4}-\d{2}-\d{2}$/

/** The images of finished jobs: `<root>/<yyyy-mm-dd>/<job id>/<n>.png`. */
export class Outputs {
  readonly #root: string

  /** @param root absolute path; made when the first image is kept. */
  constructor (root: string) {
    this.#root = root
  }

  /** Begins to keep the images of a job, without those of an earlier attempt. */
  keep (job: OutputOwner): Keeping {
    return new Keeping(this.#folder(job), folderName(job), async () => this.remove(job))
  }

  /**
   * Opens an image for reading; the caller closes it. Links are not followed.
   * @throws what `open` throws: ENOENT when the file was deleted by hand.
   */
  async open (file: string): Promise<OpenImage> {
    const handle = await open(inside(this.#root, file), constants.O_RDONLY | constants.O_NOFOLLOW)
    try {
      return { handle, size: (await handle.stat()).size }
    } catch (error) {
      await handle.close()
      throw error
    }
  }

  /** Deletes what a job left, and the folder of its day when it was the last one. */
  async remove (job: OutputOwner): Promise<void> {
    const folder = this.#folder(job)
    await removeFolder(folder)
    await rmdir(dirname(folder)).catch(ignoreUnlessUnexpected)
  }

  /** Deletes the folders of unknown jobs; returns how many. Foreign names are left alone. */
  async clean (withImages: Known): Promise<number> {
    let removed = 0
    for (const date of await names(this.#root)) {
      if (!dateFolder.test(date)) continue
      const ids = (await names(join(this.#root, date))).filter(isJobId)
      const known = await withImages(ids)
      for (const id of ids) {
        if (known.has(id)) continue
        await removeFolder(inside(this.#root, date, id))
        removed++
      }
    }
    return removed
  }

  #folder (job: OutputOwner): string {
    return inside(this.#root, folderName(job))
  }
}

/** The images of one job on their way to the disk: written as they come, and kept all or none. */
class Keeping {
  readonly #folder: string
  readonly #name: string
  readonly #remove: () => Promise<void>
  readonly #ready: Promise<void>
  readonly #images: Array<Promise<StoredImage>> = []

  constructor (folder: string, name: string, remove: () => Promise<void>) {
    this.#folder = folder
    this.#name = name
    this.#remove = remove
    this.#ready = makeEmpty(folder)
    this.#ready.catch(() => {}) // `finish` says it
  }

  add (image: NewImage): void {
    const written = this.#write(image)
    written.catch(() => {}) // `finish` says it
    this.#images.push(written)
  }

  /** Waits until nothing is being written any more: what is could not be deleted. */
  async settled (): Promise<void> {
    await Promise.allSettled([this.#ready, ...this.#images])
  }

  /** All of them, durable. After a failure the folder is gone. */
  async finish (): Promise<StoredImage[]> {
    await this.settled()
    try {
      await this.#ready
      return await Promise.all(this.#images)
    } catch (error) {
      await this.#remove()
      throw error
    }
  }

  async #write ({ png, ...image }: NewImage): Promise<StoredImage> {
    const name = `${image.index}.png`
    await this.#ready
    await fillFolder(this.#folder, [[name, png]])
    return { ...image, file: `${this.#name}/${name}`, bytes: png.byteLength }
  }
}

/** Makes a folder, without what an earlier attempt left in it, and its entry durable. */
async function makeEmpty (folder: string): Promise<void> {
  let parents = await makeFolder(folder)
  if (parents.length === 0) {
    await removeFolder(folder)
    parents = await makeFolder(folder)
  }
  await allEnded(parents.map(syncFolder))
}

function folderName (job: OutputOwner): string {
  return `${job.created_at.slice(0, 10)}/${job.id}`
}

function ignoreUnlessUnexpected (error: NodeJS.ErrnoException): void {
  if (!['ENOTEMPTY', 'EEXIST', 'ENOENT'].includes(error.code ?? '')) throw error
}
