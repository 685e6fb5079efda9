import { constants } from 'node:fs'
import { open, rmdir, type FileHandle } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { allEnded, inside, isJobId, makeFolder, names, removeFolder, syncFolder, writeWhole } from './files.ts'

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

/** The folder of a job, from what never changes about it. */
export interface OutputOwner {
  id: string
  /** ISO 8601, UTC; its date names the folder above. */
  created_at: string
}

const dateFolder = /^\d{4}-\d{2}-\d{2}$/

/** The images of finished jobs: `<root>/<yyyy-mm-dd>/<job id>/<n>.png`. */
export class Outputs {
  readonly #root: string

  /** @param root absolute path; made when the first image is kept. */
  constructor (root: string) {
    this.#root = root
  }

  /** Makes the folder of a job, empty; can be done before its images are there. */
  async prepare (job: OutputOwner): Promise<void> {
    await allEnded((await makeEmpty(this.#folder(job))).map(syncFolder))
  }

  /** Keeps all images of a job or none: after a failure its folder is gone. */
  async save (job: OutputOwner, images: readonly NewImage[], prepared?: Promise<void>): Promise<StoredImage[]> {
    const folder = this.#folder(job)
    const nameOf = ({ index }: NewImage) => `${index}.png`
    try {
      await (prepared ?? this.prepare(job))
      await allEnded(images.map(async image => writeWhole(inside(folder, nameOf(image)), image.png)))
      await syncFolder(folder)
      return images.map(image => {
        const { png, ...kept } = image
        return { ...kept, file: `${folderName(job)}/${nameOf(image)}`, bytes: png.byteLength }
      })
    } catch (error) {
      await this.remove(job)
      throw error
    }
  }

  /**
   * Opens an image for reading; the caller closes it. Links are not followed.
   * @throws what `open` throws: ENOENT when the file was deleted by hand.
   */
  async open (file: string): Promise<{ handle: FileHandle, size: number }> {
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

  /** Deletes the folders of jobs that nobody knows (any more); returns how many. Foreign names are left alone. */
  async clean (isKnown: (jobId: string) => boolean): Promise<number> {
    let removed = 0
    for (const date of await names(this.#root)) {
      if (!dateFolder.test(date)) continue
      for (const id of await names(join(this.#root, date))) {
        if (!isJobId(id) || isKnown(id)) continue
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

/** Makes a folder, without what an earlier attempt left in it; see `makeFolder`. */
async function makeEmpty (folder: string): Promise<string[]> {
  const parents = await makeFolder(folder)
  if (parents.length > 0) return parents
  await removeFolder(folder)
  return await makeFolder(folder)
}

function folderName (job: OutputOwner): string {
  return `${job.created_at.slice(0, 10)}/${job.id}`
}

function ignoreUnlessUnexpected (error: NodeJS.ErrnoException): void {
  if (!['ENOTEMPTY', 'EEXIST', 'ENOENT'].includes(error.code ?? '')) throw error
}
