import { shortened } from './text.ts'

/** What a text in JSON may have, whatever its length: each value costs many times the bytes that it is written with. */
export interface JsonBounds {
  /** Bytes outside of strings, the quotes included. */
  structure: number
  values: number
  /** Lists and objects within each other in one field. */
  depth: number
  /** Bytes of a string. */
  text: number
  /** Fields of the body whose strings may be longer: images. */
  longFields: readonly string[]
}

/** Several times what the longest valid request has; most routes have a much smaller body limit. */
export const jsonBounds: JsonBounds = {
  structure: 256 * 1024,
  values: 20_000,
  depth: 8,
  text: Infinity,
  longFields: []
}

/** What is wrong with a text in JSON; without `field` it is the text as a whole. */
export interface JsonFault {
  field: string
  expected: string
  received: string
}

/** Bytes of the name of a field. */
const longestName = 1024

const [quote, backslash, comma, openList, openObject, closeList, closeObject, u] = Buffer.from('"\\,[{]}u')

/**
 * Looks at a text in JSON once, from its start to its end, before anything is made of it: JSON.parse takes 56 bytes and
 * more for each `{}`. Whether the text is JSON at all is not asked here.
 * @returns what exceeds the bounds; `half` for an escape of UTF-16 without its other half. JavaScript takes that for
 *   text, but to most others a list with such a job in it is not JSON, and the engines are among them.
 */
export function findFault (json: Buffer, bounds: JsonBounds): JsonFault | 'half' | undefined {
  const { structure, values: mostValues, depth: deepest, text, longFields } = bounds
  let outside = 0
  let values = 0
  let depth = 0
  let field = 'body'
  let mayBeLong = false
  let escape = json.indexOf(backslash!) // the next one from here on, or −1
  const fault = (expected: string, received = 'more') => ({ field: shortened(field), expected, received })
  for (let at = 0; at < json.length; at++) {
    const byte = json[at]
    if (byte !== quote) {
      if (++outside > structure) return fault(`at most ${structure} bytes outside of strings`)
      if (byte === comma || byte === openList || byte === openObject) {
        if (++values > mostValues) return fault(`at most ${mostValues} values`)
        if (byte !== comma && ++depth > deepest + 1) {
          return fault(`at most ${deepest} lists and objects within each other`)
        }
      } else if (byte === closeList || byte === closeObject) {
        depth--
      }
      continue
    }
    outside += 2
    const start = ++at
    if (escape !== -1 && escape < at) escape = json.indexOf(backslash!, at)
    const end = json.indexOf(quote!, at)
    if (end !== -1 && (escape === -1 || escape > end)) at = end // an image has millions of bytes and no escape
    let high = false // a first half stands right before this place
    for (; at < json.length && json[at] !== quote; at++) {
      if (json[at] !== backslash) {
        if (high) return 'half'
        continue
      }
      at++
      const half = json[at] === u ? halfOf(json, at) : undefined
      if (high !== (half === 'second')) return 'half'
      high = half === 'first'
      if (half !== undefined) at += 4
    }
    if (high) return 'half'
    const length = at - start
    const isName = isFollowedByColon(json, at)
    if (isName && length > longestName) {
      field = Buffer.from(json.subarray(start, start + 100)).toString()
      return fault(`a name of at most ${longestName} bytes`, `one of ${length}`)
    }
    if (isName && depth === 1) {
      field = Buffer.from(json.subarray(start, at)).toString()
      mayBeLong = longFields.includes(field)
    } else if (length > text && !mayBeLong) {
      return fault(`at most ${text} bytes`, String(length))
    }
  }
  return undefined
}

/** Which half of a character outside of the basic plane the escape is whose `u` is at this place. */
function halfOf (json: Uint8Array, at: number): 'first' | 'second' | undefined {
  if (at + 4 >= json.length || (json[at + 1]! | 0x20) !== 0x64) return undefined // d or D
  const digit = Number.parseInt(String.fromCharCode(json[at + 2]!), 16)
  if (!(digit >= 8)) return undefined
  return digit < 12 ? 'first' : 'second'
}

function isFollowedByColon (json: Uint8Array, quoteAt: number): boolean {
  let at = quoteAt + 1
  while (json[at] === 0x20 || json[at] === 0x0a || json[at] === 0x0d || json[at] === 0x09) at++
  return json[at] === 0x3a
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
