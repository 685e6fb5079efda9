import { readFile } from 'node:fs/promises'
import type { Attachments } from './job.ts'
import { allEnded, inside, isJobId, makeFolder, names, removeFolder, syncFolder, writeWhole } from './files.ts'

/** The attachments of jobs that have not ended: `<root>/<job id>/<parameter name>`. */
export class Inputs {
  readonly #root: string
  /** The jobs that have some, once the root was read: most have none, and nobody else writes there. */
  #holders: Promise<Set<string>> | undefined

  /** @param root absolute path; made when the first attachment is kept. */
  constructor (root: string) {
    this.#root = root
  }

  /** Keeps all attachments or none. They are durable when the promise is fulfilled. */
  async save (jobId: string, attachments: Attachments): Promise<void> {
    const entries = Object.entries(attachments)
    if (entries.length === 0) return
    const folder = inside(this.#root, jobId)
    const holders = await this.#known()
    holders.add(jobId)
    try {
      const parents = await makeFolder(folder)
      await allEnded([
        ...parents.map(syncFolder),
        ...entries.map(async ([name, bytes]) => writeWhole(inside(folder, name), bytes))
      ])
      await syncFolder(folder)
    } catch (error) {
      await this.remove(jobId)
      throw error
    }
  }

  async read (jobId: string): Promise<Attachments> {
    const folder = inside(this.#root, jobId)
    const attachments: Attachments = {}
    if (!(await this.#known()).has(jobId)) return attachments
    for (const name of await names(folder)) attachments[name] = await readFile(inside(folder, name))
    return attachments
  }

  async remove (jobId: string): Promise<void> {
    const folder = inside(this.#root, jobId)
    const holders = await this.#known()
    if (!holders.has(jobId)) return
    await removeFolder(folder)
    holders.delete(jobId)
  }

  /** Deletes what belongs to no waiting job; returns how many folders. Foreign names are left alone. */
  async clean (isWaiting: (jobId: string) => boolean): Promise<number> {
    const holders = await this.#known()
    const orphans = (await names(this.#root)).filter(name => isJobId(name) && !isWaiting(name))
    for (const id of orphans) {
      await removeFolder(inside(this.#root, id))
      holders.delete(id)
    }
    return orphans.length
  }

  async #known (): Promise<Set<string>> {
    this.#holders ??= names(this.#root).then(found => new Set(found))
    try {
      return await this.#holders
    } catch (error) {
      this.#holders = undefined
      throw error
    }
  }
}
