import { writeFile } from 'node:fs'
import { setPriority } from 'node:os'

interface Priority {
  /** 0…19; the server must be able to answer while the process computes. */
  niceness: number
  /** −1000…1000; when memory is short, Linux kills the process with the highest score. */
  outOfMemoryScore: number
}

/** Fails silently when the process has ended, or a container forbids it. */
export function lowerPriority (pid: number, { niceness, outOfMemoryScore }: Priority): void {
  try {
    setPriority(pid, niceness)
  } catch {
    // as the comment above says
  }
  if (process.platform === 'linux') writeFile(`/proc/${pid}/oom_score_adj`, String(outOfMemoryScore), () => {})
}
