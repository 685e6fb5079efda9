import { createHmac, timingSafeEqual } from 'node:crypto'
import { apiError, type ApiError } from '../../../errors.ts'
import { isJobId } from '../../jobs/job.ts'
import { outputFormats } from '../../media/output.ts'

type Format = typeof outputFormats[number]

export interface LinkedImage {
  job: string
  index: number
  format: Format
  /** 1…100, of JPEG and WebP. */
  quality?: number
}

interface LinkQuery {
  expires: number
  quality?: number
  signature: string
}

/** Characters of an HMAC-SHA256 in base64url. */
export const signatureLength = 43

/** For a link that is not ours, was changed, or whose owner is gone. */
export function badLink (): ApiError {
  return apiError('SDR_FORBIDDEN', 'This link to an image is not valid.')
}

/** Links to one image each, which count for a time without credentials. */
export class SignedLinks {
  readonly #secret: string
  readonly #seconds: number
  readonly #now: () => number

  /** @param now milliseconds since 1970 */
  constructor (secret: string, minutes: number, now: () => number = Date.now) {
    this.#secret = secret
    this.#seconds = minutes * 60
    this.#now = now
  }

  /** The end of a URL: a file name and a query. */
  sign ({ job, index, format, quality }: LinkedImage): string {
    const name = `${job}-${index}.${format}`
    const expires = Math.floor(this.#now() / 1000) + this.#seconds
    const query = new URLSearchParams({
      expires: String(expires),
      ...(quality !== undefined && { quality: String(quality) }),
      signature: this.#signature(name, expires, quality)
    })
    return `${name}?${query.toString()}`
  }

  /** @throws {ApiError} SDR_FORBIDDEN for a link that is not ours, was changed, or has expired */
  check (name: string, { expires, quality, signature }: LinkQuery): LinkedImage {
    const [, job = '', index = '', format = ''] = /^([\da-f-]{36})-(\d{1,2})\.(\w{1,8})$/.exec(name) ?? []
    const expected = Buffer.from(this.#signature(name, expires, quality))
    const given = Buffer.from(signature)
    const isOurs = given.length === expected.length && timingSafeEqual(given, expected)
    if (!isOurs || !isJobId(job) || !(outputFormats as readonly string[]).includes(format)) {
      throw badLink()
    }
    if (expires <= this.#now() / 1000) throw apiError('SDR_FORBIDDEN', 'This link to an image has expired.')
    return { job, index: Number(index), format: format as Format, quality }
  }

  #signature (name: string, expires: number, quality: number | undefined): string {
    return createHmac('sha256', this.#secret).update(`${name}\n${expires}\n${quality ?? ''}`).digest('base64url')
  }
}
