import { architectureOf } from './architectures.ts'
import { unprintable } from '../../util/text.ts'
import { type Header, elementCount } from '../headers/header.ts'
import { type Rule, networkRules, partRules, subjectRules, unetOfTextWidth } from './architecture-rules.ts'
import { baseByNames, inspectAdapter, isAdapter } from './adapters.ts'
import type { ModelType } from '../types.ts'

/** What the server keeps of a header. Plain data, to be cached as JSON. */
export interface Summary {
  format: Header['format']
  /** `unknown` when no rule fits. */
  type: ModelType
  architecture: string | null
  variant?: string
  /** Why the engine can't use the file. */
  unsupported?: string
  /** Whether a checkpoint has no VAE, though its architecture needs one. */
  lacks_vae?: true
  /** Channels of the latent image that a VAE decodes. */
  latent_channels?: number
  /** Bytes of all files of a sharded model. */
  size?: number
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
  const { byType, ...weights } = countWeights(header)
  const foreign = foreignWeights(header, byType)
  const kind = detect(header, subjectRules) ?? detectAdapter(header) ?? detect(header, networkRules) ??
    detectUnknownCheckpoint(header) ?? detect(header, partRules) ?? detectEmbedding(header) ?? foreign?.kind ?? unknown
  const architecture = architectureOf(kind.architecture)
  return {
    format: header.format,
    ...kind,
    ...weights,
    ...foreign?.quantization !== undefined && { quantization: foreign.quantization },
    ...optional('unsupported', foreign?.unsupported ?? kind.unsupported),
    ...optional('latent_channels', kind.type === 'vae' ? latentChannels(header) : undefined),
    ...optional('prediction', predictionOf(header) ??
      (withPrediction.includes(kind.type) ? architecture?.prediction : undefined)),
    ...optional('resolution', resolutionOf(header)),
    ...optional('trigger_words', triggerWords(header)),
    ...optional('metadata', describeMetadata(header))
  }
}

type Kind = Pick<Summary, 'type' | 'architecture' | 'variant' | 'unsupported' | 'lacks_vae'>
const withPrediction: readonly ModelType[] = ['checkpoint', 'diffusion', 'controlnet']
const unknown: Kind = { type: 'unknown', architecture: null }

function detectAdapter (header: Header): Kind | undefined {
  return isAdapter(header) ? { type: 'lora', ...inspectAdapter(header) } : undefined
}

function detect (header: Header, rules: readonly Rule[]): Kind | undefined {
  for (const rule of rules) {
    if (!(rule.prefixes ?? ['']).some(prefix => fits(rule, prefix, header))) continue
    const { type, architecture, variant, unsupported } = rule
    return {
      type,
      architecture,
      ...optional('variant', variant),
      ...optional('unsupported', unsupported),
      ...type === 'diffusion' && partsBeside(header, architecture)
    }
  }
}

function fits (rule: Rule, prefix: string, { tensors }: Header): boolean {
  if (rule.mark !== undefined && !tensors.has(rule.mark)) return false
  const has = (name: string): boolean => tensors.has(prefix + name)
  if (!rule.has.every(names => typeof names === 'string' ? has(names) : names.some(has))) return false
  if (rule.lacks?.some(has) === true) return false
  return (rule.lengths ?? []).every(({ of, axis, is, optional = false }) => {
    const name = of.find(has)
    const measured = name === undefined ? undefined : tensors.get(prefix + name)
    // Packed weights have shapes of their own.
    return measured === undefined || measured.dtype === 'U8' ? optional : measured.shape[axis] === is
  })
}

const encoderName = /^(?:cond_stage_model|conditioner|text_encoders?(?:_\d)?|te\d?)\./
const vaeName = /^(?:first_stage_model|vae)\./

/**
 * What a file is that has a network in it: a whole checkpoint only if it has a text encoder, because the engine may
 * crash without one.
 */
function partsBeside (header: Header, architecture: string | null): Pick<Summary, 'type' | 'lacks_vae'> {
  const { hasEncoder, hasVae } = partsOf(header)
  if (!hasEncoder && (architecture !== null || !hasVae)) return { type: 'diffusion' }
  const needed = architectureOf(architecture)?.components ?? []
  const needsVae = architecture !== null && (needed.length === 0 || needed.includes('vae'))
  return { type: 'checkpoint', ...needsVae && !hasVae && { lacks_vae: true } }
}

function partsOf ({ tensors }: Header): { hasEncoder: boolean, hasVae: boolean } {
  const found = { hasEncoder: false, hasVae: false }
  for (const name of tensors.keys()) {
    found.hasEncoder ||= encoderName.test(name)
    found.hasVae ||= vaeName.test(name)
    if (found.hasEncoder && found.hasVae) break
  }
  return found
}

const networkName = /^(?:model\.diffusion_model|diffusion_model|model|unet|transformer|dit|net)\./
/** Left over from training. */
const restName = /^(?:loss|model_ema|denoiser|discriminator)\./

/** A network that no rule knows, with a VAE or text encoders beside it. */
function detectUnknownCheckpoint (header: Header): Kind | undefined {
  const { hasEncoder, hasVae } = partsOf(header)
  if (!hasEncoder && !hasVae) return undefined
  for (const name of header.tensors.keys()) {
    const isOther = hasVae
      ? name.includes('.') && !vaeName.test(name) && !encoderName.test(name) && !restName.test(name)
      : networkName.test(name)
    if (!isOther) continue
    const unsupported = 'It is a checkpoint of an architecture that this server does not know.'
    return { type: 'checkpoint', architecture: null, unsupported }
  }
}

/** Vectors of one word; other small files have other widths. */
const mostVectors = 256

/** An embedding of diffusers: one tensor, whose name is the word. */
function detectEmbedding ({ tensors }: Header): Kind | undefined {
  const [{ shape }] = tensors.size === 1 ? tensors.values() as unknown as [{ shape: number[] }] : [{ shape: [] }]
  const [width = 0, vectors = 1, ...more] = shape.toReversed()
  if (vectors > mostVectors || more.length > 0) return undefined
  const architecture = unetOfTextWidth(width)
  if (architecture === 'sd1' || architecture === 'sd2') return { type: 'embedding', architecture }
  if (width === 1280) return { type: 'embedding', architecture: null }
}

/** Of the first convolution, which other VAEs call otherwise. */
function latentChannels ({ tensors }: Header): number | undefined {
  for (const prefix of ['', 'first_stage_model.', 'vae.']) {
    const first = tensors.get(`${prefix}decoder.conv_in.weight`) ?? tensors.get(`${prefix}decoder.conv1.weight`)
    if (first !== undefined) return first.shape[1]
  }
}

const fp8 = /^F8_E[45]/
const scaleName = /\.(?:scale_weight|weight_scale\w{0,16}|comfy_quant)$|(?:^|\.)scaled_fp8$/
const packedName = /\.qweight$/
const bitsandbytesName = /\.quant_state\.bitsandbytes__(?:nf4|fp4)$/

interface Foreign { unsupported: string, quantization?: string, kind?: Kind }

/** Weights in a form that the engine reads wrongly or not at all; only certain data types hide one. */
function foreignWeights (header: Header, byType: ReadonlyMap<string, number>): Foreign | undefined {
  const scaled = [...byType.keys()].find(dtype => fp8.test(dtype))
  if (scaled === undefined && !['U8', 'I8', 'I32', 'U32'].some(dtype => byType.has(dtype))) return undefined
  for (const name of header.tensors.keys()) {
    if (name.endsWith('.weight') || name.endsWith('.bias')) continue
    if (scaled !== undefined && scaleName.test(name)) {
      return {
        unsupported: 'It is scaled fp8, which this engine reads without its scales: take another version.',
        quantization: `${scaled} scaled`
      }
    }
    if (bitsandbytesName.test(name)) {
      const unsupported = 'It is quantized with bitsandbytes (NF4), which the engine can\'t read: take a GGUF version.'
      return { unsupported }
    }
    if (packedName.test(name)) {
      return {
        unsupported: 'It is quantized for another engine (SVDQuant, AWQ or GPTQ): take a GGUF version.',
        kind: kindOfPacked(header)
      }
    }
  }
}

function kindOfPacked (header: Header): Kind {
  for (const name of header.tensors.keys()) {
    if (/(?:^|\.)(?:single_)?transformer_blocks\.\d/.test(name)) {
      return { type: 'diffusion', architecture: baseByNames(header) }
    }
    if (/(?:^|\.)(?:encoder\.block|model\.layers)\.\d/.test(name)) return { type: 'text_encoder', architecture: null }
  }
  return unknown
}

/** Share of the weights that one data type must have; the others are norms and biases, with finer types. */
const dominantShare = 0.8

function countWeights (
  header: Header
): Pick<Summary, 'parameters' | 'quantization'> & { byType: ReadonlyMap<string, number> } {
  const byType = new Map<string, number>()
  let parameters = 0
  for (const [name, { dtype, shape }] of header.tensors) {
    const count = elementCount(name, shape)
    parameters += count
    byType.set(dtype, (byType.get(dtype) ?? 0) + count)
  }
  const [dtype, count] = [...byType].sort((a, b) => b[1] - a[1])[0] ?? ['', 0]
  if (count === 0) return { byType, parameters, quantization: null }
  return { byType, parameters, quantization: count >= parameters * dominantShare ? dtype : 'mixed' }
}

function predictionOf ({ tensors, metadata }: Header): string | undefined {
  if (tensors.has('edm_vpred.sigma_max')) return 'edm_v'
  if (tensors.has('v_pred')) return 'v'
  if (tensors.has('edm_mean')) return 'edm'
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
