import { apiError, CommandError, exitCodes, type ApiError } from '../../errors.ts'
import { isPublic } from '../http/public-paths.ts'
import { permissionsOf, type Declaration } from '../http/route-needs.ts'
import type { Options } from '../options/options.ts'
import { rolePermissions, type Permission } from '../options/permissions.ts'
import { chain, type Maybe } from '../util/maybe.ts'
import type { ApiKeys } from './api-keys.ts'
import { readCredential, type Credential } from './credentials.ts'
import { readSessionCookie, type CookieRequest } from './session-cookie.ts'
import { OpenAnswers, type OpenAnswer } from './open-answers.ts'
import { guestPrincipal, isNarrowKey, isExpiringKey, type Principal } from './principals.ts'
import type { SessionRecords } from './store/store.ts'

/** A request as the guard sees it. */
export interface GuardedRequest extends CookieRequest {
  method: string
  is404: boolean
  routeOptions: {
    url?: string
    config: Omit<Declaration, 'public'> & { isLasting?: boolean }
    schema?: Pick<Declaration, 'public'>
  }
  raw: { rawHeaders: readonly string[] }
  principal: Principal
  credential: Credential | undefined
}

/**
 * Finds out who sent a credential.
 * @returns undefined for a credential of another kind.
 * @throws {ApiError} (401) for one of this kind that is not valid.
 */
export type Identify = (credential: Credential) => Maybe<Principal> | undefined

/** Sets the principal of a request, or says why not. */
type Verifier<Request> = (request: Request, reply: unknown, done: (error?: Error) => void) => void

/** Makes @fastify/auth ask the next verifier; no client ever sees it. */
const otherKind = new Error('not a credential of this kind')

interface GuardParts<Request> {
  /** One verifier from several: the first that lets a request in does, else the last one's error counts. */
  anyOf: (verifiers: Array<Verifier<Request>>) => Verifier<Request>
  options: Pick<Options, 'auth' | 'basePath' | 'guestPermissions' | 'enableGuestAccess'>
  publicRoutes: ReadonlySet<string>
  sessions: SessionRecords
  keys: ApiKeys
  /** Hears of each decision; `error` is why the request is refused. */
  decided: (request: Request, error: ApiError | undefined) => void
  /** Counts and records a refused request. @returns the error to answer: a 429 after too many */
  refused: (request: Request, error: ApiError) => Promise<ApiError>
}

type Account = Pick<Principal, 'id' | 'source'>

/** For a valid credential whose account `accepts` rejects. */
export function notAccepted (): ApiError {
  return apiError('SDR_INVALID_TOKEN', 'The system account of this credential is not let in, or not any more.')
}

/**
 * Decides about each request: valid credentials with the permission that the route declares, or a public route, or a
 * guest. Unknown URLs belong to no route and are never public.
 */
export class Guard<Request extends GuardedRequest, Reply extends OpenAnswer & { request: Request }> {
  /** Whether the system still lets one of its accounts in; set by the methods that ask a system. */
  systemAccepts: (account: Account) => boolean = () => false
  readonly openAnswers = new OpenAnswers<Reply>(({ request }) => this.#hasEnded(request), ended)
  readonly #parts: GuardParts<Request>
  readonly #guest: Principal
  /** Why the verifier of its kind rejected the credential of a request. */
  readonly #errors = new WeakMap<Request, Error>()

  /** @throws {CommandError} (usage) when guests could make accounts */
  constructor (parts: GuardParts<Request>) {
    this.#parts = parts
    const { guestPermissions } = parts.options
    if (guestPermissions.includes('users:manage')) {
      throw new CommandError(exitCodes.usage,
        'With users:manage in --guest-permissions any guest could make an administrator; leave it out')
    }
    this.#guest = guestPrincipal(guestPermissions as Permission[])
  }

  /** Whether an account counts at present: one of the system only while the system lets it in. */
  accepts (account: Account): boolean {
    return account.source === 'local' || this.systemAccepts(account)
  }

  /**
   * The onRequest hook of a method. It calls `done` at once when nothing has to be asked, so that a request that is let
   * in costs no turn of the event loop.
   */
  hook (identifiers: readonly Identify[], { allowsGuests = this.#parts.options.enableGuestAccess } = {}) {
    const authenticate = this.#parts.anyOf([
      ...identifiers.map(identify => this.#verifier(identify)), this.#anonymousVerifier(allowsGuests)
    ])
    return (request: Request, reply: Reply, done: (error?: Error) => void): void => {
      const decided = (error: ApiError | undefined): void => {
        this.#parts.decided(request, error)
        if (error === undefined) {
          this.openAnswers.watch(reply)
          done()
        } else {
          this.#parts.refused(request, error).then(done, done)
        }
      }
      try {
        if (request.routeOptions.config.carriesCredentials !== true) {
          request.credential = readCredential(request.raw.rawHeaders) ??
            readSessionCookie(request, this.#parts.options.basePath)
        }
      } catch (error) {
        return decided(error as ApiError)
      }
      authenticate(request, reply, error =>
        decided(error as ApiError | undefined ?? this.#authorize(request, request.principal)))
    }
  }

  /**
   * Decides again about a request that has waited since the guard let it in.
   * @throws {ApiError} 401 or 403
   */
  decideAgain (request: Request): Maybe<void> {
    return chain(this.#principalNow(request), principal => {
      if (principal === undefined) throw ended()
      const error = this.#authorize(request, principal)
      if (error !== undefined) throw error
      request.principal = principal
    })
  }

  readonly #accepted = (principal: Principal): Principal => {
    if (!this.accepts(principal)) throw notAccepted()
    return principal
  }

  #verifier (identify: Identify): Verifier<Request> {
    return (request, _reply, done) => {
      const { credential } = request
      if (credential === undefined || this.#errors.has(request)) return done(otherKind)
      const rejected = (error: unknown) => {
        this.#errors.set(request, error as Error)
        done(error as Error)
      }
      const identified = (principal: Principal) => {
        request.principal = principal
        done()
      }
      let found: Maybe<Principal> | undefined
      try {
        found = identify(credential)
        if (found !== undefined) found = chain(found, this.#accepted)
      } catch (error) {
        return rejected(error)
      }
      // Not inside of the try: what `done` goes on to is not this verifier's.
      if (found === undefined) done(otherKind)
      else if (found instanceof Promise) found.then(identified, rejected)
      else identified(found)
    }
  }

  #anonymousVerifier (allowsGuests: boolean): Verifier<Request> {
    return (request, _reply, done) => {
      if (request.credential !== undefined) {
        return done(this.#errors.get(request) ?? apiError('SDR_INVALID_TOKEN',
          `With --auth ${this.#parts.options.auth} this server takes no ${request.credential.kind}.`))
      }
      if (!this.#isPublic(request) && !(allowsGuests && !request.is404)) return done(apiError('SDR_UNAUTHENTICATED'))
      request.principal = this.#guest
      done()
    }
  }

  /** Denies what no declaration allows. */
  #authorize (request: Request, principal: Principal): ApiError | undefined {
    const { config, schema } = request.routeOptions
    if (config.isLasting === true && isExpiringKey(principal)) {
      return apiError('SDR_FORBIDDEN',
        'This API key expires, so it changes neither accounts nor passwords: that would outlast it.')
    }
    if (request.is404 || this.#isPublic(request)) return undefined
    const needed = permissionsOf(config)
    if (config.needsAccount === true) {
      if (principal.via === 'guest') {
        return apiError('SDR_UNAUTHENTICATED', 'This works on an account, and guests have none.')
      }
      if (needed.length === 0) {
        return isNarrowKey(principal)
          ? apiError('SDR_FORBIDDEN',
            'This API key may do less than its owner, so it does not reach the account itself.')
          : undefined
      }
    }
    const isPermitted = needed.some(permission => principal.permissions.includes(permission))
    if (isPermitted || config.anyCaller === true || schema?.public === true) return undefined
    if (needed.length === 0) return apiError('SDR_INTERNAL', 'No declaration says who may call this route.')
    return apiError('SDR_FORBIDDEN',
      `This needs the permission ${needed.join(' or ')}, ` +
      `which ${principal.username} (${principal.role}) does not have.`,
      { scope: needed.join(' ') })
  }

  #isPublic (request: Request): boolean {
    return isPublic(this.#parts.publicRoutes, request)
  }

  /** Who the credential of a request stands for now; undefined when it has ended, or `accepts` rejects its account. */
  #principalNow ({ principal }: Request): Maybe<Principal | undefined> {
    const { id, sessionId, keyId } = principal
    const { sessions, keys } = this.#parts
    const accepted = (now: Principal | undefined) => now !== undefined && this.accepts(now) ? now : undefined
    if (keyId !== undefined) return chain(keys.principalOf(keyId), accepted)
    if (sessionId === undefined) return principal
    return chain(sessions.activeUser(sessionId, id), user => accepted(user &&
      { ...principal, username: user.username, role: user.role, permissions: rolePermissions[user.role] }))
  }

  /**
   * Whether the caller of an open answer may not have it any more. It may also have lost a permission that the route
   * does not ask for but that lets it see the jobs of others. A caller who still may comes back.
   */
  #hasEnded (request: Request): Maybe<boolean> {
    return chain(this.#principalNow(request), now =>
      now === undefined || this.#authorize(request, now) !== undefined ||
      request.principal.permissions.some(permission => !now.permissions.includes(permission)))
  }
}

function ended (): ApiError {
  return apiError('SDR_INVALID_TOKEN', 'The session or key of this request has ended.')
}
