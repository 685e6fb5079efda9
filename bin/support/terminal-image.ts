import { basename } from 'node:path'

/** How a terminal is told to show an image. */
type TerminalProtocol = 'kitty' | 'iterm2'

/** Bytes of base64 in one escape sequence of kitty's protocol. */
const chunkSize = 4096

/**
 * What the terminal can show, from the variables that it sets; undefined for others. Inside tmux and screen it is
 * undefined, too: they swallow what they do not know.
 */
export function terminalProtocol (
  environment: Readonly<Record<string, string | undefined>>
): TerminalProtocol | undefined {
  const { TERM = '', TERM_PROGRAM = '', KITTY_WINDOW_ID, TMUX, STY } = environment
  if (TMUX !== undefined || STY !== undefined || /^(screen|tmux)/.test(TERM)) return undefined
  if (
    KITTY_WINDOW_ID !== undefined || TERM === 'xterm-kitty' || TERM === 'xterm-ghostty' || TERM_PROGRAM === 'ghostty'
  ) return 'kitty'
  if (['iTerm.app', 'WezTerm', 'mintty'].includes(TERM_PROGRAM)) return 'iterm2'
  return undefined
}

/** @param png the bytes of a PNG file. @returns the escape sequences that show it where the cursor is */
export function inlineImage (protocol: TerminalProtocol, png: Uint8Array, file: string): string {
  const data = Buffer.from(png).toString('base64')
  if (protocol === 'iterm2') {
    const name = Buffer.from(basename(file)).toString('base64')
    return `\x1b]1337;File=name=${name};size=${png.length};inline=1:${data}\x07`
  }
  const chunks = data.match(new RegExp(`.{1,${chunkSize}}`, 'g')) ?? []
  // a=T transmits and shows, f=100 is PNG, q=2 keeps the terminal from answering into the next prompt.
  return chunks.map((chunk, index) =>
    `\x1b_G${index === 0 ? 'a=T,f=100,q=2,' : ''}m=${Number(index < chunks.length - 1)};${chunk}\x1b\\`).join('')
}
