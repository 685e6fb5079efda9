/** One escape of a text in JSON, or several of UTF-16 in a row: halves of a character are only whole next to each other. */
const escapes = /\\[^u]|(?:\\u[\da-f]{4})+/gi

/**
 * Whether a text in JSON has a UTF-16 escape without its other half. JavaScript takes that for text, but a list with one
 * such job in it is no JSON to most others, and the engines are among them.
 */
export function hasHalfCharacter (json: string): boolean {
  if (!json.includes('\\u')) return false
  for (const [escape] of json.matchAll(escapes)) {
    if (escape[1] === 'u' && /\p{Surrogate}/u.test(JSON.parse(`"${escape}"`) as string)) return true
  }
  return false
}

/** Why a text is not valid JSON, without more of it than one character: it may hold a password. */
export function whyNotJson (text: string): string {
  if (text === '') return 'it is empty'
  try {
    JSON.parse(text)
  } catch (error) {
    // V8 quotes what is around the place.
    return (error as Error).message.replace(/(?:^|, (?:\.{3})?)".*$/s, '') || 'it is a bare word'
  }
  return 'no field may be called __proto__ or constructor.prototype'
}
