import { apiError, unexpected } from '../../errors.ts'
import type { AccountRole } from '../options/permissions.ts'
import { quoted } from '../util/text.ts'
import { examplePassword, passwordLength, type PasswordHasher } from './passwords.ts'
import type { Account, AccountRecords, Actor, CheckedAccount } from './store/store.ts'

/** What a user name may be. Nothing that could break a log line, a terminal or a path. */
export const usernamePattern = '^[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}$'

/** What is looked at as a user name at all: a system may have names that no local account can have. */
export const loginNamePattern = '^[^\\p{C}\\p{Zl}\\p{Zp}]{1,255}$'
const loginName = new RegExp(loginNamePattern, 'u')

/** Whether a text can be the name of an account; one with control or direction characters can't. */
export function isLoginName (text: string): boolean {
  return loginName.test(text)
}

/** The rules of accounts: how they are named, and their passwords. */
export class Accounts {
  readonly #records: AccountRecords
  readonly #hasher: PasswordHasher

  constructor (records: AccountRecords, hasher: PasswordHasher) {
    this.#records = records
    this.#hasher = hasher
  }

  /**
   * @param by who must still be allowed to when the account is stored
   * @throws SDR_INVALID_REQUEST for a bad name or password; what `AccountRecords.add` throws
   */
  async create (
    { username, password, role }: { username: string, password: string, role: AccountRole }, by?: Actor
  ): Promise<Account> {
    checkUsername(username)
    checkPassword(password)
    return await this.#records.add({ username, role, hash: await this.#hasher.hash(password) }, by)
  }

  /**
   * The local account of that name when the password is right and it is not disabled; all else is the same undefined.
   * It is as it was before the check, so what follows from it has to be stored on condition of the hash.
   */
  async verify (username: string, password: string): Promise<CheckedAccount | undefined> {
    const found = await this.#records.findWithHash(username)
    const isRight = await this.#hasher.verify(password, found?.hash)
    return isRight && found?.user.disabled === false ? found : undefined
  }

  /**
   * Changes the password of an account whose old one was right, unless that has been changed meanwhile.
   * @throws SDR_INVALID_REQUEST; what `AccountRecords.setHash` throws
   */
  async changePassword (account: CheckedAccount, next: string, by: Actor): Promise<void> {
    checkPassword(next)
    await this.#records.setHash(account, await this.#hasher.hash(next), by)
  }

  /**
   * Changes an account; what is left out stays.
   * @param by who must still be allowed to when the change is stored
   * @throws SDR_CONFLICT for what the system decides of its accounts; what `AccountRecords.change` throws
   */
  async update (
    id: string, { role, disabled, password }: { role?: AccountRole, disabled?: boolean, password?: string }, by?: Actor
  ): Promise<Account> {
    if (password !== undefined) checkPassword(password)
    if ((await this.#records.get(id)).source !== 'local') {
      if (password !== undefined) {
        throw apiError('SDR_CONFLICT', 'This account belongs to the operating system; change its password there.')
      }
      if (role !== undefined) {
        throw apiError('SDR_CONFLICT',
          'This account belongs to the operating system; --admin-users and --admin-groups decide its role.')
      }
    }
    const hash = password === undefined ? undefined : await this.#hasher.hash(password)
    return await this.#records.change(id, { role, disabled, hash }, by)
  }
}

function checkUsername (username: string): void {
  if (!new RegExp(usernamePattern).test(username)) {
    throw apiError('SDR_INVALID_REQUEST',
      `Expected 1 to 64 letters, digits and . _ - @ for username but received ${quoted(username)}`)
  }
}

function checkPassword (password: string): void {
  if (password === examplePassword) {
    throw unexpected({
      field: 'password', expected: 'a password of your own', received: 'the example of the documentation'
    })
  }
  const { minimum, maximum } = passwordLength
  if (password.length < minimum || password.length > maximum) {
    throw apiError('SDR_INVALID_REQUEST',
      `Expected ${minimum} to ${maximum} characters for password but received ${password.length}`)
  }
}
