import { writeFile } from 'node:fs'
import { setPriority } from 'node:os'

interface Manners {
  /** 0…19: the server has to answer while the process takes what is left of the processor. */
  niceness: number
  /** Of −1000…1000: when memory is short, Linux ends the process with the highest. */
  outOfMemoryScore: number
}

/** The process may be gone already, and containers may forbid it: it works all the same. */
export function leaveToServer (pid: number, { niceness, outOfMemoryScore }: Manners): void {
  try {
    setPriority(pid, niceness)
  } catch {
    // see above
  }
  if (process.platform === 'linux') writeFile(`/proc/${pid}/oom_score_adj`, String(outOfMemoryScore), () => {})
}
