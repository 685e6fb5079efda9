import type { Header } from '../headers/header.ts'
import type { ArchitectureName } from './architectures.ts'
import { unetNames, unetOfTextWidth } from './architecture-rules.ts'

/**
 * What an adapter (LoRA and its relatives) is and which base model it was trained for, by the names and shapes of its
 * tensors: those of kohya-ss, LyCORIS, PEFT, diffusers, XLabs and the original releases. Names that several families
 * share are told apart by widths and numbers of blocks; where these leave it open, the base is null.
 */

/** Endings of names in adapters only: LoRA, LoHa, LoKr, full differences, and kinds that the engine does not apply. */
const adapterName = new RegExp([
  '^(?:lora|lycoris)_[a-z\\d]+_', '[._]lora\\d?[._](?:up|down|mid|A|B|linear)(?:$|[._])', '\\.hada_[wt]\\d',
  '\\.lokr_[wt]\\d', '\\.(?:diff|diff_b|dora_scale|on_input|ia3_l)$', '\\.b?oft_(?:R|blocks|diag)(?:$|\\.)'
].join('|'))
/** Factors beside weights of another data type come first in a file, however many there are. */
const factorEnding = '.alpha'

/** All tensors of an adapter have similar names, so the first ones suffice, which saves time on checkpoints. */
const namesToLookAt = 64

/** Kinds of adapters that the engine loads without an effect, by their patterns. */
const withoutEffect: ReadonlyArray<readonly [kind: string, pattern: RegExp]> = [
  ['an XLabs LoRA', /[._]processor[._]\w*lora\d[._](?:down|up)\b/],
  ['an OFT adapter', /\.b?oft_(?:R|blocks|diag)(?:$|\.)/],
  ['an IA3 adapter', /\.(?:on_input|ia3_l)$/],
  ['a GLoRA', /\.[ab][12]\.weight$/]
]

/** Whether this is an adapter. */
export function isAdapter ({ tensors }: Header): boolean {
  let seen = 0
  for (const name of tensors.keys()) {
    if (name.endsWith(factorEnding)) continue
    if (adapterName.test(name)) return !isQuantizedBranch(name, tensors)
    if (++seen === namesToLookAt) return false
  }
  return false
}

/** SVDQuant keeps a low-rank branch beside its quantized weights, which makes the file no adapter. */
function isQuantizedBranch (name: string, tensors: Header['tensors']): boolean {
  const branch = name.lastIndexOf('.lora_')
  return branch !== -1 && tensors.has(`${name.slice(0, branch)}.qweight`)
}

/** The base model of an adapter, and why the engine can't use it. */
export function inspectAdapter (header: Header): { architecture: ArchitectureName | null, unsupported?: string } {
  const names = new AdapterNames(header)
  const kind = withoutEffect.find(([, pattern]) => names.has(pattern))?.[0]
  return {
    architecture: baseOf(names, claimedBase(header)),
    ...kind !== undefined && {
      unsupported: `This is ${kind}; the engine applies LoRA, LoHa, LoKr and full differences only.`
    }
  }
}

/** The base of weights that are named as adapters name them. */
export function baseByNames (header: Header): ArchitectureName | null {
  return baseOf(new AdapterNames(header), claimedBase(header))
}

/** Bounds of names for regular expressions; known adapters have 3,000 names of 130 characters. */
const namesToMatch = 4096
const nameToMatch = 256

/** Widths of published models are larger. */
const smallestWidth = 64

const number = /(?<![^._])\d+(?![^._])/g
const inputEnding = /lora\d?(?:_linear_layer)?[._](?:down|A)(?:\.\w+){0,2}$|\.hada_w1_b$|\.diff$|\.lokr_w1(?:_b)?$/
const outputEnding = /lora\d?(?:_linear_layer)?[._](?:up|B)(?:\.\w+){0,2}$|\.hada_w1_a$|\.diff$/

/** The names of an adapter, and those with `#` in place of numbers, which are few. */
class AdapterNames {
  readonly #tensors: Header['tensors']
  readonly #names: string[] = []
  /** The first name of each pattern. */
  readonly #patterns = new Map<string, string>()

  constructor ({ tensors }: Header) {
    this.#tensors = tensors
    for (const name of tensors.keys()) {
      if (name.length > nameToMatch || name.endsWith(factorEnding)) continue
      if (this.#names.push(name) === namesToMatch) break
      const pattern = name.replace(number, '#')
      if (!this.#patterns.has(pattern)) this.#patterns.set(pattern, name)
    }
  }

  has (pattern: RegExp): boolean {
    for (const known of this.#patterns.keys()) if (pattern.test(known)) return true
    return false
  }

  /** Whether a name itself fits, with its numbers. */
  hasName (pattern: RegExp): boolean {
    return this.#names.some(name => pattern.test(name))
  }

  /** The largest number that the group of the pattern finds in names; −1 when it finds none. */
  highest (pattern: RegExp): number {
    return this.#names.reduce((highest, name) => Math.max(highest, Number(pattern.exec(name)?.[1] ?? -1)), -1)
  }

  /** Widths of the inputs of modules whose pattern fits. */
  inputs (module: RegExp): Set<number> {
    return this.#widths(module, inputEnding, name => this.#inputOf(name))
  }

  /** Widths of the outputs of modules whose pattern fits. */
  outputs (module: RegExp): Set<number> {
    return this.#widths(module, outputEnding, name => this.#tensors.get(name)!.shape[0])
  }

  #widths (module: RegExp, ending: RegExp, widthOf: (name: string) => number | undefined): Set<number> {
    const widths = new Set<number>()
    for (const [pattern, name] of this.#patterns) {
      const width = module.test(pattern) && ending.test(pattern) ? widthOf(name) : undefined
      if (width !== undefined && width >= smallestWidth) widths.add(width)
    }
    return widths
  }

  #inputOf (name: string): number | undefined {
    const width = this.#tensors.get(name)!.shape[1]
    const kronecker = name.lastIndexOf('.lokr_w1')
    if (kronecker === -1) return width
    const module = name.slice(0, kronecker)
    const other = this.#tensors.get(`${module}.lokr_w2`) ?? this.#tensors.get(`${module}.lokr_w2_b`)
    return width === undefined || other?.shape[1] === undefined ? undefined : width * other.shape[1]
  }
}

const mentions = (name: string): RegExp => new RegExp(`(?:^|[._])${name}`)
const unetBlock = mentions('(?:(?:down|up|input|output)_blocks|mid_block|middle_block)[._]')
const fluxBlock = mentions('(?:double|single)_blocks[._]#[._]')
const jointBlock = mentions('joint_blocks[._]#[._]')
const diffusersBlock = mentions('(?:single_|joint_)?transformer_blocks[._]#[._]')
const plainBlock = mentions('blocks[._]#[._]')
const layer = mentions('(?:layers|noise_refiner|context_refiner)[._]#[._](?:attention|feed_forward)[._]')

/** What the file says of itself: null for a family that this server does not know, undefined when it says nothing. */
type Claim = ArchitectureName | null | undefined

function baseOf (names: AdapterNames, claim: Claim): ArchitectureName | null {
  for (const [block, base] of families) if (names.has(block)) return base(names, claim)
  return baseByTextEncoder(names) ?? claim ?? null
}

/** Tried in order, because the later names are parts of the earlier ones. */
const families: ReadonlyArray<readonly [block: RegExp, base: typeof unetBase]> = [
  [unetBlock, unetBase],
  [fluxBlock, fluxBase],
  [jointBlock, jointBase],
  [diffusersBlock, diffusersBase],
  [plainBlock, wanBase],
  [layer, layerBase]
]

const videoLayer = /[._](?:motion_modules|temporal_\w+|time_stack|time_mixer)[._]/
const textAttention = /attn2[._](?:processor[._])?to_[kv]/
/** A UNet of SD 1 and 2 has one such block at each place, one of SDXL up to ten. */
const furtherBlock = /transformer_blocks[._][1-9]\d?[._]/

function unetBase (names: AdapterNames, claim: Claim): ArchitectureName | null {
  if (names.has(videoLayer)) return null
  const [width] = names.inputs(textAttention)
  if (width !== undefined) return unetOfTextWidth(width) ?? null
  const known = names.hasName(furtherBlock) ? 'sdxl' : baseByTextEncoder(names)
  return known ?? among(unetNames, claim)
}

/** Only SDXL has a second text encoder in such files, and only SD 1 and 2 have one without a number. */
function baseByTextEncoder (names: AdapterNames): ArchitectureName | undefined {
  if (names.has(/^lora_te2_|(?:^|[._])text_encoder_2[._]/)) return 'sdxl'
  const [width] = names.inputs(/^lora_te_text_model_/)
  return width === 768 ? 'sd1' : width === 1024 ? 'sd2' : undefined
}

const fluxNames = ['flux1', 'flux2', 'chroma', 'chroma_radiance'] as const
const fluxWidth = 3072
const flux2Widths = [4096, 6144]
/** FLUX.1 has 19 and 38 blocks of its two kinds, HunyuanVideo 20 and 40 of the same names and widths. */
const fluxBlocks = { double: 19, single: 38 }

function fluxBase (names: AdapterNames, claim: Claim): ArchitectureName | null {
  if (names.has(/double_stream_modulation|single_stream_modulation/)) return 'flux2'
  if (names.has(hunyuanModule)) return null
  const widths = names.inputs(/(?:img|txt)_attn[._](?:qkv|proj)|[._]linear1[._]|[._]processor[._]/)
  if (flux2Widths.some(width => widths.has(width)) || hasGatedMlp(names)) return 'flux2'
  if (widths.size > 0 && !widths.has(fluxWidth)) return null
  const isLonger = names.highest(/double_blocks[._](\d+)[._]/) >= fluxBlocks.double ||
    names.highest(/single_blocks[._](\d+)[._]/) >= fluxBlocks.single
  if (isLonger) return null
  return fluxLike(names, claim)
}

const hunyuanModule =
  /[._](?:img|txt)_mlp[._](?:fc\d|gate_proj)|_mod[._]linear|modulation[._]linear|token_refiner|(?:img|txt)_attn_[qkv][._]/

/** The small FLUX.2 is as wide as FLUX.1, but its feed-forward layers are gated. */
function hasGatedMlp (names: AdapterNames): boolean {
  return names.outputs(/_mlp[._]#[._]/).has(6 * fluxWidth) || names.inputs(/_mlp[._]#[._]/).has(3 * fluxWidth) ||
    names.outputs(/[._]linear1[._]/).has(9 * fluxWidth) || names.inputs(/[._]linear2[._]/).has(4 * fluxWidth)
}

/** What looks like FLUX.1 may be for a relative that was made of it, which only the file can tell. */
function fluxLike (names: AdapterNames, claim: Claim): ArchitectureName | null {
  if (names.has(/distilled_guidance_layer/)) return 'chroma'
  return claim === undefined ? 'flux1' : among(fluxNames, claim)
}

function jointBase (names: AdapterNames): ArchitectureName | null {
  return widthsAmong(names.inputs(/_block[._]attn[._]qkv/), sd3Widths) ? 'sd3' : null
}

/** SD 3 medium and 3.5 medium, 3.5 large. */
const sd3Widths = [1536, 2432]

function diffusersBase (names: AdapterNames, claim: Claim): ArchitectureName | null {
  if (names.has(/to_qkv_mlp_proj|[._]ff(?:_context)?[._]linear_in|_stream_modulation/)) return 'flux2'
  // AuraFlow, and networks that attend to image and text in turn: LTX, Cosmos, PixArt.
  if (names.has(/joint_transformer_blocks|[._]attn[12][._]|single_transformer_blocks[._]#[._]ff[._]/)) return null
  const widths = names.inputs(/[._]attn[._](?:to_[qkv]|add_[qkv]_proj)[._]/)
  if (names.has(/transformer_blocks[._]#[._](?:img|txt)_(?:mod|mlp)[._]/)) {
    return widthsAmong(widths, [fluxWidth]) ? 'qwen_image' : null
  }
  if (flux2Widths.some(width => widths.has(width))) return 'flux2'
  const double = names.highest(/(?<!single_)transformer_blocks[._](\d+)[._]/)
  if (names.has(/single_transformer_blocks/)) {
    const isLonger = double >= fluxBlocks.double ||
      names.highest(/single_transformer_blocks[._](\d+)[._]/) >= fluxBlocks.single
    return isLonger || !widthsAmong(widths, [fluxWidth]) ? null : fluxLike(names, claim)
  }
  if (sd3Widths.some(width => widths.has(width))) return 'sd3'
  if (!widths.has(fluxWidth)) return claim ?? null
  if (double > fluxBlocks.double) return 'qwen_image'
  const isFlux = double === fluxBlocks.double - 1 || names.has(/[._]norm1(?:_context)?[._]linear|[._]ff(?:_context)?[._]net/)
  return isFlux ? fluxLike(names, claim) : claim ?? null
}

const wanWidths = [1536, 3072, 5120]

function wanBase (names: AdapterNames, claim: Claim): ArchitectureName | null {
  const attention = /(?:^|[._])blocks[._]#[._](?:cross|self)_attn[._](?:[qkvo]|[kv]_img)\./
  if (names.has(attention)) return widthsAmong(names.inputs(attention), wanWidths) ? 'wan' : null
  // As diffusers names them, which other networks share.
  const widths = names.inputs(/(?:^|\.)blocks\.#\.attn[12]\./)
  if (widths.size > 0) return widthsAmong(widths, wanWidths) ? 'wan' : null
  return among(['wan'], claim)
}

const zImageWidth = 3840

function layerBase (names: AdapterNames, claim: Claim): ArchitectureName | null {
  const widths = names.inputs(/[._]attention[._]|[._]feed_forward[._]w[13][._]/)
  if (widths.size === 0) return claim === undefined ? 'z_image' : among(['z_image'], claim)
  return widths.has(zImageWidth) ? 'z_image' : null
}

/** Whether the widths, if any are known, are of these. */
function widthsAmong (widths: Set<number>, known: readonly number[]): boolean {
  return widths.size === 0 || known.some(width => widths.has(width))
}

function among (known: readonly ArchitectureName[], claim: Claim): ArchitectureName | null {
  return claim !== undefined && claim !== null && known.includes(claim) ? claim : null
}

/** Names of the base model in the metadata of trainers, tried in order; null for what this server does not know. */
const baseModelNames: ReadonlyArray<readonly [name: RegExp, architecture: ArchitectureName | null]> = [
  [/hunyuan|lumina|anima|cosmos|pixart|ltx|kolors|ideogram|krea|aura|hidream|sana|cascade|cog|refiner|video-diff/i, null],
  [/flux[-_. ]?2/i, 'flux2'], [/chroma/i, 'chroma'], [/flux/i, 'flux1'], [/qwen[-_ ]?image/i, 'qwen_image'],
  [/z[-_ ]?image/i, 'z_image'], [/\bwan/i, 'wan'], [/stable-diffusion-v?3|sd_?v?3/i, 'sd3'],
  [/sdxl|diffusion-xl/i, 'sdxl'], [/stable-diffusion-v2|sd_?v?2/i, 'sd2'], [/stable-diffusion-v1|sd_?v?1/i, 'sd1']
]
const claimLength = 200

function claimedBase ({ metadata }: Header): Claim {
  const text = metadata.get('modelspec.architecture') ?? metadata.get('ss_base_model_version') ?? ''
  return baseModelNames.find(([pattern]) => pattern.test(String(text).slice(0, claimLength)))?.[1]
}
