import { Type } from 'typebox'
import type { EngineInfo } from '../engine/engine.ts'
import type { Options } from '../options.ts'

/** Bounds that the operator sets; they end up in the schemas, so a refusal names them. */
export type Limits = Pick<Options, 'maxWidth' | 'maxHeight' | 'maxSteps' | 'maxBatch'>

/** Seeds that every engine takes. */
export const maximumSeed = 2 ** 31 - 1

/** Smallest side in pixels that any supported model draws. */
const smallestSide = 64

/**
 * Everything that an image request can say, by name. The schemas of the routes, `GET /api/parameters` and the OpenAPI
 * document are all made from this; samplers and schedulers are those of the running engine.
 */
export function requestParameters (limits: Limits, engine: EngineInfo) {
  const side = (maximum: number, what: string) => Type.Integer({
    minimum: smallestSide, maximum, multipleOf: 8, description: `${what} in pixels, a multiple of 8; the model's own when absent`, examples: [512]
  })
  const choice = (names: readonly string[], description: string) => Type.Unsafe<string>({ type: 'string', enum: [...names], description })

  return {
    prompt: Type.String({ minLength: 1, maxLength: 20_000, description: 'What to draw', examples: ['a red fox in the snow'] }),
    negative_prompt: Type.String({ maxLength: 20_000, default: '', description: 'What not to draw' }),
    model: Type.String({ minLength: 1, maxLength: 512, description: 'Id or name of the model; the loaded one, else the first, when absent' }),
    width: side(limits.maxWidth, 'Width'),
    height: side(limits.maxHeight, 'Height'),
    steps: Type.Integer({ minimum: 1, maximum: limits.maxSteps, description: "Sampling steps; the model's own when absent", examples: [20] }),
    cfg_scale: Type.Number({ minimum: 0, maximum: 100, description: "How strictly the prompt is followed; the model's own when absent", examples: [7] }),
    guidance: Type.Number({ minimum: 0, maximum: 100, description: 'Distilled guidance of FLUX-like models', examples: [3.5] }),
    seed: Type.Integer({ minimum: -1, maximum: maximumSeed, default: -1, description: 'Same seed, same image; −1 or absent lets the server choose. Image n of a batch has seed + n' }),
    sampler: choice(engine.samplers, "Sampling method; the model's own when absent"),
    scheduler: choice(engine.schedulers, "Noise schedule; the model's own when absent"),
    eta: Type.Number({ minimum: 0, maximum: 10, description: 'Noise that samplers with such a parameter add' }),
    batch_count: Type.Integer({ minimum: 1, maximum: limits.maxBatch, default: 1, description: 'How many images' }),
    clip_skip: Type.Integer({ minimum: 1, maximum: 12, description: "Layers of CLIP to leave out, counted from the last; the model's own when absent" })
  }
}

export type RequestParameters = ReturnType<typeof requestParameters>
