import { apiError, type ApiError } from '../../errors.ts'
import { shortened } from '../util/text.ts'

/** The routes of the application: what is said of a URL or a method that none of them takes. */
export class KnownRoutes {
  readonly #routes: Array<{ method: string, pattern: RegExp }> = []

  add ({ method, url }: { method: string | string[], url: string }): void {
    // Preflights are no business of a route, and with --cors-origins they match every URL.
    const pattern = patternOf(url)
    for (const one of [method].flat()) if (one !== 'OPTIONS') this.#routes.push({ method: one, pattern })
  }

  /** @returns SDR_METHOD_NOT_ALLOWED when a route has this URL, else SDR_NOT_FOUND */
  errorFor ({ method, url }: { method: string, url: string }): ApiError {
    const path = url.split('?', 1)[0]!
    const methods = this.#methodsOf(path)
    if (methods.length > 0 && !methods.includes(method)) {
      const expected = `${methods.join(' or ')} for ${shortened(path)}`
      return apiError('SDR_METHOD_NOT_ALLOWED', `Expected ${expected} but received ${method}.`,
        { allow: methods.join(', ') })
    }
    const tidy = path.replaceAll(/\/{2,}/g, '/').replace(/(.)\/$/, '$1')
    const hint = tidy === path ? '' : `; it has ${path.includes('//') ? 'two slashes in a row' : 'a slash at its end'}`
    const advice = hint !== '' && this.#methodsOf(tidy).length > 0 ? `: the URL is ${shortened(tidy)}` : ''
    return apiError('SDR_NOT_FOUND', `There is no ${method} ${path.slice(0, 200)}${hint}${advice}.`)
  }

  /** The methods that the URL of a route takes; none for any other URL. */
  #methodsOf (path: string): string[] {
    return [...new Set(this.#routes.filter(({ pattern }) => pattern.test(path)).map(({ method }) => method))].sort()
  }
}

function patternOf (url: string): RegExp {
  const parts = url.split(/(:\w+|\*)/).map(part => {
    if (part === '*') return '.+'
    return part.startsWith(':') ? '[^/]+' : part.replaceAll(/[.+?^${}()|[\]\\]/g, '\\$&')
  })
  return new RegExp(`^${parts.join('')}$`, 's')
}
