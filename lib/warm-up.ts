import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

/*
 * V8 keeps the shapes of objects weakly. Where code has met a shape a few times only, and it is collected while no object has
 * it, V8 (seen in 11.3, Node.js 20) makes a new shape each time from then on, which takes many times as long.
 */

/** Has `process.nextTick` compiled, which is safe from that; a request takes six ticks, a microsecond together when they are slow. */
export async function compileTicks (): Promise<void> {
  let left = 10_000 // two milliseconds
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
