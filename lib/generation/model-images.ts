import type { Model } from '../models/model.ts'
import type { Uploads } from './request.ts'

/** They have no autoencoder, and draw as if there were no image. */
const drawFromTextAlone = ['minit2i']

/** Architectures that take no reference images, but for those variants of them that edit. */
const withoutReferences = ['sd1', 'sd2', 'sdxl', 'sdxs', 'sd3', 'minit2i']
const editing = 'pix2pix'

/** Architectures that an IP-Adapter, or PhotoMaker, was made for. */
const withIpAdapter = ['sd1', 'sdxl']
const withPhotoMaker = ['sdxl']

/** Which images a request has; what they are is of no matter here. */
export type GivenImages = Readonly<Partial<Record<keyof Uploads, unknown>>>

interface Objection {
  field: string
  /** A sentence. */
  reason: string
}

/** Why a model can't draw with these images: the library would draw without them in silence. */
export function objectionToImages (images: GivenImages, model: Model): Objection | undefined {
  for (const [field, objection] of Object.entries(objections)) {
    const reason = images[field as keyof Uploads] === undefined ? undefined : objection(model)
    if (reason !== undefined) return { field, reason }
  }
}

const objections: Partial<Record<keyof Uploads, (model: Model) => string | undefined>> = {
  init_image: textAlone,
  control_image: textAlone,
  ref_images: ({ id, architecture, summary }) => {
    if (summary?.variant === editing || !withoutReferences.includes(String(architecture))) return undefined
    return `${id} takes no reference images; models that edit images do, like FLUX.1 Kontext.`
  },
  ip_adapter_image: model => otherThan(withIpAdapter, model),
  photo_maker_images: model => otherThan(withPhotoMaker, model)
}

function textAlone ({ id, architecture }: Model): string | undefined {
  return drawFromTextAlone.includes(String(architecture)) ? `${id} draws from a text alone.` : undefined
}

function otherThan (known: readonly string[], { id, architecture }: Model): string | undefined {
  if (architecture === null || known.includes(architecture)) return undefined
  return `${id} is ${architecture}; this takes ${known.join(' or ')}.`
}
