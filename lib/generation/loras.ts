import type { EngineInfo } from '../engine/engine.ts'
import type { ModelCatalog } from '../models/catalog.ts'
import type { LoraRequest } from './prompt.ts'
import { aboutField, badValue, requireFeature } from './refusals.ts'

/**
 * The LoRAs of a request by their ids; the weights of one that is named twice are added, what has no weight is left out.
 * @throws {ApiError} SDR_MODEL_NOT_FOUND, SDR_UNSUPPORTED_MODEL, SDR_UNSUPPORTED_FEATURE, SDR_INVALID_REQUEST
 */
export function resolveLoras (
  wanted: readonly LoraRequest[],
  { catalog, engine, limits: { maxLoras } }: { catalog: ModelCatalog, engine: EngineInfo, limits: { maxLoras: number } }
): LoraRequest[] {
  if (wanted.length > 0) requireFeature('lora', engine, 'loras')
  if (wanted.length > maxLoras) throw badValue('loras', `at most ${maxLoras} entries (--max-loras), those of the prompt included`, wanted.length)
  const weights = new Map<string, number>()
  for (const { name, weight } of wanted) {
    const lora = aboutField('loras', () => catalog.resolve(name, { types: ['lora'] }))
    weights.set(lora.id, (weights.get(lora.id) ?? 0) + weight)
  }
  const loras = [...weights].map(([name, weight]) => ({ name, weight: rounded(weight) })).filter(({ weight }) => weight !== 0)
  if (loras.length > 1) requireFeature('multiple_loras', engine, 'loras')
  if (loras.some(({ weight }) => weight !== 1)) requireFeature('lora_weight', engine, 'loras.weight')
  return loras
}

/** 0.1 + 0.2 is 0.3. */
function rounded (weight: number): number {
  return Math.round(weight * 1e6) / 1e6
}
