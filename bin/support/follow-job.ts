import type { ApiClient } from './client.ts'
import type { Job, JobProgress } from '../../lib/jobs/job.ts'
import { ProgressBar } from './progress-bar.ts'

/** Follows a job to its end with a progress bar. */
export async function followJob (client: ApiClient, job: Job): Promise<Job> {
  const bar = new ProgressBar()
  let finished = job
  for await (const { name, data } of client.follow(job.id)) {
    if (name === 'progress') {
      const { phase, step, steps, eta_seconds: eta } = data as JobProgress
      bar.update(
        `${phase}${steps > 0 ? ` ${step}/${steps}` : ''}${eta === null ? '' : `, ${Math.ceil(eta)} s to go`}`,
        steps > 0 ? step / steps : 0)
    } else if (name === 'state') {
      const { status, position } = data as Job
      bar.update(position === null ? status : `${status} at place ${position}`, 0)
    } else if (name === 'done') {
      finished = data as Job
    }
  }
  bar.clear()
  return finished
}
