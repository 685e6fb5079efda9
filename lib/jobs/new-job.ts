import { createHash, randomInt } from 'node:crypto'
import { apiError } from '../../errors.ts'
import { imageTypes, jobTypes, type Attachments, type NewJob } from './job.ts'
import { quoted } from '../util/text.ts'

/** The rules for every submission, even one that was checked before, and what is derived from it. */

const longestKey = 255
const longestName = 1024
/** Bytes of the parameters as JSON; what crosses to an engine may have 1 MiB. */
const mostParameterBytes = 256 * 1024
const mostAttachments = 16
/** Bytes of all attachments of one job; what crosses to an engine may have 256 MiB. */
const mostAttachmentBytes = 128 * 1024 * 1024
const attachmentName = /^[a-z][a-z0-9_]{0,47}(\.\d{1,2})?$/

/** An Idempotency-Key and what it stands for. */
export interface Idempotency {
  key: string
  /** Digest of the request, the same for a retry. */
  requestHash: string
}

/** @throws {ApiError} SDR_INVALID_REQUEST, SDR_BODY_TOO_LARGE */
export function checkNewJob (job: NewJob, attachments: Attachments): void {
  const { type, owner, caller = owner, model, priority = 0, parameters, idempotencyKey: key } = job
  expect(jobTypes.includes(type), `type is one of ${jobTypes.join(', ')}`, type)
  expect(isName(owner), `owner has 1 to ${longestName} characters`, owner)
  expect(isName(caller), `caller has 1 to ${longestName} characters`, caller)
  expect(isName(model), `model has 1 to ${longestName} characters`, model)
  expect(Number.isInteger(priority) && Math.abs(priority) <= 10, 'priority is a whole number from -10 to 10', priority)
  expect(key === undefined || (key.length > 0 && key.length <= longestKey),
    `Idempotency-Key has 1 to ${longestKey} characters`, key)

  const entries = Object.entries(attachments)
  for (const [name] of entries) expect(attachmentName.test(name), 'an attachment has the name of a parameter', name)
  expect(entries.length <= mostAttachments, `a job takes at most ${mostAttachments} images`, entries.length)
  atMost(Buffer.byteLength(JSON.stringify(parameters)), mostParameterBytes, 'The parameters of a job')
  atMost(bytesOf(attachments), mostAttachmentBytes, 'The images of a job')
}

export function bytesOf (attachments: Attachments): number {
  return Object.values(attachments).reduce((sum, { byteLength }) => sum + byteLength, 0)
}

/** Chosen seeds stay below this, because some programs that read them know no larger ones. */
const mostChosenSeed = 2 ** 31

/**
 * The parameters with a seed: chosen here when it is missing or −1, for the types of jobs that draw. Image n of a batch
 * has seed + n.
 */
export function withSeed ({ type, parameters }: NewJob): Record<string, unknown> {
  const { seed, batch_count: images = 1 } = parameters
  const isGiven = seed !== undefined && seed !== null && seed !== -1
  return type === 'upscale' || !imageTypes.some(drawn => drawn === type) || isGiven
    ? parameters
    : { ...parameters, seed: randomInt(mostChosenSeed - Number(images)) }
}

export function toIdempotency (job: NewJob, attachments: Attachments): Idempotency | undefined {
  const { idempotencyKey: key, type, model, priority, parameters, request } = job
  if (key === undefined) return undefined
  const hash = createHash('sha256').update(JSON.stringify(sorted([type, request ?? [model, priority, parameters]])))
  for (const name of Object.keys(attachments).sort()) {
    hash.update(`\0${name}\0${attachments[name]!.byteLength}\0`).update(attachments[name]!)
  }
  return { key, requestHash: hash.digest('hex') }
}

/** The same value with the fields of its objects in one order: their order in a request means nothing. */
function sorted (value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted)
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(Object.entries(value)
    .sort(([a], [b]) => a < b ? -1 : 1)
    .map(([key, item]) => [key, sorted(item)]))
}

function isName (value: string): boolean {
  return value.length > 0 && value.length <= longestName
}

function expect (isKept: boolean, rule: string, received: unknown): void {
  if (isKept) return
  throw apiError('SDR_INVALID_REQUEST', `Expected that ${rule}, but received ${quoted(received)}.`)
}

function atMost (bytes: number, most: number, what: string): void {
  if (bytes <= most) return
  throw apiError('SDR_BODY_TOO_LARGE', `${what} may have ${most} bytes together; these have ${bytes}.`)
}
