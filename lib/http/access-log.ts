import { readablePattern } from './public-paths.ts'

interface DecidedRequest {
  id: string
  method: string
  routeOptions: { url?: string }
  principal?: { username: string, via: string, keyId?: string }
  credential?: { kind: string }
}

/** The route of a request as people write it (`/api/queue/job/{id}`); null for an unknown URL. */
export function routeOf ({ routeOptions: { url } }: Pick<DecidedRequest, 'routeOptions'>): string | null {
  return url === undefined ? null : readablePattern(url)
}

/** The line that --verbose writes for each request: what the guard decided, and why. */
export function decisionLine (
  request: DecidedRequest, { auth, isPublic, error }: { auth: string, isPublic: boolean, error?: Error }
): object {
  const { id, method, credential, principal } = request
  return {
    request_id: id,
    method,
    route: routeOf(request),
    public: isPublic,
    auth,
    credential: credential?.kind ?? null,
    principal: principal?.username ?? null,
    decision: error === undefined ? 'allow' : 'refuse',
    reason: error?.message ?? reasonToAllow(principal, isPublic)
  }
}

function reasonToAllow (principal: DecidedRequest['principal'], isPublic: boolean): string {
  switch (principal?.via) {
    case undefined: return 'preflight of a configured origin'
    case 'none': return 'every caller is the operator'
    case 'guest': return isPublic ? 'public route' : 'guests are let in'
    case 'jwt': return 'valid token'
    default: return `valid API key ${principal?.keyId}`
  }
}
