const shortEscapes: Readonly<Record<string, string>> = { '\n': '\\n', '\r': '\\r', '\t': '\\t' }

/**
 * A text for a terminal: what would move its cursor, turn the direction of its writing or hide itself is written as an
 * escape of JSON, so that JSON stays JSON. Line ends and tabs stay.
 */
export function visible (text: string): string {
  return text.replace(/(?![\n\t])[\p{C}\p{Zl}\p{Zp}]/gu, escape)
}

/** As `visible`, for a text that stays on its line and in its column: it cannot begin a line of a log either. */
export function visibleField (text: string): string {
  return visible(text).replace(/[\n\t]/g, escape)
}

/** Fields of a line, which are texts that others chose, with a tab between two. */
export function visibleRow (fields: readonly string[]): string {
  return fields.map(visibleField).join('\t').trimEnd()
}

/** A character beyond U+FFFF is two of these. */
function escape (character: string): string {
  return shortEscapes[character] ??
    character.replace(/[^]/g, unit => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
}
