/** Tells whether what something was made from is still as it was. */
export interface Versioned {
  /** Another value than before when anything changed since. */
  readonly version: unknown
}

/** What is made once and then remembered until what it was made from changes. */
export class Remembered<Value> {
  readonly #source: Versioned | undefined
  readonly #capacity: number
  readonly #values = new Map<string, Value>()
  #version: unknown

  /**
   * @param source without one nothing is remembered
   * @param capacity values that are kept; one more and it begins anew
   */
  constructor (source: Versioned | undefined, capacity: number) {
    this.#source = source
    this.#capacity = capacity
  }

  /** The value of `key`. That there is none is not remembered, or strangers could fill the memory with guesses. */
  get (key: string, make: (key: string) => Value | undefined): Value | undefined {
    if (this.#source === undefined) return make(key)
    // Asked before the value is made: what changes in between makes the value a new one, and is noticed the next time.
    const { version } = this.#source
    if (version !== this.#version) this.#values.clear()
    this.#version = version
    const known = this.#values.get(key)
    if (known !== undefined) return known
    const value = make(key)
    if (value === undefined) return undefined
    if (this.#values.size >= this.#capacity) this.#values.clear()
    this.#values.set(key, value)
    return value
  }
}
