import { readFile } from 'node:fs/promises'
import { apiError } from '../../errors.ts'
import type { Attachments } from './job.ts'
import { inside, isJobId, makeFolder, names, removeFolder, syncFolder, writeWhole } from './files.ts'

const attachmentName = /^[a-z][a-z0-9_]{0,47}(\.\d{1,2})?$/
const mostAttachments = 16
/** Bytes of all attachments of one job. */
const mostBytes = 128 * 1024 * 1024

/** The attachments of jobs that have not ended: `<root>/<job id>/<parameter name>`. */
export class Inputs {
  readonly #root: string

  /** @param root absolute path; made when the first attachment is kept. */
  constructor (root: string) {
    this.#root = root
  }

  /** Keeps all attachments or none. They are durable when the promise is fulfilled. */
  async save (jobId: string, attachments: Attachments): Promise<void> {
    const entries = Object.entries(attachments)
    if (entries.length === 0) return
    check(entries)
    const folder = inside(this.#root, jobId)
    try {
      await makeFolder(folder)
      for (const [name, bytes] of entries) await writeWhole(inside(folder, name), bytes)
      await syncFolder(folder)
    } catch (error) {
      await removeFolder(folder)
      throw error
    }
  }

  async read (jobId: string): Promise<Attachments> {
    const folder = inside(this.#root, jobId)
    const attachments: Attachments = {}
    for (const name of await names(folder)) attachments[name] = await readFile(inside(folder, name))
    return attachments
  }

  async remove (jobId: string): Promise<void> {
    await removeFolder(inside(this.#root, jobId))
  }

  /** Deletes what belongs to no waiting job; returns how many folders. Foreign names are left alone. */
  async clean (isWaiting: (jobId: string) => boolean): Promise<number> {
    const orphans = (await names(this.#root)).filter(name => isJobId(name) && !isWaiting(name))
    for (const id of orphans) await this.remove(id)
    return orphans.length
  }
}

function check (entries: Array<[string, Uint8Array]>): void {
  for (const [name] of entries) {
    if (!attachmentName.test(name)) throw new RangeError(`Expected the name of a parameter for an attachment but received "${name}"`)
  }
  if (entries.length > mostAttachments) {
    throw apiError('SDR_INVALID_REQUEST', `A job takes at most ${mostAttachments} images; ${entries.length} came with it.`)
  }
  const bytes = entries.reduce((sum, [, { byteLength }]) => sum + byteLength, 0)
  if (bytes > mostBytes) {
    throw apiError('SDR_BODY_TOO_LARGE', `The images of a job may have ${mostBytes} bytes together; these have ${bytes}.`)
  }
}
