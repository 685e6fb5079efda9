import { apiError, CommandError, exitCodes, type ApiError } from '../../errors.ts'
import type { ModelCatalog } from '../models/catalog.ts'
import { quoted } from '../util/text.ts'

/** Characters of a name that a client may say. */
const longestName = 128
/** Stands for every name that has no model. */
const anyName = '*'

/** The names of `--model-alias`, for clients that ask for models of other servers. */
export class ModelAliases {
  readonly #models = new Map<string, string>()

  /** @throws {CommandError} (usage) for an entry that is not NAME=MODEL, or a name with two models */
  constructor (entries: readonly string[]) {
    for (const entry of entries) {
      const [, name = '', model = ''] = /^([^=]*)=(.*)$/s.exec(entry) ?? []
      const [alias, target] = [name.trim(), model.trim()]
      if (alias === '' || target === '' || alias.length > longestName) {
        throw new CommandError(exitCodes.usage, 'Expected NAME=MODEL with a name of 1 to ' +
          `${longestName} characters for --model-alias but received ${quoted(entry, 120)}`)
      }
      const other = this.#models.get(alias) ?? target
      if (other !== target) {
        throw new CommandError(exitCodes.usage,
          `Expected one model for the name ${quoted(alias)} of --model-alias but received ${quoted(other)} and ` +
          quoted(target))
      }
      this.#models.set(alias, target)
    }
  }

  /** The names, without `*`, and the models that they stand for. */
  get all (): Array<{ name: string, model: string }> {
    return [...this.#models].filter(([name]) => name !== anyName).map(([name, model]) => ({ name, model }))
  }

  /** Every model that a name stands for, that of `*` included. */
  get targets (): string[] {
    return [...new Set(this.#models.values())]
  }

  /**
   * The model to look for when a client asks for `name`.
   * @param isModel whether there is a model of this name: an alias goes before it, `*` does not.
   */
  modelFor (name: string, isModel: (name: string) => boolean): string {
    const alias = this.#models.get(name)
    if (alias !== undefined && name !== anyName) return alias
    const rest = this.#models.get(anyName)
    return rest === undefined || isModel(name) ? name : rest
  }

  /**
   * What to ask the catalog for when a client asks for `name`.
   * @throws {ApiError} SDR_MODEL_NOT_FOUND, with advice that names the option
   */
  resolve (name: string, catalog: Pick<ModelCatalog, 'find'>): string {
    const model = this.modelFor(name, name => errorOf(name, catalog)?.code !== 'SDR_MODEL_NOT_FOUND')
    const error = errorOf(model, catalog)
    if (error?.code !== 'SDR_MODEL_NOT_FOUND') return model
    const advice = model === name ? ' --model-alias can give this name a model.' : ''
    throw apiError('SDR_MODEL_NOT_FOUND', `${error.message}${advice}`, {
      details: { ...error.details as object, field: 'model' }, cause: error
    })
  }
}

function errorOf (name: string, catalog: Pick<ModelCatalog, 'find'>): ApiError | undefined {
  try {
    catalog.find(name)
    return undefined
  } catch (error) {
    return error as ApiError
  }
}
