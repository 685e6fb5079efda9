import { CommandError, exitCodes } from '../../errors.ts'

/** What the routes of this server begin with. */
const ownSegments = ['api', 'v1', 'sdapi', 'sign-in', 'metrics']

/**
 * For proxies that show the server below a path and pass it on, and for those that take it off.
 * @param basePath of --base-path: segments of letters, digits and - . _ ~, none of them `.` or `..`,
 *   the first not one that a route of this server begins with
 * @returns gives the URL of a request without it
 * @throws {CommandError} (usage)
 */
export function withoutBasePath (basePath: string | undefined): (url: string) => string {
  if (basePath === undefined) return url => url
  if (!/^(?:\/(?!\.{1,2}(?:\/|$))[\w.~-]+)+$/.test(basePath)) {
    throw new CommandError(exitCodes.usage,
      'Expected a path such as /draw, without a slash at its end, for --base-path ' +
      `but received ${JSON.stringify(basePath)}`)
  }
  const [, first = ''] = basePath.split('/')
  if (ownSegments.includes(first)) {
    throw new CommandError(exitCodes.usage, 'Expected a path that the API does not have itself for --base-path ' +
      `but received ${JSON.stringify(basePath)}: it could not be told from /${first} of the API`)
  }
  return url => {
    if (!url.startsWith(basePath)) return url
    const rest = url.slice(basePath.length)
    return rest === '' || rest.startsWith('?') ? `/${rest}` : rest.startsWith('/') ? rest : url
  }
}
