import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

/*
 * V8 keeps the shapes of objects weakly. Where code has met a shape a few times only, and it is collected while no
 * object has it, V8 makes a new shape each time from then on, which takes many times as long. Seen in 11.3, 12.4 and
 * 13.6, which are in Node.js 20, 22 and 24: after a few hundred ticks and a collection a tick took 195, 250 and 250 ns;
 * compiled before, 28, 28 and 67.
 */

/** Has `process.nextTick` compiled, which is safe from that; a request takes six ticks, 1 µs in all when slow. */
export async function compileTicks (): Promise<void> {
  let left = 10_000 // some ten milliseconds; Node.js 24 needs them, for 20 and 22 fewer would do
  await new Promise<void>(resolve => {
    const tick = () => { if (left-- > 0) process.nextTick(tick); else resolve() }
    tick()
  })
}

/** Collects what starting left behind, before the first requests show the shapes of theirs. */
export function collectGarbage (): void {
  setFlagsFromString('--expose-gc') // for new contexts
  const collect = runInNewContext('gc') as () => void
  setFlagsFromString('--no-expose-gc')
  collect()
}
