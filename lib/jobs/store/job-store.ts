import { uuidv7 } from 'uuidv7'
import { apiError } from '../../../errors.ts'
import { closeDatabase, openDatabase, transaction, yieldWhenBusy, type Database } from '../../storage/database.ts'
import { isoTime } from '../../util/iso-time.ts'
import { wrongCursor } from '../../http/paging.ts'
import type { LaneKind, Outcome } from '../executor.ts'
import {
  residentOf, type Job, type JobError, type JobFilter, type JobPage, type JobStatus, type JobType, type NewJob
} from '../job.ts'
import { Line, type Choice } from '../schedule/line.ts'
import { lock } from '../../storage/lock.ts'
import { migrations } from './migrations.ts'
import type { Idempotency } from '../new-job.ts'
import type { StoredImage } from '../outputs.ts'

export interface JobStoreOptions {
  /** Jobs that may wait, of all callers and of one. */
  capacity?: number
  capacityPerOwner?: number
  /** Bytes of images that came with jobs that have not ended, of all callers and of one. */
  inputBytes?: number
  inputBytesPerOwner?: number
  /** Webhooks of one caller that are not delivered yet. */
  webhooksPerOwner?: number
  /** How often a job may be overtaken by jobs for the model that is loaded. */
  overtakeLimit?: number
  /** Which lane a type of jobs waits for; the engines unless said. */
  laneOf?: (type: JobType) => LaneKind
  /** Milliseconds since 1970. */
  now?: () => number
}

/** The end of a job that is to be told. */
export interface DueWebhook {
  sequence: number
  url: string
  tries: number
  /** The job's id. */
  id: string
}

/** A request that has passed all checks. */
export interface AcceptedJob extends Required<Pick<NewJob, 'type' | 'owner' | 'model' | 'priority' | 'parameters'>> {
  id: string
  /** Whose share of the bounds it takes; the owner's unless said. */
  caller?: string
  /** Of its attachments. */
  inputBytes?: number
  idempotency?: Idempotency
  webhookUrl?: string
}

interface JobRow {
  sequence: number
  id: string
  type: JobType
  status: JobStatus
  owner: string
  caller: string
  model: string
  priority: number
  parameters: string
  input_bytes: number
  attempts: number
  result: string | null
  error_code: string | null
  error_message: string | null
  created_at: number
  started_at: number | null
  finished_at: number | null
  overtaken: number
  returned: number
}

type ImageRow = Omit<StoredImage, 'file'>
/** An ended job whose files are to be deleted. */
type Removable = Pick<Job, 'id' | 'created_at'>
/** An ended job with what it takes of the bounds of retention. */
type EndedRow = Pick<JobRow, 'sequence' | 'id' | 'created_at'> & { finished_at: number, units: number, bytes: number }
/** The sum over the ended jobs of a caller. */
interface Share { caller: string, amount: number }
type Statement = ReturnType<Database['prepare']>

/** Engine crashes after which a job has failed: the second one shows that the job causes them. */
const mostEngineCrashes = 2
/** Deaths of the server under a job after which it fails: most have other causes, but a job may kill servers too. */
const mostServerDeaths = 5
/** Characters of `error.message`: an engine's last words can be a long log. */
const longestMessage = 2000
const keyLifetime = 24 * 60 * 60 * 1000
/** Seconds after which a refused submission may be tried again: about the time of one job. */
const retryAfter = 10
const mostPerPage = 200
/** Callers who may have all the webhooks that one may have. */
const callersWithWebhooks = 20
/** Characters of parameters after which a page ends early: more would keep the event loop busy. */
const bytesPerPage = 1024 * 1024
/** Bytes of parameters for which an ended job counts as one; a longer one counts as several. */
const bytesPerUnit = 16 * 1024
const noImages: ReadonlyMap<number, ImageRow[]> = new Map()

/**
 * All SQL of the job queue. Every change of state is one guarded statement: it happens from the expected state or not
 * at all, and then the method answers undefined. An accepted job is on the disk when `accept` returns.
 */
export class JobStore {
  readonly #lock: Database
  readonly #database: Database
  readonly #statements: ReturnType<typeof prepareAll>
  /** Jobs for the engines and those that need none do not wait for each other. */
  readonly #lines: Readonly<Record<LaneKind, Line>>
  readonly #laneOf: (type: JobType) => LaneKind
  readonly #capacity: number
  readonly #capacityPerOwner: number
  readonly #inputBytes: number
  readonly #inputBytesPerOwner: number
  readonly #webhooksPerOwner: number
  /** Bytes of inputs that are kept, by caller. */
  readonly #inputs = new Map<string, number>()
  readonly #now: () => number
  #service: number
  /** Remembered from one change to the next: every look at the models asks for the state of the queue. */
  #counts: Readonly<Record<JobStatus, number>> | undefined

  /** @throws {CommandError} (storage) when the file can't be opened, or another process has it open. */
  constructor (file: string, options: JobStoreOptions = {}) {
    this.#lock = lock(`${file}.lock`)
    try {
      this.#database = openDatabase(file, migrations)
    } catch (error) {
      this.#lock.close()
      throw error
    }
    yieldWhenBusy(this.#database)
    this.#statements = prepareAll(this.#database)
    this.#capacity = options.capacity ?? 1000
    this.#capacityPerOwner = options.capacityPerOwner ?? 100
    this.#inputBytes = options.inputBytes ?? Infinity
    this.#inputBytesPerOwner = options.inputBytesPerOwner ?? Infinity
    this.#webhooksPerOwner = options.webhooksPerOwner ?? 1000
    this.#now = options.now ?? Date.now
    this.#laneOf = options.laneOf ?? (() => 'engine')
    this.#lines = { engine: new Line(options.overtakeLimit ?? 8), files: new Line(0) }
    this.#service = (this.#statements.lastService.get() as { service: number | null }).service ?? 0
    for (const row of this.#statements.waiting.iterate()) this.#joinLine(row as unknown as JobRow)
    for (const { caller, bytes } of this.#statements.inputs.all() as Array<{ caller: string, bytes: number }>) {
      this.#inputs.set(caller, bytes)
    }
  }

  get capacity (): number {
    return this.#capacity
  }

  /** How many jobs wait for a lane of this kind. */
  waiting (lane: LaneKind): number {
    return this.#lines[lane].length
  }

  newId (): string {
    return uuidv7()
  }

  /**
   * Stores a job as queued, or answers with the one that this caller submitted under the same idempotency key.
   * @throws {ApiError} SDR_QUEUE_FULL, SDR_IDEMPOTENCY_CONFLICT
   */
  accept (job: AcceptedJob): { job: Job, isNew: boolean } {
    const createdAt = this.#now()
    const { caller = job.owner, inputBytes = 0 } = job
    const parameters = JSON.stringify(job.parameters)
    const accepted = this.#transaction(() => {
      const earlier = this.findByKey(caller, job.idempotency)
      if (earlier !== undefined) return { earlier }
      this.checkRoom(caller, inputBytes)
      const row = this.#statements.insert.get({
        id: job.id,
        type: job.type,
        owner: job.owner,
        caller,
        model: job.model,
        priority: job.priority,
        parameters,
        units: 1 + Math.floor(Buffer.byteLength(parameters) / bytesPerUnit),
        input_bytes: inputBytes,
        created_at: createdAt
      }) as unknown as JobRow
      if (job.idempotency !== undefined) {
        const { key, requestHash } = job.idempotency
        this.#statements.insertKey.run({
          caller, key, hash: requestHash, job: row.sequence, created_at: createdAt
        })
      }
      if (job.webhookUrl !== undefined) {
        this.#checkRoomForWebhook(caller)
        this.#statements.insertWebhook.run({ job: row.sequence, url: job.webhookUrl, caller })
      }
      return { row }
    })
    if (accepted.earlier !== undefined) return { job: accepted.earlier, isNew: false }
    this.#joinLine(accepted.row)
    this.#keepInputs(caller, inputBytes)
    return { job: this.#toJob(accepted.row), isNew: true }
  }

  /**
   * @param inputBytes of the attachments of a new job.
   * @throws {ApiError} SDR_QUEUE_FULL when no such job of this caller would be accepted now, SDR_BODY_TOO_LARGE when
   *   never.
   */
  checkRoom (caller: string, inputBytes = 0): void {
    const { engine, files } = this.#lines
    if (engine.length + files.length >= this.#capacity) {
      throw apiError('SDR_QUEUE_FULL',
        `${this.#capacity} jobs are waiting, and the queue takes no more; try again later.`, { retryAfter })
    }
    if (engine.lengthOf(caller) + files.lengthOf(caller) >= this.#capacityPerOwner) {
      throw apiError('SDR_QUEUE_FULL',
        `${this.#capacityPerOwner} of your jobs are waiting, and one caller may not have more; try again later.`,
        { retryAfter })
    }
    if (inputBytes > 0) this.#checkRoomForInputs(caller, inputBytes)
  }

  #checkRoomForInputs (caller: string, bytes: number): void {
    const most = Math.min(this.#inputBytes, this.#inputBytesPerOwner)
    if (bytes > most) {
      throw apiError('SDR_BODY_TOO_LARGE',
        `The images of one job may have ${most} bytes together; these have ${bytes}.`)
    }
    const own = this.#inputs.get(caller) ?? 0
    if (own + bytes > this.#inputBytesPerOwner) {
      throw apiError('SDR_QUEUE_FULL',
        `The images of your jobs that have not ended take ${own} bytes, these ${bytes} more, and one caller may have ` +
        `${this.#inputBytesPerOwner}; try again later.`, { retryAfter })
    }
    let all = 0
    for (const kept of this.#inputs.values()) all += kept
    if (all + bytes > this.#inputBytes) {
      throw apiError('SDR_QUEUE_FULL',
        `The images of all jobs that have not ended may take ${this.#inputBytes} bytes, ` +
        `and there is no room for these ${bytes}; try again later.`, { retryAfter })
    }
  }

  #checkRoomForWebhook (caller: string): void {
    const { own, all } = this.#statements.pendingWebhooks.get({ caller }) as { own: number, all: number }
    if (own >= this.#webhooksPerOwner) {
      throw apiError('SDR_QUEUE_FULL',
        `${own} webhooks of your jobs are not delivered yet, and one caller may not have more; ` +
        'ask without webhook_url, or try again later.',
        { retryAfter })
    }
    if (all >= this.#webhooksPerOwner * callersWithWebhooks) {
      throw apiError('SDR_QUEUE_FULL',
        `${all} webhooks are not delivered yet; ask without webhook_url, or try again later.`, { retryAfter })
    }
  }

  #keepInputs (caller: string, bytes: number): void {
    const kept = (this.#inputs.get(caller) ?? 0) + bytes
    if (kept > 0) this.#inputs.set(caller, kept)
    else this.#inputs.delete(caller)
  }

  /**
   * The job that this caller submitted under the key within the last 24 hours.
   * @throws {ApiError} SDR_IDEMPOTENCY_CONFLICT when it was another request.
   */
  findByKey (caller: string, idempotency: Idempotency | undefined): Job | undefined {
    if (idempotency === undefined) return undefined
    const found = this.#statements.findKey.get({
      caller, key: idempotency.key, after: this.#now() - keyLifetime
    }) as { hash: string, id: string } | undefined
    if (found === undefined) return undefined
    if (found.hash !== idempotency.requestHash) throw apiError('SDR_IDEMPOTENCY_CONFLICT')
    return this.get(found.id)
  }

  has (id: string): boolean {
    return this.#statements.has.get({ id }) !== undefined
  }

  get (id: string): Job | undefined {
    const row = this.#statements.get.get({ id }) as JobRow | undefined
    return row === undefined ? undefined : this.#toJob(row)
  }

  /**
   * A page of jobs, newest first; it ends early where the jobs are long.
   * @throws {ApiError} SDR_INVALID_REQUEST for a cursor that no page gave.
   */
  list (filter: JobFilter = {}): JobPage {
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
      ...(cursor === undefined ? {} : { before: parseCursor(cursor) }),
      limit: limit + 1
    }) as Iterable<unknown> as Iterable<JobRow>
    const page: JobRow[] = []
    let bytes = 0
    let cursorOfNext: string | null = null
    for (const row of rows) {
      if (page.length === limit || bytes >= bytesPerPage) {
        cursorOfNext = String(page.at(-1)!.sequence)
        break
      }
      page.push(row)
      bytes += row.parameters.length
    }
    const images = this.#imagesOf(page)
    return { jobs: page.map(row => this.#toJob(row, images)), next_cursor: cursorOfNext }
  }

  counts (): Readonly<Record<JobStatus, number>> {
    if (this.#counts === undefined) {
      const rows = this.#statements.counts.all() as unknown as Array<{ status: JobStatus, jobs: number }>
      this.#counts = Object.fromEntries(rows.map(({ status, jobs }) => [status, jobs])) as Record<JobStatus, number>
    }
    return this.#counts
  }

  /** Where the image lies; undefined when the job or the image does not exist. */
  imageFile (id: string, index: number): string | undefined {
    const found = this.#statements.imageFile.get({ id, number: index }) as { file: string } | undefined
    return found?.file
  }

  /** Among the jobs for lanes of its kind: 1 is next; null when the job does not wait. */
  position (id: string): number | null {
    return this.#lines.engine.position(id) ?? this.#lines.files.position(id)
  }

  /**
   * The job that should run next in a lane.
   * @param loadedModel what its engine holds.
   * @param others what the other engines hold that are free.
   */
  next (
    loadedModel: string | undefined, others: ReadonlyArray<string | undefined> = [], lane: LaneKind = 'engine'
  ): Choice | undefined {
    return this.#lines[lane].choose(loadedModel, others)
  }

  /** queued → running. One more attempt counts from here on, whatever happens to this process. */
  start ({ job, passed }: Choice): Job | undefined {
    const service = ++this.#service
    const row = this.#transaction(() => {
      const started = this.#statements.start.get({ id: job.id, now: this.#now(), service })
      if (started !== undefined && passed.length > 0) {
        this.#statements.overtake.run({ ids: JSON.stringify(passed.map(({ id }) => id)) })
      }
      return started
    }) as JobRow | undefined
    this.#leaveLine(job.id, service)
    if (row === undefined) return undefined
    for (const waiting of passed) waiting.overtaken++
    return this.#toJob(row)
  }

  /** running → completed, together with what came of it. */
  complete (id: string, images: readonly StoredImage[], result?: Outcome['result']): Job | undefined {
    const row = this.#transaction(() => {
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
    })
    return this.#ended(row)
  }

  /** running → failed */
  fail (id: string, error: JobError): Job | undefined {
    return this.#end(id, 'failed', error)
  }

  /** running → cancelled */
  endCancelled (id: string): Job | undefined {
    return this.#end(id, 'cancelled')
  }

  /** queued → cancelled */
  cancelQueued (id: string): Job | undefined {
    const row = this.#change(this.#statements.cancelQueued, { id, now: this.#now() })
    if (row === undefined) return undefined
    this.#leaveLine(id)
    return this.#ended(row)
  }

  /** Remembers that a running job is to be cancelled, so that a restart does not bring it back. */
  markCancelling (id: string): Job | undefined {
    const row = this.#change(this.#statements.markCancelling, { id })
    return row && this.#toJob(row)
  }

  /** running → queued, at the front; the attempt does not count. */
  giveBack (id: string): Job | undefined {
    return this.#requeue(this.#change(this.#statements.giveBack, { id }))
  }

  /** running → queued at the front after the first crash of an engine, running → failed after the second. */
  retryOrFail (id: string, reason: string): Job | undefined {
    const row = this.#change(this.#statements.retry, { id, most: mostEngineCrashes })
    return row === undefined ? this.fail(id, { code: 'engine_crashed', message: reason }) : this.#requeue(row)
  }

  /** running → queued at the front after the server died; running → failed after the fifth time. */
  #retryAfterDeath (id: string): Job | undefined {
    const row = this.#change(this.#statements.retryAfterDeath, { id, most: mostServerDeaths })
    if (row !== undefined) return this.#requeue(row)
    const message = `The server died ${mostServerDeaths} times while this job was running, so it is not tried again.`
    return this.fail(id, { code: 'server_crashed', message })
  }

  /** Jobs that wait or run, but those that are being cancelled. */
  unended (): Array<Pick<Job, 'id' | 'owner'>> {
    return this.#statements.unended.all() as unknown as Array<Pick<Job, 'id' | 'owner'>>
  }

  /** Decides about the jobs that were running when the server died; returns them as they are now. */
  recover (): Job[] {
    const running = this.#statements.running.all() as unknown as Array<{ id: string, cancelling: number }>
    return running.flatMap(({ id, cancelling }) =>
      (cancelling !== 0 ? this.endCancelled(id) : this.#retryAfterDeath(id)) ?? [])
  }

  /**
   * Ended jobs that are too old or too many, at most `limit`: those that ended before `keepAfter`, then those of a
   * caller beyond `keepJobsPerOwner`, then, beyond `keepJobs`, those of the callers who have most.
   */
  expired (
    { keepJobs, keepJobsPerOwner = Infinity, keepAfter, limit }:
    { keepJobs: number, keepJobsPerOwner?: number, keepAfter: number, limit: number }
  ): Removable[] {
    const { endedBefore, keptUnits, mostUnits } = this.#statements
    // Asked whenever a job has ended, mostly for nothing: then not a row is read beyond the first.
    const tooOld = endedBefore.all({ before: keepAfter, limit }) as unknown as EndedRow[]
    if (tooOld.length > 0) return tooOld.map(toRemovable)
    const top = mostUnits.get() as Share | undefined
    if (top !== undefined && top.amount > keepJobsPerOwner) {
      return this.#leastWanted(top, top.amount - keepJobsPerOwner, limit).map(toRemovable)
    }
    const excess = Math.min((keptUnits.get() as { amount: number }).amount - keepJobs, limit)
    if (excess <= 0) return []
    return ofLargest(mostUnits, 'units', excess, share => this.#leastWanted(share, share.take, limit))
      .slice(0, limit).map(toRemovable)
  }

  /**
   * The ended jobs of a caller that go first: those without images, the oldest first, but not the newest tenth of all,
   * whose errors may still be asked for; then the oldest ones.
   */
  #leastWanted ({ caller, amount }: Share, excess: number, limit: number): EndedRow[] {
    const { withoutImages, oldWithoutImages, withImages } = this.#statements
    const spare = Math.max(1, Math.floor(amount / 10))
    const bare = firstOf(oldWithoutImages.all({ caller, spare, limit }), 'units', excess)
    const rest = excess - bare.reduce((sum, { units }) => sum + units, 0)
    if (rest <= 0 || bare.length >= limit) return bare
    const isTaken = new Set(bare.map(({ id }) => id))
    const oldest = [
      ...withImages.all({ caller, limit }), ...withoutImages.all({ caller, limit: limit + bare.length })
    ] as unknown as EndedRow[]
    oldest.sort((a, b) => a.finished_at - b.finished_at || a.sequence - b.sequence)
    return [...bare, ...firstOf(oldest.filter(({ id }) => !isTaken.has(id)), 'units', rest)].slice(0, limit)
  }

  /**
   * Ended jobs whose images are beyond what may be kept, those that ended first; at most `limit`. Beyond `keepBytes`
   * the callers who have most lose theirs. The last job of a caller, and that of all, keeps its images, however large.
   */
  crowdedOut (
    { keepBytes, keepBytesPerOwner, limit }: { keepBytes: number, keepBytesPerOwner: number, limit: number }
  ): Removable[] {
    const { keptAbove, kept, mostBytes, withImages, keptOfAll } = this.#statements
    const oldestBeyond = (rows: unknown[], excess: number) => firstOf(rows.slice(0, -1), 'bytes', excess)
    for (const { caller, amount } of keptAbove
      .iterate({ most: keepBytesPerOwner }) as Iterable<unknown> as Iterable<Share>) {
      const jobs = oldestBeyond(withImages.all({ caller, limit: limit + 1 }), amount - keepBytesPerOwner)
      if (jobs.length > 0) return jobs.map(toRemovable)
    }
    const excess = (kept.get() as { amount: number }).amount - keepBytes
    if (excess <= 0) return []
    const jobs = ofLargest(mostBytes, 'bytes', excess, ({ caller, take }) =>
      oldestBeyond(withImages.all({ caller, limit: limit + 1 }), take))
    // Where nothing was found, each caller has one job.
    return (jobs.length > 0 ? jobs.slice(0, limit) : oldestBeyond(keptOfAll.all({ limit: limit + 1 }), excess))
      .map(toRemovable)
  }

  /** Whether images of this job are kept. */
  keepsImages (id: string): boolean {
    return this.#statements.keepsImages.get({ id }) !== undefined
  }

  /** Forgets the images of jobs; the jobs stay. */
  dropImages (ids: readonly string[]): void {
    this.#transaction(() => {
      this.#statements.dropImages.run({ ids: JSON.stringify(ids) })
      this.#statements.dropBytes.run({ ids: JSON.stringify(ids) })
    })
  }

  /** Forgets ended jobs with their images, and keys that are theirs or too old. */
  remove (ids: readonly string[]): void {
    this.#transaction(() => {
      this.#statements.remove.run({ ids: JSON.stringify(ids) })
      this.#statements.dropKeys.run({ before: this.#now() - keyLifetime })
    })
  }

  /** The callers with webhooks whose time has come, those who wait longest first. */
  callersWithDueWebhooks (now: number): string[] {
    return (this.#statements.callersWithDueWebhooks.all({ now }) as Array<{ caller: string }>)
      .map(({ caller }) => caller)
  }

  /** Webhooks of a caller whose time has come, at most `limit`. */
  dueWebhooks (caller: string, now: number, limit: number): DueWebhook[] {
    return this.#statements.dueWebhooks.all({ caller, now, limit }) as unknown as DueWebhook[]
  }

  /** When the next webhook is due after `now`, in milliseconds since 1970. */
  nextWebhook (now: number): number | undefined {
    return (this.#statements.nextWebhook.get({ now }) as { due_at: number | null }).due_at ?? undefined
  }

  postponeWebhook (sequence: number, dueAt: number): void {
    this.#statements.postponeWebhook.run({ sequence, due_at: dueAt })
  }

  forgetWebhook (sequence: number): void {
    this.#statements.forgetWebhook.run({ sequence })
  }

  close (): void {
    closeDatabase(this.#database)
    this.#lock.close()
  }

  #end (id: string, status: JobStatus, error?: JobError): Job | undefined {
    const row = this.#change(this.#statements.end, {
      id,
      status,
      error_code: error?.code ?? null,
      error_message: error?.message.slice(0, longestMessage).replaceAll('\0', '\ufffd') ?? null,
      bytes: 0,
      now: this.#now()
    })
    return this.#ended(row)
  }

  #ended (row: JobRow | undefined): Job | undefined {
    if (row === undefined) return undefined
    this.#keepInputs(row.caller, -row.input_bytes)
    return this.#toJob(row)
  }

  #transaction<T> (work: () => T): T {
    this.#counts = undefined
    return transaction(this.#database, work)
  }

  /**
   * Runs a statement that returns the row it has changed, to its very end: only there it says that the change could not
   * be stored. `get` leaves after the first row and would hide that.
   */
  #change (statement: Statement, parameters: Parameters<Statement['all']>[0]): JobRow | undefined {
    this.#counts = undefined
    return statement.all(parameters)[0] as JobRow | undefined
  }

  #requeue (row: JobRow | undefined): Job | undefined {
    if (row === undefined) return undefined
    this.#joinLine(row)
    return this.#toJob(row)
  }

  #joinLine (row: JobRow): void {
    const { id, sequence, caller, priority, overtaken } = row
    const model = residentOf({ model: row.model, parameters: JSON.parse(row.parameters) })
    const lane = this.#laneOf(row.type)
    const returned = row.returned !== 0
    const line = this.#lines[lane]
    // Of a caller who waits already the line knows it.
    const lastService = line.lengthOf(caller) > 0 ? undefined : this.#lastService(caller, lane)
    line.add({ id, sequence, caller, model, priority, overtaken, returned }, lastService)
  }

  #leaveLine (id: string, service?: number): void {
    for (const line of Object.values(this.#lines)) line.remove(id, service)
  }

  /** When the caller was last served in a lane of this kind: a turn in the other one costs no turn here. */
  #lastService (caller: string, lane: LaneKind): number | undefined {
    for (const turn of this.#statements.turnsOf.iterate({ caller })) {
      const { type, service } = turn as unknown as JobRow & { service: number }
      if (this.#laneOf(type) === lane) return service
    }
    return undefined
  }

  /** The images of all these jobs in one question: a page would ask fifty times. */
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

  /** Only a completed job has images. */
  #toJob (row: JobRow, images = row.status === 'completed' ? this.#imagesOf([row]) : noImages): Job {
    return {
      id: row.id,
      type: row.type,
      status: row.status,
      owner: row.owner,
      model: row.model,
      position: row.status === 'queued' ? this.position(row.id) : null,
      priority: row.priority,
      progress: null,
      parameters: JSON.parse(row.parameters),
      images: (images.get(row.sequence) ?? []).map(image => ({
        ...image, url: `/api/queue/job/${row.id}/images/${image.index}`, format: 'png'
      })),
      result: row.result === null ? null : JSON.parse(row.result),
      error: row.error_code === null ? null : { code: row.error_code, message: row.error_message ?? '' },
      attempts: row.attempts,
      created_at: isoTime(row.created_at),
      started_at: row.started_at === null ? null : isoTime(row.started_at),
      finished_at: row.finished_at === null ? null : isoTime(row.finished_at)
    }
  }
}

function prepareAll (database: Database) {
  const all = {
    insert: `INSERT INTO jobs
      (id, type, status, owner, caller, model, priority, parameters, units, input_bytes, created_at)
      VALUES ($id, $type, 'queued', $owner, $caller, $model, $priority, $parameters, $units, $input_bytes,
        $created_at) RETURNING *`,
    has: 'SELECT 1 FROM jobs WHERE id = $id',
    get: 'SELECT * FROM jobs WHERE id = $id',
    waiting: "SELECT * FROM jobs WHERE status = 'queued'",
    running: "SELECT id, cancelling FROM jobs WHERE status = 'running'",
    inputs: `SELECT caller, sum(input_bytes) AS bytes FROM jobs
      WHERE status IN ('queued', 'running') AND input_bytes > 0 GROUP BY caller`,
    counts: 'SELECT status, jobs FROM counts',
    lastService: 'SELECT max(service) AS service FROM jobs',
    turnsOf: `SELECT type, service FROM jobs
      WHERE caller = $caller AND service IS NOT NULL ORDER BY service DESC LIMIT 1000`,

    start: `UPDATE jobs
      SET status = 'running', attempts = attempts + 1, started_at = $now, service = $service, returned = 0
      WHERE id = $id AND status = 'queued' RETURNING *`,
    overtake: 'UPDATE jobs SET overtaken = overtaken + 1 WHERE id IN (SELECT value FROM json_each($ids))',
    end: `UPDATE jobs
      SET status = $status, error_code = $error_code, error_message = $error_message, bytes = $bytes, finished_at = $now
      WHERE id = $id AND status = 'running' RETURNING *`,
    cancelQueued: `UPDATE jobs SET status = 'cancelled', finished_at = $now
      WHERE id = $id AND status = 'queued' RETURNING *`,
    markCancelling: "UPDATE jobs SET cancelling = 1 WHERE id = $id AND status = 'running' RETURNING *",
    giveBack: `UPDATE jobs SET status = 'queued', returned = 1, started_at = NULL, attempts = attempts - 1
      WHERE id = $id AND status = 'running' RETURNING *`,
    retry: `UPDATE jobs SET status = 'queued', returned = 1, started_at = NULL, engine_crashes = engine_crashes + 1
      WHERE id = $id AND status = 'running' AND engine_crashes + 1 < $most RETURNING *`,
    retryAfterDeath: "UPDATE jobs SET status = 'queued', returned = 1, started_at = NULL, " +
      `server_deaths = server_deaths + 1
      WHERE id = $id AND status = 'running' AND server_deaths + 1 < $most RETURNING *`,

    images: `SELECT job, number AS "index", width, height, bytes, seed FROM images
      WHERE job IN (SELECT value FROM json_each($sequences)) ORDER BY job, number`,
    imageFile: 'SELECT file FROM images WHERE job = (SELECT sequence FROM jobs WHERE id = $id) AND number = $number',
    insertImage: `INSERT INTO images (job, number, file, width, height, bytes, seed)
      VALUES ($job, $number, $file, $width, $height, $bytes, $seed)`,
    setResult: 'UPDATE jobs SET result = $result WHERE sequence = $sequence RETURNING *',
    keepsImages: 'SELECT 1 FROM jobs WHERE id = $id AND bytes > 0',
    kept: 'SELECT coalesce(sum(bytes), 0) AS amount FROM kept',
    keptUnits: 'SELECT coalesce(sum(units), 0) AS amount FROM kept',
    keptAbove: 'SELECT caller, bytes AS amount FROM kept WHERE bytes > $most',
    mostBytes: 'SELECT caller, bytes AS amount FROM kept ORDER BY bytes DESC',
    mostUnits: 'SELECT caller, units AS amount FROM kept ORDER BY units DESC',
    withImages: `SELECT sequence, id, created_at, finished_at, units, bytes FROM jobs
      WHERE caller = $caller AND finished_at IS NOT NULL AND bytes > 0 ORDER BY finished_at, sequence LIMIT $limit`,
    withoutImages: `SELECT sequence, id, created_at, finished_at, units, bytes FROM jobs
      WHERE caller = $caller AND finished_at IS NOT NULL AND bytes = 0 ORDER BY finished_at, sequence LIMIT $limit`,
    oldWithoutImages: `SELECT sequence, id, created_at, finished_at, units, bytes FROM jobs
      WHERE caller = $caller AND finished_at IS NOT NULL AND bytes = 0 AND (finished_at, sequence) <= (
        SELECT finished_at, sequence FROM jobs WHERE caller = $caller AND finished_at IS NOT NULL AND bytes = 0
        ORDER BY finished_at DESC, sequence DESC LIMIT 1 OFFSET $spare)
      ORDER BY finished_at, sequence LIMIT $limit`,
    keptOfAll: 'SELECT id, created_at, bytes FROM jobs WHERE bytes > 0 ORDER BY finished_at LIMIT $limit',
    dropImages: `DELETE FROM images
      WHERE job IN (SELECT sequence FROM jobs WHERE id IN (SELECT value FROM json_each($ids)))`,
    dropBytes: 'UPDATE jobs SET bytes = 0 WHERE id IN (SELECT value FROM json_each($ids))',

    findKey: `SELECT request_hash AS hash, jobs.id FROM idempotency_keys JOIN jobs ON sequence = job
      WHERE idempotency_keys.caller = $caller AND key = $key AND idempotency_keys.created_at > $after`,
    insertKey: `INSERT OR REPLACE INTO idempotency_keys (caller, key, request_hash, job, created_at)
      VALUES ($caller, $key, $hash, $job, $created_at)`,
    dropKeys: 'DELETE FROM idempotency_keys WHERE created_at <= $before',

    insertWebhook: 'INSERT INTO webhooks (job, url, caller) VALUES ($job, $url, $caller)',
    pendingWebhooks: `SELECT (SELECT count(*) FROM webhooks WHERE caller = $caller) AS own,
      (SELECT count(*) FROM webhooks) AS "all"`,
    // From one caller to the next in the index, however many webhooks each has.
    callersWithDueWebhooks: `WITH RECURSIVE callers (caller) AS (
        SELECT min(caller) FROM webhooks
        UNION ALL SELECT (SELECT min(caller) FROM webhooks WHERE caller > callers.caller)
        FROM callers WHERE caller IS NOT NULL
      ), first (caller, due_at) AS (
        SELECT caller, (
          SELECT min(due_at) FROM webhooks WHERE webhooks.caller = callers.caller AND due_at IS NOT NULL) FROM callers
        WHERE caller IS NOT NULL
      ) SELECT caller FROM first WHERE due_at <= $now ORDER BY due_at`,
    dueWebhooks: `SELECT sequence, id, url, tries FROM webhooks JOIN jobs ON sequence = job
      WHERE webhooks.caller = $caller AND due_at <= $now ORDER BY due_at LIMIT $limit`,
    nextWebhook: 'SELECT min(due_at) AS due_at FROM webhooks WHERE due_at > $now',
    postponeWebhook: 'UPDATE webhooks SET tries = tries + 1, due_at = $due_at WHERE job = $sequence',
    forgetWebhook: 'DELETE FROM webhooks WHERE job = $sequence',

    unended: "SELECT id, owner FROM jobs WHERE status = 'queued' OR (status = 'running' AND cancelling = 0)",
    endedBefore: 'SELECT id, created_at FROM jobs WHERE finished_at < $before ORDER BY finished_at LIMIT $limit',
    remove: `DELETE FROM jobs WHERE id IN (SELECT value FROM json_each($ids))
      AND status IN ('completed', 'failed', 'cancelled')`
  }
  return Object.fromEntries(Object.entries(all).map(([name, sql]) => [name, database.prepare(sql)])) as
    Record<keyof typeof all, Statement>
}

/** The first rows that have `excess` of something together. */
function firstOf (rows: unknown[], what: 'units' | 'bytes', excess: number): EndedRow[] {
  const first = []
  for (const row of rows as EndedRow[]) {
    if (excess <= 0) break
    excess -= row[what]
    first.push(row)
  }
  return first
}

/**
 * What each caller has to give so that `excess` is gone and only those lose anything that keep most.
 * @param shares those who have most first.
 */
function fairShares (shares: Iterable<Share>, excess: number): Array<Share & { take: number }> {
  const largest: Share[] = []
  let sum = 0
  for (const share of shares) {
    // Those before can give enough without one of them getting more than one below this share.
    if (largest.length > 0 && sum - largest.length * (share.amount - 1) >= excess) break
    largest.push(share)
    sum += share.amount
  }
  const level = Math.max(0, Math.floor((sum - excess) / largest.length))
  return largest.flatMap(share => {
    const take = Math.min(share.amount - level, excess)
    excess -= Math.max(take, 0)
    return take > 0 ? [{ ...share, take }] : []
  })
}

/** What `pick` takes of the callers who have most, until `excess` is gone. */
function ofLargest (
  largestFirst: Statement, what: 'units' | 'bytes', excess: number,
  pick: (share: Share & { take: number }) => EndedRow[]
): EndedRow[] {
  const picked: EndedRow[] = []
  for (const share of fairShares(largestFirst.iterate() as Iterable<unknown> as Iterable<Share>, excess)) {
    if (excess <= 0) break
    const rows = pick(share)
    for (const row of rows) excess -= row[what]
    picked.push(...rows)
  }
  return picked
}

function toRemovable ({ id, created_at: createdAt }: EndedRow): Removable {
  return { id, created_at: isoTime(createdAt) }
}

function parseCursor (cursor: string): number {
  if (!/^\d{1,15}$/.test(cursor)) throw wrongCursor(cursor)
  return Number(cursor)
}
