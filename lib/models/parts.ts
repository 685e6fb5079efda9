import { architectureOf } from './detect/architectures.ts'
import type { Summary } from './detect/inspect.ts'

/** Text encoders and VAEs that may take each place; one of no known kind may take any. */
const kinds: Readonly<Record<string, readonly string[]>> = {
  clip_l: ['clip_l', 'clip_h'],
  clip_g: ['clip_g'],
  t5xxl: ['t5xxl'],
  llm: ['llm']
}
/** MiniT2I has a smaller T5 than all others. */
const kindsOf: Readonly<Record<string, typeof kinds>> = { minit2i: { t5xxl: ['t5', 't5xxl'] } }

/** Channels of the latent images that VAEs of each family decode. */
const latentChannels: Readonly<Record<string, number>> = { sd: 4, flux1: 16, flux2: 32, wan: 16 }

/**
 * Why a file can't be a part of a model; undefined when it can.
 * @param place the engine's name of it, `t5xxl` or `vae`.
 * @param whole the architecture of the model.
 */
export function mismatchReason (
  place: string, { architecture, summary }: { architecture: string | null, summary?: Summary }, whole: string | null
): string | undefined {
  if (place === 'vae') return vaeMismatch(architecture, summary?.latent_channels, whole)
  const fitting = kindsOf[String(whole)]?.[place] ?? kinds[place]
  if (fitting === undefined || architecture === null || fitting.includes(architecture)) return undefined
  return `is ${architecture}; this needs ${fitting.join(' or ')}.`
}

function vaeMismatch (
  family: string | null, channels: number | undefined, whole: string | null
): string | undefined {
  const needed = architectureOf(whole)?.vae
  if (needed === undefined) return undefined
  const expected = latentChannels[needed]
  const came = channels === undefined ? family : `${family ?? 'a VAE'} of ${channels} latent channels`
  const isOther = family !== null && family !== needed
  if (!isOther && (channels === undefined || channels === expected)) return undefined
  return `is ${came}; ${whole} needs a VAE like that of ${needed}, with ${expected} channels.`
}
