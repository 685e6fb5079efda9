/** Runs `work` for every item, at most `width` at a time. The first failure ends it and is thrown. */
export async function forEachLimited<Item> (
  items: readonly Item[], width: number, work: (item: Item) => Promise<void>
): Promise<void> {
  let next = 0
  async function run (): Promise<void> {
    while (next < items.length) await work(items[next++]!)
  }
  await Promise.all(Array.from({ length: Math.min(width, items.length) }, run))
}

/** Lets the event loop turn when parsing has held it for a while. */
export class Pacer {
  #turn = performance.now()

  async pause (): Promise<void> {
    if (performance.now() - this.#turn < 8) return
    await new Promise(resolve => { setImmediate(resolve) })
    this.#turn = performance.now()
  }
}
