const shortEscapes: Readonly<Record<string, string>> = { '\n': '\\n', '\r': '\\r', '\t': '\\t' }

/**
 * The first code units and "…" of a longer text, never half of a character, which not every client can read as JSON.
 * @param longest in code units
 */
export function shortened (text: string, longest = 80): string {
  return text.length > longest ? `${text.slice(0, longest).replace(/[\ud800-\udbff]$/, '')}…` : text
}

/** A received value for a message: as short JSON that cannot disturb a terminal. `longest` in code units. */
export function quoted (value: unknown, longest = 80): string {
  if (typeof value === 'string') return visible(JSON.stringify(shortened(value, longest)))
  return visible(shortened(JSON.stringify(value) ?? String(value), longest))
}

/** Characters that move the cursor or turn the writing direction, and the one that stands for what is not text. */
// eslint-disable-next-line no-control-regex
export const unprintable = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufffd]/g

/**
 * A text for a terminal. Characters that move the cursor, turn the writing direction or are invisible become escapes of
 * JSON, so JSON stays JSON. Line ends and tabs stay.
 */
export function visible (text: string): string {
  return text.replace(/(?![\n\t])[\p{C}\p{Zl}\p{Zp}]/gu, escape)
}

/** As `visible`, with line ends and tabs escaped too: the text cannot begin a line of a log. */
export function visibleField (text: string): string {
  return visible(text).replace(/[\n\t]/g, escape)
}

/** One line of fields, with a tab between two. */
export function visibleRow (fields: readonly string[]): string {
  return fields.map(visibleField).join('\t').trimEnd()
}

/** A character beyond U+FFFF is two of these. */
function escape (character: string): string {
  return shortEscapes[character] ??
    character.replace(/[^]/g, unit => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

/** Why the system refused something, without the error's code and call: `no such file or directory`. */
export function systemReason (error: unknown): string {
  const { message } = error as Error
  return /^E[A-Z]+: ([^,]+), /.exec(message)?.[1] ?? message
}
