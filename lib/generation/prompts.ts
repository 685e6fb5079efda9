import { apiError } from '../../errors.ts'
import { aboutField, badValue, requireFeature } from '../http/request-errors.ts'
import { loraTag, refuseOtherTags, takeLoraTags, type LoraRequest } from './lora-tags.ts'
import type { Model } from '../models/model.ts'
import type { ImageRequest, Setting } from './request.ts'

interface Prompts {
  prompt: string
  negative_prompt: string
  /** By their ids; undefined when there are none. */
  loras: LoraRequest[] | undefined
}

/** Where stable-diffusion.cpp's own server looks for parameters: a way around every bound of this one. */
const foreignArguments = /<\s*(?:\/\s*)?sd_cpp_extra_args/i
const embeddingReference = /\bembedding:((?:[\p{L}\p{N}_./-]*[\p{L}\p{N}_-]))/gu

/**
 * The prompts as an engine reads them, and the LoRAs of the list and of the prompt.
 * @throws {ApiError} SDR_INVALID_REQUEST, SDR_MODEL_NOT_FOUND, SDR_UNSUPPORTED_MODEL, SDR_UNSUPPORTED_FEATURE
 */
export function resolvePrompts (request: ImageRequest, model: Model, setting: Setting): Prompts {
  const { prompt = '', negative_prompt: negative = '', loras: listed = [] } = request
  const { text, loras: inPrompt } = readPrompt(prompt, setting.limits)
  checkNegativePrompt(negative)
  const loras = resolveLoras([...listed.map(({ name, weight = 1 }) => ({ name, weight })), ...inPrompt], model, setting)
  return {
    prompt: replaceEmbeddings(text, name => embeddingName('prompt', name, setting)),
    negative_prompt: replaceEmbeddings(negative, name => embeddingName('negative_prompt', name, setting)),
    loras: loras.length > 0 ? loras : undefined
  }
}

/**
 * Takes the LoRAs out of a prompt: `a fox <lora:snow:0.8>` → `a fox` and snow with 0.8.
 * @throws {ApiError} SDR_INVALID_REQUEST
 */
export function readPrompt (
  prompt: string, { maxLoras }: { maxLoras: number }
): { text: string, loras: LoraRequest[] } {
  refuseNul('prompt', prompt)
  const { text, loras } = takeLoraTags(prompt, maxLoras)
  refuseOtherTags('prompt', text)
  refuseForeignArguments('prompt', text)
  return { text, loras }
}

/** @throws {ApiError} SDR_INVALID_REQUEST for what has no meaning in a negative prompt. */
export function checkNegativePrompt (prompt: string): void {
  refuseNul('negative_prompt', prompt)
  const [tag] = loraTag.exec(prompt) ?? []
  if (tag !== undefined) throw badValue('negative_prompt', 'no LoRA, which belongs in prompt or loras,', tag)
  refuseOtherTags('negative_prompt', prompt)
  refuseForeignArguments('negative_prompt', prompt)
}

/** Replaces `embedding:name` by what `resolve` makes of the name. */
export function replaceEmbeddings (prompt: string, resolve: (name: string) => string): string {
  return prompt.replaceAll(embeddingReference, (_, name: string) => resolve(name))
}

/** Engines take NUL for the end of a text. */
function refuseNul (field: string, prompt: string): void {
  if (prompt.includes('\0')) throw badValue(field, 'a text without NUL characters', JSON.stringify(prompt))
}

function refuseForeignArguments (field: string, prompt: string): void {
  const found = foreignArguments.exec(prompt)
  if (found === null) return
  throw badValue(field, 'a text without <sd_cpp_extra_args> (parameters are fields of the request)', found[0])
}

/** Adds the weights of LoRAs that are named twice, and leaves out those of weight 0. */
function resolveLoras (
  wanted: readonly LoraRequest[], model: Model, { catalog, engine, limits: { maxLoras } }: Setting
): LoraRequest[] {
  if (wanted.length > 0) requireFeature('lora', engine, 'loras')
  if (wanted.length > maxLoras) {
    throw badValue('loras', `at most ${maxLoras} entries (--max-loras), with those of the prompt,`, wanted.length)
  }
  const weights = new Map<string, number>()
  for (const { name, weight } of wanted) {
    const { id } = aboutField('loras', () => loraFor(model, catalog.resolve(name, { types: ['lora'] })))
    weights.set(id, rounded((weights.get(id) ?? 0) + weight))
  }
  const loras = [...weights].map(([name, weight]) => ({ name, weight })).filter(({ weight }) => weight !== 0)
  if (loras.length > 1) requireFeature('multiple_loras', engine, 'loras')
  if (loras.some(({ weight }) => weight !== 1)) requireFeature('lora_weight', engine, 'loras.weight')
  return loras
}

/** Architectures that share names and widths, so that the LoRAs of one have an effect on another. */
const relatives = [['sd1', 'sdxs'], ['flux1', 'chroma', 'chroma_radiance']]

/** @throws {ApiError} SDR_UNSUPPORTED_MODEL for a LoRA that would have no effect on the model. */
function loraFor (model: Model, lora: Model): Model {
  const [its, wanted] = [model.architecture, lora.architecture]
  if (its === null || wanted === null || its === wanted) return lora
  if (relatives.some(family => family.includes(its) && family.includes(wanted))) return lora
  throw apiError('SDR_UNSUPPORTED_MODEL', `${lora.id} is made for ${wanted}, and ${model.id} is ${its}.`)
}

/** 0.1 + 0.2 is 0.3. */
function rounded (weight: number): number {
  return Math.round(weight * 1e6) / 1e6
}

/** Engines call an embedding by the name of its file. */
function embeddingName (field: string, name: string, { catalog, engine }: Setting): string {
  requireFeature('embeddings', engine, field)
  return aboutField(field, () => catalog.resolve(name, { types: ['embedding'] })).name
}
