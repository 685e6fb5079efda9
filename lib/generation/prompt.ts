import { badValue } from '../http/refusals.ts'

export interface LoraRequest {
  /** Id or name. */
  name: string
  weight: number
}

interface PromptParts {
  /** Without the LoRAs. */
  text: string
  loras: LoraRequest[]
}

const loraTag = /<lora:([^<>]*)>/i
const weightPattern = /^[+-]?(?:\d{1,4}(?:\.\d{0,8})?|\.\d{1,8})$/
const largestWeight = 10
/** What stable-diffusion.cpp's own server takes its parameters from: a way around every bound of this one. */
const foreignArguments = /<\s*(?:\/\s*)?sd_cpp_extra_args/i

/**
 * Takes the LoRAs out of a prompt: `a fox <lora:snow:0.8>` → `a fox` and snow with 0.8.
 * @throws {ApiError} SDR_INVALID_REQUEST
 */
export function readPrompt (prompt: string, { maxLoras }: { maxLoras: number }): PromptParts {
  refuseNul('prompt', prompt)
  const loras: LoraRequest[] = []
  let text = prompt
  // One after the other, because what is left when a tag is gone may be a tag.
  for (let tag = loraTag.exec(text); tag !== null; tag = loraTag.exec(text)) {
    loras.push(readTag(tag[1]!))
    if (loras.length > maxLoras) throw badValue('prompt', `at most ${maxLoras} LoRAs (--max-loras)`, prompt)
    const [before, after] = [text.slice(0, tag.index), text.slice(tag.index + tag[0].length)]
    text = (before + (/(^|\s)$/.test(before) ? after.trimStart() : after)).trim()
  }
  refuseForeignArguments('prompt', text)
  if (text === '') throw badValue('prompt', 'some words beside the LoRAs', prompt)
  return { text, loras }
}

/** @throws {ApiError} SDR_INVALID_REQUEST for what has no meaning in a negative prompt. */
export function checkNegativePrompt (prompt: string): void {
  refuseNul('negative_prompt', prompt)
  const [tag] = loraTag.exec(prompt) ?? []
  if (tag !== undefined) throw badValue('negative_prompt', 'no LoRA, which belongs in prompt or loras,', tag)
  refuseForeignArguments('negative_prompt', prompt)
}

const embeddingReference = /\bembedding:((?:[\p{L}\p{N}_./-]*[\p{L}\p{N}_-]))/gu

/** Replaces `embedding:name` by what `resolve` makes of the name. */
export function replaceEmbeddings (prompt: string, resolve: (name: string) => string): string {
  return prompt.replaceAll(embeddingReference, (_, name: string) => resolve(name))
}

function readTag (content: string): LoraRequest {
  const [name = '', weight = '1', ...more] = content.split(':').map(part => part.trim())
  if (name === '' || more.length > 0 || !weightPattern.test(weight) || Math.abs(Number(weight)) > largestWeight) {
    const expected = `<lora:name:weight> with a weight from −${largestWeight} to ${largestWeight}`
    throw badValue('prompt', expected, `<lora:${content}>`)
  }
  return { name, weight: Number(weight) }
}

/** It ends a text for the engines. */
function refuseNul (field: string, prompt: string): void {
  if (prompt.includes('\0')) throw badValue(field, 'a text without NUL characters', JSON.stringify(prompt))
}

function refuseForeignArguments (field: string, prompt: string): void {
  const found = foreignArguments.exec(prompt)
  if (found === null) return
  throw badValue(field, 'a text without <sd_cpp_extra_args> (parameters are fields of the request)', found[0])
}
