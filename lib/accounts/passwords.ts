import { randomBytes, scrypt as scryptCallback, timingSafeEqual } from 'node:crypto'
import { availableParallelism } from 'node:os'
import { promisify } from 'node:util'
import { Gate } from '../util/gate.ts'

const scrypt =
  promisify<string, Buffer, number, { N: number, r: number, p: number, maxmem: number }, Buffer>(scryptCallback)

export const passwordLength = { minimum: 8, maximum: 1024 } as const

/** Stands in the examples of the OpenAPI document; one that is sent as it is must not make an account. */
export const examplePassword = 'YOUR-PASSWORD'

const hashBytes = 32
const saltBytes = 16
const blockSize = 8

/** Hashes at once. At least half of the processors, and of the four threads for files and name lookups, stay free. */
const concurrency = Math.min(2, Math.max(1, Math.floor(availableParallelism() / 2)))

/** Hashes that may wait for each that runs, at half a second each: none waits longer than a client does. */
const waitingForEach = 15

/**
 * Hashes and checks passwords with scrypt, kept as PHC strings (`$scrypt$ln=17,r=8,p=1$salt$hash`).
 * One hash takes 128 MiB and half a second of a pool thread at the default cost, so few run at once.
 */
export class PasswordHasher {
  readonly #cost: number
  readonly #gate = new Gate({ running: concurrency, waiting: concurrency * waitingForEach, what: 'logins' })
  /** Looks like the hash of a password, and is one of none. */
  readonly #decoy: string

  /** @param cost log₂ of scrypt's N, 10…20; 17 is what OWASP's password storage cheat sheet asks for. */
  constructor (cost = 17) {
    this.#cost = cost
    this.#decoy = this.#phc(randomBytes(saltBytes), randomBytes(hashBytes))
  }

  async hash (password: string): Promise<string> {
    const salt = randomBytes(saltBytes)
    return this.#phc(salt, await this.#derive(password, salt, this.#cost, blockSize, 1))
  }

  /** Whether the password is right. A missing hash (no such account) takes as long as a wrong password. */
  async verify (password: string, phc: string | null | undefined): Promise<boolean> {
    const match = /^\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([\w+/]+)\$([\w+/]+)$/.exec(phc ?? this.#decoy)
    if (match === null) throw new Error('A stored password is not a scrypt PHC string')
    const [, cost, size, parallel, salt, hash] = match as unknown as [string, string, string, string, string, string]
    const expected = Buffer.from(hash, 'base64')
    const actual = await this.#derive(
      password, Buffer.from(salt, 'base64'), Number(cost), Number(size), Number(parallel))
    return timingSafeEqual(actual, expected) && phc != null
  }

  #phc (salt: Buffer, hash: Buffer): string {
    return `$scrypt$ln=${this.#cost},r=${blockSize},p=1$${base64(salt)}$${base64(hash)}`
  }

  #derive (password: string, salt: Buffer, cost: number, r: number, p: number): Promise<Buffer> {
    const N = 2 ** cost
    // NFKC, so that a password typed on another keyboard or system gives the same bytes (RFC 8265).
    return this.#gate.run('', () =>
      scrypt(password.normalize('NFKC'), salt, hashBytes, { N, r, p, maxmem: 256 * N * r }))
  }
}

function base64 (bytes: Buffer): string {
  return bytes.toString('base64').replaceAll('=', '')
}
