/** Characters of one text of an engine that are kept. */
export const longestText = 2000

const shortEscapes: Readonly<Record<string, string>> = { '\n': '\\n', '\r': '\\r', '\t': '\\t' }

/**
 * A text of an engine process as one line of a bounded length: control, direction and line-breaking characters are
 * escaped, so that it can neither begin a line of the log nor move the cursor of a terminal.
 */
export function oneLine (text: string, longest = longestText): string {
  const kept = text.length > longest ? `${text.slice(0, longest)}…` : text
  return kept.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, escaped)
}

function escaped (character: string): string {
  return shortEscapes[character] ?? `\\u{${character.codePointAt(0)!.toString(16)}}`
}
