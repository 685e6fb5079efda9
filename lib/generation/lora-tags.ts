import { badValue } from '../http/request-errors.ts'

export interface LoraRequest {
  /** Id or name. */
  name: string
  weight: number
}

export const loraTag = /<lora:([^<>]*)>/i
const weightPattern = /^[+-]?(?:\d{1,4}(?:\.\d{0,8})?|\.\d{1,8})$/
const largestWeight = 10

/**
 * Takes the LoRAs out of a prompt: `a fox <lora:snow:0.8>` → `a fox` and snow with 0.8.
 * @throws {ApiError} SDR_INVALID_REQUEST
 */
export function takeLoraTags (prompt: string, maxLoras: number): { text: string, loras: LoraRequest[] } {
  const loras: LoraRequest[] = []
  let text = prompt
  // One after the other, because what is left when a tag is gone may be a tag.
  for (let tag = loraTag.exec(text); tag !== null; tag = loraTag.exec(text)) {
    loras.push(readTag(tag[1]!))
    if (loras.length > maxLoras) throw badValue('prompt', `at most ${maxLoras} LoRAs (--max-loras)`, prompt)
    const [before, after] = withoutBrackets(text.slice(0, tag.index), text.slice(tag.index + tag[0].length))
    text = (before + (/(^|\s)$/.test(before) ? after.trimStart() : after)).trim()
  }
  return { text, loras }
}

/** A tag alone in brackets, perhaps with a weight of the brackets, leaves none of them: `(<lora:ink:1>:1.2)`. */
function withoutBrackets (before: string, after: string): [before: string, after: string] {
  const end = /^ ?(?::[\d.]{1,8})?\)/.exec(after)
  return end !== null && before.endsWith('(') ? [before.slice(0, -1), after.slice(end[0].length)] : [before, after]
}

const otherTag = /<\s{0,8}(lora|lycoris|lyco|locon|loha|lokr|hypernet)\s{0,8}:[^<>]{0,100}>?/i

/**
 * Refuses what looks like a tag and is none, which would be drawn as words.
 * @throws {ApiError} SDR_INVALID_REQUEST
 */
export function refuseOtherTags (field: string, prompt: string): void {
  const [tag, kind] = otherTag.exec(prompt) ?? []
  if (tag === undefined) return
  throw badValue(field, kind!.toLowerCase() === 'hypernet'
    ? 'no hypernetwork, which no engine here can use,'
    : '<lora:name:weight>, also for LyCORIS, without blanks before the name and with its end,', tag)
}

function readTag (content: string): LoraRequest {
  const [name = '', weight = '1', ...more] = content.split(':').map(part => part.trim())
  if (name !== '' && more.length > 0) {
    const expected = '<lora:name:weight> with one weight ' +
      '(a second one, for the text encoder or for blocks, is not supported)'
    throw badValue('prompt', expected, `<lora:${content}>`)
  }
  if (name === '' || more.length > 0 || !weightPattern.test(weight) || Math.abs(Number(weight)) > largestWeight) {
    const expected = `<lora:name:weight> with a weight from −${largestWeight} to ${largestWeight}`
    throw badValue('prompt', expected, `<lora:${content}>`)
  }
  return { name, weight: Number(weight) }
}
