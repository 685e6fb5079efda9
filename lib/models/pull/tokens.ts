import { readFileSync, statSync } from 'node:fs'
import { CommandError, exitCodes } from '../../../errors.ts'
import { yaml } from '../../util/yaml.ts'
import { quoted } from '../../util/text.ts'

/** Bytes. */
const largestFile = 64 * 1024
const longestToken = 4096
/** What a header can carry. */
const tokenPattern = /^[\x21-\x7e]+$/

/** Tokens by the only origin that they are sent to: `https://huggingface.co`. */
export type Tokens = ReadonlyMap<string, string>

/**
 * The tokens of the options: for the Hugging Face hub, and from a file of lines `host: token`.
 * @throws {CommandError} (usage, storage) without a token in its message.
 */
export function readTokens ({ hub, hubToken, file }: { hub: URL, hubToken?: string, file?: string }): Tokens {
  const tokens = new Map<string, string>()
  if (file !== undefined) {
    for (const [host, token] of readFile(file)) {
      tokens.set(originOf(host, file), checkToken(token, `the token of ${host} in ${file}`))
    }
  }
  if (hubToken !== undefined) tokens.set(hub.origin, checkToken(hubToken, '--hf-token'))
  return tokens
}

function readFile (file: string): Array<[host: string, token: unknown]> {
  let content: unknown
  try {
    const { size, mode } = statSync(file)
    if (size > largestFile) throw new Error(`it is larger than ${largestFile} bytes`)
    if (process.platform !== 'win32' && (mode & 0o077) !== 0) throw new Error(`others can read it; chmod 600 ${file}`)
    content = yaml().parse(readFileSync(file, 'utf8'), { maxAliasCount: 0, logLevel: 'error' })
  } catch (error) {
    // The message of the parser quotes the line with the token.
    const reason = error instanceof yaml().YAMLParseError ? 'it is no YAML' : (error as Error).message
    throw new CommandError(exitCodes.storage, `The file of --pull-tokens-file cannot be read: ${reason}`)
  }
  if (typeof content === 'object' && content !== null && !Array.isArray(content)) return Object.entries(content)
  throw new CommandError(exitCodes.usage, `Expected lines like "civitai.com: TOKEN" in ${file}`)
}

function originOf (host: string, file: string): string {
  const url = `https://${host}`
  if (URL.canParse(url) && new URL(url).host === host.toLowerCase()) return new URL(url).origin
  throw new CommandError(exitCodes.usage,
    `Expected host names before the tokens in ${file} but received ${quoted(host)}`)
}

function checkToken (token: unknown, what: string): string {
  if (typeof token === 'string' && token.length <= longestToken && tokenPattern.test(token)) return token
  throw new CommandError(exitCodes.usage,
    `Expected at most ${longestToken} printable characters without spaces for ${what}`)
}
