import { architectureOf } from './architectures.ts'
import { unprintable } from '../../util/text.ts'
import { type Header, elementCount } from '../headers/header.ts'
import {
  type Rule, adapterName, adapterRules, adapterTextModule, baseModelNames, rules, subjectRules, unetOfTextWidth
} from './architecture-rules.ts'
import type { ModelType } from '../types.ts'

/** What the server keeps of a header. Plain data, to be cached as JSON. */
export interface Summary {
  format: Header['format']
  /** `unknown` when no rule fits. */
  type: ModelType
  architecture: string | null
  variant?: string
  /** Number of weights. */
  parameters: number
  /** The data type of most weights, or `mixed`. */
  quantization: string | null
  prediction?: string
  /** Pixels of one side that the model was trained for. */
  resolution?: number
  trigger_words?: string[]
  /** Selected texts of the metadata. */
  metadata?: Record<string, string>
}

export function inspectHeader (header: Header): Summary {
  const kind = detect(header, subjectRules) ?? detectAdapter(header) ?? detect(header, rules) ?? unknown
  const architecture = architectureOf(kind.architecture)
  return {
    format: header.format,
    ...kind,
    ...countWeights(header),
    ...optional('prediction', predictionOf(header) ?? (kind.type === 'lora' ? undefined : architecture?.prediction)),
    ...optional('resolution', resolutionOf(header)),
    ...optional('trigger_words', triggerWords(header)),
    ...optional('metadata', describeMetadata(header))
  }
}

type Kind = Pick<Summary, 'type' | 'architecture' | 'variant'>
const unknown: Kind = { type: 'unknown', architecture: null }

/** All tensors of an adapter have similar names, so the first ones suffice, which saves time on checkpoints. */
const namesToLookAt = 64

function detectAdapter (header: Header): Kind | undefined {
  let seen = 0
  for (const name of header.tensors.keys()) {
    if (adapterName.test(name)) return { type: 'lora', architecture: adapterArchitecture(header) }
    if (++seen === namesToLookAt) return undefined
  }
}

/** Bounds of names for regular expressions; known adapters have 3,000 names of 130 characters. */
const namesToMatch = 4096
const nameToMatch = 256

function adapterArchitecture (header: Header): string | null {
  const names = [...header.tensors.keys()].slice(0, namesToMatch).filter(({ length }) => length <= nameToMatch)
  const textModule = names.find(name => adapterTextModule.test(name))
  const byWidth = textModule === undefined ? undefined : unetOfTextWidth(header.tensors.get(textModule)!.shape[1])
  if (byWidth !== undefined) return byWidth
  const byName = adapterRules.find(([, pattern]) => names.some(name => pattern.test(name)))
  if (byName !== undefined) return byName[0]
  const claimed = header.metadata.get('modelspec.architecture') ?? header.metadata.get('ss_base_model_version') ?? ''
  return baseModelNames.find(([pattern]) => pattern.test(String(claimed)))?.[1] ?? null
}

function detect (header: Header, rules: readonly Rule[]): Kind | undefined {
  for (const rule of rules) {
    if (!(rule.prefixes ?? ['']).some(prefix => fits(rule, prefix, header))) continue
    const { type, architecture, variant } = rule
    return {
      type: type === 'diffusion' && holdsMoreThanDiffusion(header) ? 'checkpoint' : type,
      architecture,
      ...optional('variant', variant)
    }
  }
}

function fits (rule: Rule, prefix: string, { tensors }: Header): boolean {
  const has = (name: string): boolean => tensors.has(prefix + name)
  if (!rule.has.every(names => typeof names === 'string' ? has(names) : names.some(has))) return false
  if (rule.lacks?.some(has) === true) return false
  return (rule.lengths ?? []).every(({ of, axis, is }) => {
    const measured = of.find(has)
    return measured !== undefined && tensors.get(prefix + measured)!.shape[axis] === is
  })
}

const otherParts = /^(?:cond_stage_model|conditioner|text_encoders?|te|first_stage_model|vae)\./

function holdsMoreThanDiffusion (header: Header): boolean {
  for (const name of header.tensors.keys()) if (otherParts.test(name)) return true
  return false
}

/** Share of the weights that one data type must have; the others are norms and biases, with finer types. */
const dominantShare = 0.8

function countWeights (header: Header): Pick<Summary, 'parameters' | 'quantization'> {
  const byType = new Map<string, number>()
  let parameters = 0
  for (const [name, { dtype, shape }] of header.tensors) {
    const count = elementCount(name, shape)
    parameters += count
    byType.set(dtype, (byType.get(dtype) ?? 0) + count)
  }
  const [dtype, count] = [...byType].sort((a, b) => b[1] - a[1])[0] ?? ['', 0]
  if (count === 0) return { parameters, quantization: null }
  return { parameters, quantization: count >= parameters * dominantShare ? dtype : 'mixed' }
}

function predictionOf ({ tensors, metadata }: Header): string | undefined {
  if (tensors.has('edm_vpred.sigma_max')) return 'edm_v'
  if (tensors.has('v_pred')) return 'v'
  const claimed = metadata.get('modelspec.prediction_type')
  if (claimed === 'epsilon') return 'eps'
  if (claimed === 'v') return 'v'
}

function resolutionOf ({ metadata }: Header): number | undefined {
  for (const key of ['modelspec.resolution', 'ss_resolution']) {
    const [first] = /\d{2,5}/.exec(String(metadata.get(key) ?? '').slice(0, 100)) ?? []
    if (first !== undefined) return Number(first)
  }
}

const wordsKept = 20
const wordLength = 200

function triggerWords ({ metadata }: Header): string[] | undefined {
  const phrase = metadata.get('modelspec.trigger_phrase')
  const words = typeof phrase === 'string' && phrase !== '' ? [phrase] : frequentTags(metadata.get('ss_tag_frequency'))
  const kept = [...new Set(words.map(word => clean(word, wordLength)).filter(word => word !== ''))].slice(0, wordsKept)
  return kept.length === 0 ? undefined : kept
}

/** Characters; more would block the server. */
const tagsLength = 1024 * 1024

/** `ss_tag_frequency` is JSON in a text: {data set: {tag: count}}. */
function frequentTags (text: unknown): string[] {
  if (typeof text !== 'string' || text.length > tagsLength) return []
  let frequency: unknown
  try {
    frequency = JSON.parse(text)
  } catch {
    return [] // the model works without the note
  }
  const counts = new Map<string, number>()
  for (const tags of values(frequency)) {
    if (typeof tags !== 'object' || tags === null) continue
    for (const [tag, count] of Object.entries(tags)) {
      if (typeof count === 'number') counts.set(tag.trim(), (counts.get(tag.trim()) ?? 0) + count)
    }
  }
  return [...counts].sort((a, b) => b[1] - a[1]).slice(0, wordsKept).map(([tag]) => tag)
}

function values (object: unknown): unknown[] {
  return typeof object === 'object' && object !== null ? Object.values(object) : []
}

/** Metadata for clients: its name, and the keys for it, of which the first one in the file wins. */
const metadataKeys: ReadonlyArray<readonly [name: string, keys: readonly string[]]> = [
  ['title', ['modelspec.title', 'ss_output_name', 'general.name']],
  ['author', ['modelspec.author', 'general.author']],
  ['description', ['modelspec.description', 'ss_training_comment', 'general.description']],
  ['license', ['modelspec.license', 'general.license']],
  ['date', ['modelspec.date']],
  ['usage_hint', ['modelspec.usage_hint']],
  ['architecture', ['modelspec.architecture', 'general.architecture']],
  ['base_model', ['ss_base_model_version', 'ss_sd_model_name']],
  ['merged_from', ['modelspec.merged_from']],
  ['hash_sha256', ['modelspec.hash_sha256', 'sshs_model_hash']],
  ['network_module', ['ss_network_module']],
  ['network_dim', ['ss_network_dim']],
  ['network_alpha', ['ss_network_alpha']]
]
const metadataLength = 1000

function describeMetadata ({ metadata }: Header): Record<string, string> | undefined {
  const described: Record<string, string> = {}
  for (const [name, keys] of metadataKeys) {
    const value = keys.map(key => metadata.get(key)).find(value => ![undefined, '', 'None'].includes(value as string))
    if (value !== undefined) described[name] = clean(String(value), metadataLength)
  }
  return Object.keys(described).length === 0 ? undefined : described
}

/** Text from a stranger's file without control characters, bounded. */
function clean (text: string, length: number): string {
  return text.slice(0, length).replace(unprintable, ' ').replace(/\s+/g, ' ').trim()
}

function optional<Key extends string, Value> (key: Key, value: Value | undefined): { [key in Key]?: Value } {
  return (value === undefined ? {} : { [key]: value }) as { [key in Key]?: Value }
}
