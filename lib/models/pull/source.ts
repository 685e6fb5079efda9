import { apiError } from '../../../errors.ts'
import { badValue } from '../../http/request-errors.ts'
import { checkFileName } from '../files/file-name.ts'
import { quoted } from '../../util/text.ts'

export interface PullSource {
  /** As given, for jobs and messages. */
  text: string
  url: URL
  /** Default name of the file; undefined when the URL does not end in the name of a model. */
  fileName: string | undefined
}

export const longestSource = 1024

/** `hf:owner/repository[@revision]/path/of/the/file` */
const hubPattern = /^hf:([\w.-]{1,96}\/[\w.-]{1,96})(?:@([\w.-]{1,128}))?\/(.+)$/

/** Query fields with a secret: of signed URLs, and of sites that take a token there. */
const secretField = /(?:^|[-_])(?:token|auth|key|apikey|secret|password|sig|signature|credential)$/i

/**
 * Parses `hf:owner/repository/file` or a URL. The request checks its host.
 * @param hub address of the Hugging Face hub or of a mirror.
 * @throws {ApiError} SDR_INVALID_REQUEST
 */
export function parseSource (text: string, hub: URL): PullSource {
  const [, repository, revision = 'main', path] = hubPattern.exec(text) ?? []
  const url = path === undefined ? parseUrl(text) : hubUrl(hub, repository!, revision, path)
  if (url === undefined || text.length > longestSource) {
    throw badValue('source', `a URL, or hf:owner/repository/file, of at most ${longestSource} characters`, text)
  }
  return { text, url, fileName: nameIn(url) }
}

function parseUrl (text: string): URL | undefined {
  const url = /^https?:\/\//i.test(text) && URL.canParse(text) ? new URL(text) : undefined
  if (url === undefined) return undefined
  // The source is stored with the job, and shown to clients that may see the job.
  if (url.username !== '' || url.password !== '') throw secretInside('its user name and password')
  const secret = [...url.searchParams.keys()].find(name => secretField.test(name))
  if (secret !== undefined) throw secretInside(`its query field ${quoted(secret)}`)
  url.hash = ''
  return url
}

function secretInside (what: string): Error {
  return apiError('SDR_INVALID_REQUEST', `source: ${what} would be kept with the job. ` +
    'Give the server the token in --pull-tokens-file, and the URL without it.', { details: { field: 'source' } })
}

function hubUrl (hub: URL, repository: string, revision: string, path: string): URL | undefined {
  const parts = path.split('/')
  if (parts.some(part => part === '' || part === '.' || part === '..')) return undefined
  const encoded = [...repository.split('/'), 'resolve', revision, ...parts].map(encodeURIComponent).join('/')
  return new URL(encoded, hub.href.endsWith('/') ? hub : `${hub.href}/`)
}

function nameIn ({ pathname }: URL): string | undefined {
  try {
    const name = decodeURIComponent(pathname.slice(pathname.lastIndexOf('/') + 1))
    return checkFileName(name) === undefined ? name : undefined
  } catch {
    return undefined // a percent sign that encodes nothing
  }
}
