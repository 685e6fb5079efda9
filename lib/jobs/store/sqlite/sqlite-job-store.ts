import { apiError } from '../../../../errors.ts'
import { decodeCursor, encodeCursor } from '../../../http/paging.ts'
import { closeDatabase, openDatabase, transaction, yieldWhenBusy, type Database } from '../../../storage/database.ts'
import { lock } from '../../../storage/lock.ts'
import { whenFree } from '../../../storage/storage-errors.ts'
import type { LaneKind, Outcome } from '../../executor.ts'
import type { Job, JobError, JobFilter, JobPage, JobStatus } from '../../job.ts'
import type { Idempotency } from '../../new-job.ts'
import type { StoredImage } from '../../outputs.ts'
import {
  bytesPerPage, checkInputs, checkWaiting, checkWebhooks, defaultCapacity, keyLifetime, longestMessage,
  mostEngineCrashes, mostPerPage, mostServerDeaths
} from '../bounds.ts'
import type { AcceptedJob, Claimant, JobRetention, JobStore, JobStoreOptions, WebhookOutbox } from '../job-store.ts'
import { migrations } from './migrations.ts'
import { SqliteRetention } from './retention.ts'
import { toJob, type ImageRow, type JobRow } from './rows.ts'
import { prepareAll, type Statement, type Statements } from './statements.ts'
import { WaitingJobs } from './waiting-jobs.ts'
import { SqliteWebhooks } from './webhooks.ts'

/** Bytes of parameters for which an ended job counts as one; a longer one counts as several. */
const bytesPerUnit = 16 * 1024

/**
 * Keeps the jobs in a SQLite file, which one process at a time may open. Each operation runs synchronously, so that no
 * other comes in between; while another process holds the lock of the file it is repeated as a whole.
 */
export class SqliteJobStore implements JobStore {
  readonly retention: JobRetention
  readonly webhooks: WebhookOutbox
  readonly #options: JobStoreOptions
  readonly #lock: Database
  readonly #database: Database
  readonly #statements: Statements
  readonly #waiting: WaitingJobs
  /** Bytes of inputs that are kept, by caller. */
  readonly #inputs = new Map<string, number>()
  readonly #now: () => number
  #service: number

  /** @throws {CommandError} (storage) when the file can't be opened, or another process has it open. */
  constructor (file: string, options: JobStoreOptions = {}) {
    const { laneOf = () => 'engine', overtakeLimit = 8, now = Date.now } = options
    this.#lock = lock(`${file}.lock`)
    try {
      this.#database = openDatabase(file, migrations)
    } catch (error) {
      this.#lock.close()
      throw error
    }
    yieldWhenBusy(this.#database)
    this.#options = options
    this.#now = now
    this.#statements = prepareAll(this.#database)
    this.retention = new SqliteRetention(this.#database, this.#statements, now)
    this.webhooks = new SqliteWebhooks(this.#statements)
    this.#service = (this.#statements.lastService.get() as { service: number | null }).service ?? 0
    this.#waiting = new WaitingJobs(this.#statements, laneOf, overtakeLimit)
    for (const { caller, bytes } of this.#statements.inputs.all() as Array<{ caller: string, bytes: number }>) {
      this.#inputs.set(caller, bytes)
    }
  }

  get capacity (): number {
    return this.#options.capacity ?? defaultCapacity
  }

  async accept (job: AcceptedJob): Promise<{ job: Job, isNew: boolean }> {
    const { caller = job.owner, inputBytes = 0 } = job
    return await whenFree(() => {
      const earlier = this.#findByKey(caller, job.idempotency)
      if (earlier !== undefined) return { job: earlier, isNew: false }
      this.#checkRoom(caller, inputBytes)
      const row = transaction(this.#database, () => this.#insert(job, caller, inputBytes))
      this.#waiting.add(row)
      this.#keepInputs(caller, inputBytes)
      return { job: this.#toJob(row), isNew: true }
    })
  }

  #insert (job: AcceptedJob, caller: string, inputBytes: number): JobRow {
    const { id, type, owner, model, priority, idempotency, webhookUrl: url } = job
    const parameters = JSON.stringify(job.parameters)
    const now = this.#now()
    const row = this.#statements.insert.get({
      id,
      type,
      owner,
      caller,
      model,
      priority,
      parameters,
      units: 1 + Math.floor(Buffer.byteLength(parameters) / bytesPerUnit),
      input_bytes: inputBytes,
      created_at: now
    }) as unknown as JobRow
    if (idempotency !== undefined) {
      const { key, requestHash: hash } = idempotency
      this.#statements.insertKey.run({ caller, key, hash, job: row.sequence, created_at: now })
    }
    if (url !== undefined) {
      const pending = this.#statements.pendingWebhooks.get({ caller }) as { own: number, all: number }
      checkWebhooks(pending, this.#options)
      this.#statements.insertWebhook.run({ job: row.sequence, url, caller })
    }
    return row
  }

  async checkRoom (caller: string, inputBytes = 0): Promise<void> {
    this.#checkRoom(caller, inputBytes)
  }

  #checkRoom (caller: string, inputBytes: number): void {
    checkWaiting(this.#waiting.counts(caller), this.#options)
    if (inputBytes === 0) return
    let all = 0
    for (const kept of this.#inputs.values()) all += kept
    checkInputs(inputBytes, { own: this.#inputs.get(caller) ?? 0, all }, this.#options)
  }

  #keepInputs (caller: string, bytes: number): void {
    const kept = (this.#inputs.get(caller) ?? 0) + bytes
    if (kept > 0) this.#inputs.set(caller, kept)
    else this.#inputs.delete(caller)
  }

  async findByKey (caller: string, idempotency: Idempotency | undefined): Promise<Job | undefined> {
    return this.#findByKey(caller, idempotency)
  }

  #findByKey (caller: string, idempotency: Idempotency | undefined): Job | undefined {
    if (idempotency === undefined) return undefined
    const found = this.#statements.findKey.get({
      caller, key: idempotency.key, after: this.#now() - keyLifetime
    }) as { hash: string, id: string } | undefined
    if (found === undefined) return undefined
    if (found.hash !== idempotency.requestHash) throw apiError('SDR_IDEMPOTENCY_CONFLICT')
    return this.#toJob(this.#statements.get.get({ id: found.id }) as JobRow | undefined)
  }

  async get (id: string): Promise<Job | undefined> {
    return this.#toJob(this.#statements.get.get({ id }) as JobRow | undefined)
  }

  async list (filter: JobFilter = {}): Promise<JobPage> {
    const limit = Math.min(Math.max(filter.limit ?? 50, 1), mostPerPage)
    const { cursor, status, owner, model, type } = filter
    const given = Object.entries({ status, owner, model, type }).filter(([, value]) => value !== undefined)
    const conditions = given.map(([column]) => `${column} = $${column}`)
    if (cursor !== undefined) conditions.push('sequence < $before')
    const times = Object.entries({ created_after: filter.created_after, created_before: filter.created_before })
      .flatMap(([name, time]) => time === undefined ? [] : [[name, Date.parse(time)] as const])
    for (const [name] of times) conditions.push(`created_at ${name === 'created_after' ? '>=' : '<'} $${name}`)
    // Without another filter SQLite would read past the long parameters of every row to its time.
    const source = times.length > 0 && given.length === 0 ? 'jobs INDEXED BY jobs_by_time' : 'jobs'
    const rows = this.#database.prepare(`
      SELECT * FROM ${source} ${conditions.length > 0 ? `WHERE ${conditions.join(' AND ')}` : ''}
      ORDER BY sequence DESC LIMIT $limit
    `).iterate({
      ...Object.fromEntries([...given, ...times]),
      ...(cursor === undefined ? {} : { before: Number(decodeCursor(cursor, /^(\d{1,15})$/)[0]) }),
      limit: limit + 1
    }) as Iterable<unknown> as Iterable<JobRow>
    const page: JobRow[] = []
    let bytes = 0
    let cursorOfNext: string | null = null
    for (const row of rows) {
      if (page.length === limit || bytes >= bytesPerPage) {
        cursorOfNext = encodeCursor(String(page.at(-1)!.sequence))
        break
      }
      page.push(row)
      bytes += row.parameters.length
    }
    const images = this.#imagesOf(page)
    return { jobs: page.map(row => this.#toJob(row, images)), next_cursor: cursorOfNext }
  }

  async counts (): Promise<Record<JobStatus, number>> {
    const rows = this.#statements.counts.all() as unknown as Array<{ status: JobStatus, jobs: number }>
    return Object.fromEntries(rows.map(({ status, jobs }) => [status, jobs])) as Record<JobStatus, number>
  }

  async waiting (lane: LaneKind): Promise<number> {
    return this.#waiting.count(lane)
  }

  async positions (ids: readonly string[]): Promise<ReadonlyMap<string, number>> {
    return new Map(ids.map(id => [id, this.#waiting.position(id)] as const)
      .filter((entry): entry is [string, number] => entry[1] !== null))
  }

  async unended (): Promise<Array<Pick<Job, 'id' | 'owner'>>> {
    return this.#statements.unended.all() as unknown as Array<Pick<Job, 'id' | 'owner'>>
  }

  async imageKey (id: string, index: number): Promise<string | undefined> {
    return (this.#statements.imageFile.get({ id, number: index }) as { file: string } | undefined)?.file
  }

  async claim (claimant: Claimant): Promise<Job | undefined> {
    return await whenFree(() => {
      for (let choice; (choice = this.#waiting.choose(claimant)) !== undefined;) {
        const { job: { id }, passed } = choice
        const service = ++this.#service
        const row = transaction(this.#database, () => {
          if (passed.length > 0) this.#statements.overtake.run({ ids: JSON.stringify(passed.map(({ id }) => id)) })
          return this.#statements.start.get({ id, now: this.#now(), service }) as JobRow | undefined
        })
        this.#waiting.remove(id, service)
        for (const waiting of passed) waiting.overtaken++
        if (row !== undefined) return this.#toJob(row)
      }
      return undefined
    })
  }

  async complete (id: string, images: readonly StoredImage[], result?: Outcome['result']): Promise<Job | undefined> {
    return await whenFree(() => this.#ended(transaction(this.#database, () => {
      const completed = this.#statements.end.get({
        id,
        status: 'completed',
        error_code: null,
        error_message: null,
        bytes: images.reduce((sum, { bytes }) => sum + bytes, 0),
        now: this.#now()
      }) as JobRow | undefined
      if (completed === undefined) return undefined
      for (const { index, ...image } of images) {
        this.#statements.insertImage.run({ job: completed.sequence, number: index, ...image })
      }
      return result === undefined
        ? completed
        : this.#statements.setResult
          .get({ sequence: completed.sequence, result: JSON.stringify(result) }) as unknown as JobRow
    })))
  }

  async fail (id: string, error: JobError): Promise<Job | undefined> {
    return await whenFree(() => this.#end(id, 'failed', error))
  }

  async giveBack (id: string): Promise<Job | undefined> {
    return await whenFree(() => this.#requeue(id, this.#statements.giveBack))
  }

  async retryOrFail (id: string, reason: string): Promise<Job | undefined> {
    return await whenFree(() => this.#requeue(id, this.#statements.retry, { most: mostEngineCrashes }) ??
      this.#end(id, 'failed', { code: 'engine_crashed', message: reason }))
  }

  async cancel (id: string): Promise<Job | undefined> {
    return await whenFree(() => {
      const row = this.#change(this.#statements.cancelQueued, { id, now: this.#now() })
      if (row === undefined) return this.#toJob(this.#change(this.#statements.markCancelling, { id }))
      this.#waiting.remove(id)
      return this.#ended(row)
    })
  }

  async endCancelled (id: string): Promise<Job | undefined> {
    return await whenFree(() => this.#end(id, 'cancelled'))
  }

  async recover (): Promise<Job[]> {
    const message = `The server died ${mostServerDeaths} times while this job was running, so it is not tried again.`
    const jobs: Job[] = []
    for (const { id } of this.#statements.running.all() as unknown as JobRow[]) {
      const job = await whenFree(() =>
        this.#requeue(id, this.#statements.retryAfterDeath, { most: mostServerDeaths }) ??
        this.#end(id, 'failed', { code: 'server_crashed', message }))
      if (job !== undefined) jobs.push(job)
    }
    return jobs
  }

  async close (): Promise<void> {
    closeDatabase(this.#database)
    this.#lock.close()
  }

  #end (id: string, status: JobStatus, error?: JobError): Job | undefined {
    return this.#ended(this.#change(this.#statements.end, {
      id,
      status,
      error_code: error?.code ?? null,
      error_message: error?.message.slice(0, longestMessage).replaceAll('\0', '\ufffd') ?? null,
      bytes: 0,
      now: this.#now()
    }))
  }

  #ended (row: JobRow | undefined): Job | undefined {
    if (row !== undefined) this.#keepInputs(row.caller, -row.input_bytes)
    return this.#toJob(row)
  }

  /** Puts a running job back into the line, or ends it when it is to be cancelled. */
  #requeue (id: string, statement: Statement, parameters = {}): Job | undefined {
    const row = this.#change(statement, { id, ...parameters })
    if (row !== undefined) this.#waiting.add(row)
    else if (this.#statements.isCancelling.get({ id }) !== undefined) return this.#end(id, 'cancelled')
    return this.#toJob(row)
  }

  /**
   * Runs a statement that returns the row it has changed, to its very end: only there SQLite says that the change could
   * not be stored. `get` leaves after the first row and would hide that.
   */
  #change (statement: Statement, parameters: Parameters<Statement['all']>[0]): JobRow | undefined {
    return statement.all(parameters)[0] as JobRow | undefined
  }

  /** The images of all these jobs in one query: a page would ask fifty times. */
  #imagesOf (rows: readonly JobRow[]): Map<number, ImageRow[]> {
    const sequences = JSON.stringify(rows.map(({ sequence }) => sequence))
    const images = this.#statements.images.all({ sequences }) as unknown as Array<ImageRow & { job: number }>
    const byJob = new Map<number, ImageRow[]>()
    for (const { job, ...image } of images) {
      const others = byJob.get(job)
      if (others === undefined) byJob.set(job, [image])
      else others.push(image)
    }
    return byJob
  }

  #toJob (row: JobRow, images?: Map<number, ImageRow[]>): Job
  #toJob (row: JobRow | undefined): Job | undefined
  #toJob (row: JobRow | undefined, images?: Map<number, ImageRow[]>): Job | undefined {
    if (row === undefined) return undefined
    // Only a completed job has images.
    images ??= row.status === 'completed' ? this.#imagesOf([row]) : new Map()
    const position = row.status === 'queued' ? this.#waiting.position(row.id) : null
    return toJob(row, images.get(row.sequence) ?? [], position, this.#options.basePath ?? '')
  }
}
