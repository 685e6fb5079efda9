import fp from 'fastify-plugin'

declare module 'fastify' {
  interface FastifyInstance {
    /** Cancels the jobs of accounts that are disabled or removed. */
    cancelJobsOfGone: () => Promise<void>
  }
}

/** Milliseconds between two looks: the command line, which changes accounts as well, can't cancel jobs. */
const interval = 5000

/**
 * A disabled or removed account gets no more work out of the engines: its waiting and running jobs are cancelled. Jobs
 * of owners that the accounts here do not know stay: of the operator, the guest and those of another --auth-data-dir.
 */
export default fp(async (app) => {
  app.decorate('cancelJobsOfGone', async () => {
    try {
      await app.jobs.cancelAllOf(owner => app.store.accounts.isGone(owner))
    } catch (err) {
      app.log.warn({ err }, 'Jobs of disabled or removed accounts cannot be cancelled now; the next try is soon')
    }
  })

  let timer: NodeJS.Timeout | undefined
  let isClosing = false
  async function keepLooking (): Promise<void> {
    await app.cancelJobsOfGone()
    if (!isClosing) timer = setTimeout(keepLooking, interval).unref()
  }
  app.addHook('onReady', async () => { keepLooking() })
  app.addHook('preClose', async () => {
    isClosing = true
    clearTimeout(timer)
  })
}, { name: 'gone-owners', dependencies: ['store', 'jobs'] })
