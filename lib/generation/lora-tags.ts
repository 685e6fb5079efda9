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
    const [before, after] = [text.slice(0, tag.index), text.slice(tag.index + tag[0].length)]
    text = (before + (/(^|\s)$/.test(before) ? after.trimStart() : after)).trim()
  }
  return { text, loras }
}

function readTag (content: string): LoraRequest {
  const [name = '', weight = '1', ...more] = content.split(':').map(part => part.trim())
  if (name === '' || more.length > 0 || !weightPattern.test(weight) || Math.abs(Number(weight)) > largestWeight) {
    const expected = `<lora:name:weight> with a weight from −${largestWeight} to ${largestWeight}`
    throw badValue('prompt', expected, `<lora:${content}>`)
  }
  return { name, weight: Number(weight) }
}
