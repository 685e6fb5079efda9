import type { FastifyInstance } from 'fastify'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Options } from '../../lib/options/options.ts'

/**
 * Builds what the server would be, and takes it down again. The real data folder may be in use by a running server, and
 * looking must leave no trace in it.
 */
export async function withThrowawayApp (options: Options, work: (app: FastifyInstance) => void): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'stable-diffusion-rest-'))
  try {
    const { buildApp } = await import('../../app.ts')
    const app = await buildApp(Object.freeze({ ...options, dataDir: folder, authDataDir: undefined }))
    try {
      await app.ready()
      work(app)
    } finally {
      await app.close()
    }
  } finally {
    rmSync(folder, { recursive: true })
  }
}
