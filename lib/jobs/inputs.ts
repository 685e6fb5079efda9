import type { Blobs } from '../storage/blobs.ts'
import { isJobId, type Attachments } from './job.ts'
import type { Known } from './outputs.ts'

/** The attachments of jobs that have not ended: `<job id>/<parameter name>`. */
export class Inputs {
  readonly #blobs: Blobs

  constructor (blobs: Blobs) {
    this.#blobs = blobs
  }

  /** Keeps all attachments or none. They are durable when the promise is fulfilled. */
  async save (jobId: string, attachments: Attachments): Promise<void> {
    const entries = Object.entries(attachments)
    if (entries.length === 0) return
    try {
      await this.#blobs.put(jobId, entries)
    } catch (error) {
      await this.remove(jobId)
      throw error
    }
  }

  async read (jobId: string): Promise<Attachments> {
    const attachments: Attachments = {}
    for (const name of await this.#blobs.list(jobId)) {
      const blob = await this.#blobs.get(`${jobId}/${name}`)
      if (blob !== undefined) attachments[name] = await blob.bytes()
    }
    return attachments
  }

  async remove (jobId: string): Promise<void> {
    await this.#blobs.delete(jobId)
  }

  /** Deletes what belongs to no waiting job; returns of how many jobs. Foreign names are left alone. */
  async clean (waiting: Known): Promise<number> {
    const ids = (await this.#blobs.list()).filter(isJobId)
    const known = await waiting(ids)
    const orphans = ids.filter(id => !known.has(id))
    for (const id of orphans) await this.remove(id)
    return orphans.length
  }
}
