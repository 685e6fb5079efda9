import { checkNegativePrompt, readPrompt, replaceEmbeddings, type LoraRequest } from './prompt.ts'
import { aboutField, badValue, requireFeature } from '../http/refusals.ts'
import type { ImageRequest, Setting } from './request.ts'

interface Prompts {
  prompt: string
  negative_prompt: string
  /** By their ids; absent when there are none. */
  loras?: LoraRequest[]
}

/**
 * The prompts as an engine reads them, and the LoRAs of the list and of the prompt.
 * @throws {ApiError} SDR_INVALID_REQUEST, SDR_MODEL_NOT_FOUND, SDR_UNSUPPORTED_MODEL, SDR_UNSUPPORTED_FEATURE
 */
export function resolvePrompts (
  { prompt = '', negative_prompt: negative = '', loras: listed = [] }: ImageRequest, setting: Setting
): Prompts {
  const { text, loras: inPrompt } = readPrompt(prompt, setting.limits)
  checkNegativePrompt(negative)
  const loras = resolveLoras([...listed.map(({ name, weight = 1 }) => ({ name, weight })), ...inPrompt], setting)
  return {
    prompt: replaceEmbeddings(text, name => embeddingName('prompt', name, setting)),
    negative_prompt: replaceEmbeddings(negative, name => embeddingName('negative_prompt', name, setting)),
    ...(loras.length > 0 && { loras })
  }
}

/** The weights of one that is named twice are added; what has no weight is left out. */
function resolveLoras (
  wanted: readonly LoraRequest[], { catalog, engine, limits: { maxLoras } }: Setting
): LoraRequest[] {
  if (wanted.length > 0) requireFeature('lora', engine, 'loras')
  if (wanted.length > maxLoras) {
    throw badValue('loras', `at most ${maxLoras} entries (--max-loras), with those of the prompt,`, wanted.length)
  }
  const weights = new Map<string, number>()
  for (const { name, weight } of wanted) {
    const { id } = aboutField('loras', () => catalog.resolve(name, { types: ['lora'] }))
    weights.set(id, rounded((weights.get(id) ?? 0) + weight))
  }
  const loras = [...weights].map(([name, weight]) => ({ name, weight })).filter(({ weight }) => weight !== 0)
  if (loras.length > 1) requireFeature('multiple_loras', engine, 'loras')
  if (loras.some(({ weight }) => weight !== 1)) requireFeature('lora_weight', engine, 'loras.weight')
  return loras
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
