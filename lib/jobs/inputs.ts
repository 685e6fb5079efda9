import { readFile } from 'node:fs/promises'
import type { Attachments } from './job.ts'
import type { Known } from './outputs.ts'
import { allEnded, fillFolder, inside, isJobId, makeFolder, names, removeFolder, syncFolder } from '../storage/files.ts'

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
    const folder = inside(this.#root, jobId)
    try {
      const parents = await makeFolder(folder)
      await allEnded([...parents.map(syncFolder), fillFolder(folder, entries)])
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
  async clean (waiting: Known): Promise<number> {
    const ids = (await names(this.#root)).filter(isJobId)
    const known = await waiting(ids)
    const orphans = ids.filter(id => !known.has(id))
    for (const id of orphans) await this.remove(id)
    return orphans.length
  }
}
